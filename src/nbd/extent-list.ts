/** What a device says about the range of a READ: what is data and what is a hole. */
import type { BlockReader } from '../block/block-device.ts'
import { LifeboatError } from '../core/errors.ts'
import type { Extent, Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'

/**
 * The extents of `range` from its start, neighbours of one kind joined, at most `countMax`: they may then cover less of the
 * range, never nothing. A device that leaves gaps or goes backwards fails the call.
 */
export async function joinedExtents(
  device: BlockReader,
  range: Range,
  countMax: number,
  options: AbortOptions,
): Promise<Extent[]> {
  const joined: { offset: number; length: number; kind: Extent['kind'] }[] = []
  const end = range.offset + range.length
  let at = range.offset
  for await (const extent of device.extents(range, options)) {
    if (extent.offset !== at || extent.length <= 0)
      throw new LifeboatError('internal', 'extents do not follow each other')
    const last = joined.at(-1)
    const length = Math.min(extent.length, end - at)
    if (last?.kind === extent.kind) last.length += length
    else if (joined.length === countMax) break
    else joined.push({ offset: at, length, kind: extent.kind })
    at += length
    if (at === end) break
  }
  if (joined.length === 0) throw new LifeboatError('internal', 'no extents')
  return joined
}
