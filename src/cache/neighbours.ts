/**
 * Whether to fetch what lies behind a chunk that was missed, where no stream has begun: a guest that boots comes back for about
 * half of it, one that reads at random for none. So it costs credit, and chunks that are come back for give credit, also
 * those that were not fetched for want of it. Pure state, no I/O.
 */
import { limits } from '../core/limits.ts'

export class Neighbours {
  /** Chunks behind misses, asked for or not, that nobody has come for yet; the oldest first. */
  readonly #foreseen = new Set<number>()
  #credit: number = limits.neighbourCredit
  readonly #count: number

  /** `count`: chunks behind each one that is missed. */
  constructor(count: number) {
    this.#count = count
  }

  /** Chunks [first, end) are read. */
  touched(first: number, end: number): void {
    if (this.#foreseen.size === 0) return
    for (let chunk = first; chunk < end; chunk++)
      if (this.#foreseen.delete(chunk))
        this.#credit = Math.min(limits.neighbourCredit, this.#credit + limits.neighbourWorth)
  }

  /** Chunks before `end` were missed: how many of those behind to fetch, at most `most`. */
  behind(end: number, most: number): number {
    const count = Math.min(this.#count, most)
    for (let chunk = end; chunk < end + count; chunk++) this.#foreseen.add(chunk)
    for (const oldest of this.#foreseen) {
      if (this.#foreseen.size <= limits.neighboursForeseen) break
      this.#foreseen.delete(oldest)
    }
    if (count < 1 || this.#credit < count) return 0
    this.#credit -= count
    return count
  }
}
