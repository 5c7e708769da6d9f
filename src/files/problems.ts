/** What did not come out as it was, each with its path and the reason: the difference between done and partly done. */
import { type ErrorCode, isIntegrityError, isLifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'

/**
 * refused: it is not there, because it is unsafe or the target cannot hold it. unreadable: it is not there, or ends in zeros where
 * `reason` says so, because its tree could not give it. left-out: what nobody asked for (devices, setuid). not-set: it is there,
 * and something about it is not as it was.
 */
export type ProblemKind = 'refused' | 'unreadable' | 'left-out' | 'not-set'

export interface Problem {
  /** Below the target, as the tree calls it. */
  readonly path: string
  readonly kind: ProblemKind
  readonly reason: string
  /** Of the error, where there was one: 'corrupt-object', 'guest-filesystem'. */
  readonly code?: ErrorCode
}

/** `first` are the first of `count`. */
export interface Problems {
  readonly first: readonly Problem[]
  readonly count: number
}

export interface ProblemList extends Problems {
  add(path: readonly string[], kind: ProblemKind, reason: string, code?: ErrorCode): void
}

export function problemList(): ProblemList {
  const first: Problem[] = []
  let count = 0
  return {
    first,
    get count() {
      return count
    },
    add(path, kind, reason, code) {
      count += 1
      if (first.length < limits.fileProblemsListed)
        first.push({ path: path.join('/').slice(0, 4096), kind, reason, ...(code === undefined ? {} : { code }) })
    },
  }
}

/** Damage that harms one file of a tree and not the next. Anything else (a store that is away) ends the work. */
export const isOfOneFile = (error: unknown): boolean =>
  isIntegrityError(error) || isLifeboatError(error, 'guest-filesystem') || isLifeboatError(error, 'no-such-file')
