/**
 * Readers and writers of byte ranges, in the order in which they come: who overlaps somebody before him, and one of the two
 * writes, waits. Nobody who does not overlap waits, and then no promise is made.
 */
import type { Range } from '../core/range.ts'

interface Holder extends Range {
  readonly writes: boolean
  /** Called when it is gone, for each who waits for it. */
  readonly gone: (() => void)[]
}

export class RangeLock {
  readonly #holders = new Set<Holder>()

  /** Resolves, or returns at once, with what gives the range back. */
  take(offset: number, length: number, writes: boolean): (() => void) | Promise<() => void> {
    const holder: Holder = { offset, length, writes, gone: [] }
    const before: Holder[] = []
    for (const other of this.#holders) if (conflict(other, holder)) before.push(other)
    this.#holders.add(holder)
    const give = () => {
      this.#holders.delete(holder)
      for (const wake of holder.gone) wake()
    }
    if (before.length === 0) return give
    return new Promise(resolve => {
      let left = before.length
      for (const { gone } of before)
        gone.push(() => {
          if (--left === 0) resolve(give)
        })
    })
  }
}

const conflict = (a: Holder, b: Holder): boolean =>
  (a.writes || b.writes) && a.offset < b.offset + b.length && b.offset < a.offset + a.length
