/** What a guest asked of its disk, when, and how long each answer took: seen between the NBD server and the disk. */
import type { BlockReader, BorrowedViews } from '../src/block/block-device.ts'
import type { Extent, Range } from '../src/core/range.ts'
import type { AbortOptions } from '../src/core/scope.ts'

export interface DiskRequest {
  readonly offset: number
  readonly length: number
  /** Milliseconds since the disk was served. */
  readonly startMs: number
  readonly endMs: number
}

export interface Stalls {
  /** Of each read that memory did not answer, all added up: reads that wait side by side count each. Seconds. */
  readonly sum: number
  /** Time in which at least one read waited. Seconds. */
  readonly waited: number
  readonly reads: number
}

export class RequestLog {
  readonly requests: DiskRequest[] = []
  readonly #began = performance.now()

  get nowMs(): number {
    return performance.now() - this.#began
  }

  /** The same device, whose reads are noted here. */
  watched(device: BlockReader): BlockReader {
    const noted = (offset: number, length: number, startMs: number, endMs: number) =>
      this.requests.push({ offset, length, startMs, endMs })
    return {
      size: device.size,
      blockSize: device.blockSize,
      readInto: async (target: Uint8Array, offset: number, options?: AbortOptions) => {
        const startMs = this.nowMs
        await device.readInto(target, offset, options)
        noted(offset, target.length, startMs, this.nowMs)
      },
      borrow: (offset: number, length: number): BorrowedViews | undefined => {
        const borrowed = device.borrow?.(offset, length)
        const { nowMs } = this
        if (borrowed) noted(offset, length, nowMs, nowMs)
        return borrowed
      },
      extents: (range: Range, options?: AbortOptions): AsyncIterable<Extent> => device.extents(range, options),
      [Symbol.asyncDispose]: () => device[Symbol.asyncDispose](),
    }
  }
}

export const bytesOf = (requests: readonly DiskRequest[]): number =>
  requests.reduce((bytes, { length }) => bytes + length, 0)

export function stallsOf(requests: readonly DiskRequest[]): Stalls {
  const waits = requests.filter(({ startMs, endMs }) => endMs > startMs).sort((a, b) => a.startMs - b.startMs)
  let sum = 0
  let waited = 0
  let reached = 0
  for (const { startMs, endMs } of waits) {
    sum += endMs - startMs
    waited += Math.max(0, endMs - Math.max(reached, startMs))
    reached = Math.max(reached, endMs)
  }
  return { sum: sum / 1000, waited: waited / 1000, reads: waits.length }
}
