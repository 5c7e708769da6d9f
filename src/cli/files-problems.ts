/** What of a guest's files could not be told or read: each is named, and the command ends as partly done. */
import { type ErrorCode, isIntegrityCode, isLifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { ProblemKind, Problems } from '../files/problems.ts'
import { exitCode } from './exit-code.ts'
import { shownName } from './files-text.ts'
import type { Output } from './output.ts'

/** Lines for people: a hundred thousand files whose owner could not be set are not read one by one. */
const TOLD_MAX = 100

/** Before the reason, which says what it is about. */
const MEANT: Readonly<Record<ProblemKind, string>> = {
  refused: 'refused: ',
  unreadable: '',
  'left-out': 'left out: ',
  'not-set': 'not set: ',
}

export interface FileProblem {
  readonly path: string
  readonly reason: string
  readonly code?: ErrorCode
  /** Of a copy: what became of it. */
  readonly kind?: ProblemKind
}

export class FileProblems {
  readonly first: FileProblem[] = []
  #count = 0
  #harmed = false

  get count(): number {
    return this.#count
  }

  add(path: string, reason: string, error?: unknown): void {
    this.#add({ path, reason, ...(isLifeboatError(error) ? { code: error.code } : {}) })
  }

  #add(problem: FileProblem): void {
    this.#count += 1
    this.#harmed ||= problem.code !== undefined && isIntegrityCode(problem.code)
    if (this.first.length < limits.fileProblemsListed) this.first.push(problem)
  }

  /** Of a copy: those that it lists, and how many there are. */
  addAll({ first, count }: Problems): void {
    for (const problem of first) this.#add(problem)
    this.#count += count - first.length
  }

  /** Nothing where there are none. */
  get document(): object {
    return this.#count === 0 ? {} : { problems: this.first, problemCount: this.#count }
  }

  tell(output: Output): number {
    for (const { path, kind, reason } of this.first.slice(0, TOLD_MAX))
      output.warning(`${shownName(path)}: ${kind === undefined ? '' : MEANT[kind]}${reason}`)
    const rest = this.#count - TOLD_MAX
    if (rest > 0) output.warning(`and ${rest} more, which --json lists`)
    if (this.#count === 0) return exitCode.done
    return this.#harmed ? exitCode.integrity : exitCode.partly
  }
}
