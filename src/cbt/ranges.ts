/** What a bitmap's block status says, as ranges. */
import { limits } from '../core/limits.ts'
import { mergeRanges, type Range, rangeEnd, type StatusExtent } from '../core/range.ts'

/** Bit 0 of an extent of `qemu:dirty-bitmap:*`: written since. */
const DIRTY = 1

/**
 * Dirty extents joined, in order; undefined where the extents do not cover `range` one after the other: what lies between them
 * would be taken for clean. When they grow too many to hold, small gaps are swallowed: the result stays a superset.
 */
export async function dirtyRanges(
  extents: AsyncIterable<StatusExtent>,
  range: Range,
  countMax: number = limits.changeRangesMax,
): Promise<Range[] | undefined> {
  let ranges: { offset: number; length: number }[] = []
  let gap = 0
  let at = range.offset
  for await (const { offset, length, flags } of extents) {
    if (offset !== at || length <= 0) return undefined
    at += length
    if ((flags & DIRTY) === 0) continue
    const last = ranges.at(-1)
    if (last && offset <= rangeEnd(last) + gap) last.length = offset + length - last.offset
    else ranges.push({ offset, length })
    while (ranges.length > countMax) {
      gap = Math.max(limits.bitmapGranularity, gap * 2)
      ranges = mergeRanges(ranges, gap)
    }
  }
  return at === rangeEnd(range) ? ranges : undefined
}
