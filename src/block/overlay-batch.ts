/** Writes of whole blocks that go out together: one call for their blocks, one record that names them. */
import type { BlockBatch } from './overlay-files.ts'
import * as F from './overlay-format.ts'
import type { Journal } from './overlay-journal.ts'
import type { DiskMap } from './overlay-map.ts'
import { putBlock } from './overlay-pages.ts'
import type { SlotRun, SlotSpace } from './overlay-space.ts'

/** Whole blocks and where they go. */
export interface BlocksWrite {
  readonly disk: DiskMap
  readonly block: number
  readonly count: number
  readonly source: Uint8Array
}

export interface PlannedBatch extends BlockBatch {
  /** The record's body as words: places, then locations, then checks. */
  readonly words: Uint32Array
}

export const recordBytes = (blocks: number): number => F.RECORD_HEAD + 16 * blocks

export function blocksOf(writes: readonly BlocksWrite[]): number {
  let count = 0
  for (const write of writes) count += write.count
  return count
}

/** The slots of `runs`, in order, become those of the writes' blocks. */
export function planBatch(
  writes: readonly BlocksWrite[],
  runs: readonly SlotRun[],
  count: number,
  sequence: number,
  journal: Journal,
): PlannedBatch {
  const record = F.newRecord(F.KIND_BLOCKS, sequence, count, 16 * count)
  const words = new Uint32Array(record.buffer, F.RECORD_HEAD, 4 * count)
  const parts: Uint8Array[] = []
  const positions: number[] = []
  let run = 0
  let slot = runs[0]!.first
  let end = slot + runs[0]!.count
  let at = 0
  for (const { disk, block, count: blocks, source } of writes)
    for (let done = 0; done < blocks; ) {
      if (slot === end) {
        run++
        slot = runs[run]!.first
        end = slot + runs[run]!.count
      }
      const some = Math.min(end - slot, blocks - done)
      parts.push(some === blocks ? source : source.subarray(done * F.BLOCK, (done + some) * F.BLOCK))
      positions.push(slot * F.BLOCK)
      for (let n = 0; n < some; n++, at++) {
        putBlock(words, 2 * at, disk.index, block + done + n)
        words[2 * count + at] = slot + n + F.FIRST_SLOT
      }
      slot += some
      done += some
    }
  return {
    parts,
    positions: Float64Array.from(positions),
    checks: words.subarray(3 * count),
    log: journal.file,
    record,
    recordPosition: journal.position,
    words,
  }
}

/** The batch is written: the maps name its slots. The pages are in memory. */
export function applyBatch(writes: readonly BlocksWrite[], { words }: PlannedBatch, space: SlotSpace): void {
  const total = words.length / 4
  let at = 2 * total
  for (const { disk, block, count } of writes)
    for (let done = 0; done < count; done++, at++) {
      const former = disk.set(block + done, words[at]!, words[at + total]!)
      if (former >= F.FIRST_SLOT) space.free(former - F.FIRST_SLOT)
    }
}

export function pagesAreThere({ disk, block, count }: BlocksWrite): boolean {
  const last = Math.floor((block + count - 1) / F.PAGE_BLOCKS)
  for (let page = Math.floor(block / F.PAGE_BLOCKS); page <= last; page++)
    if (disk.page(page) === undefined) return false
  return true
}

export function pagesOf({ block, count }: BlocksWrite): number[] {
  const first = Math.floor(block / F.PAGE_BLOCKS)
  const last = Math.floor((block + count - 1) / F.PAGE_BLOCKS)
  return Array.from({ length: last - first + 1 }, (_, n) => first + n)
}
