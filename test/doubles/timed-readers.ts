/** Readers of a disk at random places, by a clock: what they saw and how long each read took. */
import type { BlockReader } from '../../src/block/block-device.ts'
import type { Clock } from '../../src/core/clock.ts'
import { isLifeboatError } from '../../src/core/errors.ts'
import type { Random } from '../../src/core/random.ts'

export interface ReaderPlan {
  readonly image: BlockReader
  /** What the disk holds. */
  readonly expected: Uint8Array
  readonly clock: Clock
  readonly random: Random
  /** Reads in flight, and of each so many one after the other. */
  readonly depth: number
  readonly reads: number
  readonly length: number
  /** Between the reads of one. */
  readonly thinkMs?: number
}

export interface ReadersSaw {
  /** Of each read in the order of their ends. */
  readonly tookMs: number[]
  readonly failures: { readonly code: string; readonly atMs: number; readonly tookMs: number }[]
  wrong: number
}

export async function readAtRandom(plan: ReaderPlan): Promise<ReadersSaw> {
  const { image, expected, clock, random, depth, reads, length, thinkMs = 0 } = plan
  const saw: ReadersSaw = { tookMs: [], failures: [], wrong: 0 }
  const one = async () => {
    for (let n = 0; n < reads; n++) {
      const offset = (Buffer.from(random(4)).readUInt32BE(0) % (expected.length / length)) * length
      const target = new Uint8Array(length)
      const startedMs = clock.monotonicMs()
      const took = () => clock.monotonicMs() - startedMs
      try {
        await image.readInto(target, offset)
        saw.tookMs.push(took())
        if (Buffer.compare(target, expected.subarray(offset, offset + length)) !== 0) saw.wrong++
      } catch (error) {
        saw.failures.push({
          code: isLifeboatError(error) ? error.code : String(error),
          atMs: startedMs,
          tookMs: took(),
        })
      }
      if (thinkMs > 0) await clock.sleep(thinkMs)
    }
  }
  await Promise.all(Array.from({ length: depth }, one))
  return saw
}

export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}
