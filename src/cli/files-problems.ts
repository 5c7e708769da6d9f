/** What of a guest's files could not be told or read: each is named, and the command ends as partly done. */
import { type ErrorCode, isIntegrityError, isLifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { exitCode } from './exit-code.ts'
import { shownName } from './files-text.ts'
import type { Output } from './output.ts'

export interface FileProblem {
  readonly path: string
  readonly reason: string
  readonly code?: ErrorCode
}

export class FileProblems {
  readonly first: FileProblem[] = []
  #count = 0
  #harmed = false

  get count(): number {
    return this.#count
  }

  add(path: string, reason: string, error?: unknown): void {
    this.#count += 1
    this.#harmed ||= isIntegrityError(error)
    if (this.first.length >= limits.fileProblemsListed) return
    this.first.push({ path, reason, ...(isLifeboatError(error) ? { code: error.code } : {}) })
  }

  /** Nothing where there are none. */
  get document(): object {
    return this.#count === 0 ? {} : { problems: this.first, problemCount: this.#count }
  }

  tell(output: Output): number {
    for (const { path, reason } of this.first) output.warning(`${shownName(path)}: ${reason}`)
    const rest = this.#count - this.first.length
    if (rest > 0) output.warning(`and ${rest} more`)
    if (this.#count === 0) return exitCode.done
    return this.#harmed ? exitCode.integrity : exitCode.partly
  }
}
