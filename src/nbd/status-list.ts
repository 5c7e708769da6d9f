/** The descriptors of a BLOCK_STATUS reply, encoded as they come: 16 bytes each, whatever the context makes of them before. */
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type Range, rangeEnd, type StatusExtent } from '../core/range.ts'
import { putU32, putU64 } from './wire.ts'

/** Bytes that one context's list may take, for the budget: no extent is shorter than a sector on the whole. */
export const statusCost = (length: number): number =>
  16 * Math.min(limits.nbdExtentsMax, Math.max(4, Math.ceil(length / 512)))

/**
 * One chunk's payload: the extents of `range` from its start, neighbours of one state joined, at most `countMax`: they may
 * then cover less of the range, never nothing. A context that leaves gaps or goes backwards fails the call.
 */
export async function statusPayload(
  id: number,
  extents: AsyncIterable<StatusExtent>,
  range: Range,
  { countMax, extended }: { readonly countMax: number; readonly extended: boolean },
): Promise<Buffer> {
  const head = extended ? 8 : 4
  const unit = extended ? 16 : 8
  let bytes = Buffer.allocUnsafe(head + unit * Math.min(countMax, 16))
  let count = 0
  let length = 0
  let state = 0
  const put = () => {
    const at = head + unit * count++
    if (at === bytes.length) bytes = Buffer.concat([bytes], head + unit * Math.min(countMax, 2 * count))
    if (extended) {
      putU64(bytes, at, length)
      putU64(bytes, at + 8, state)
    } else {
      putU32(bytes, at, length)
      putU32(bytes, at + 4, state)
    }
  }
  let at = range.offset
  const end = rangeEnd(range)
  for await (const extent of extents) {
    if (extent.offset !== at || extent.length <= 0)
      throw new LifeboatError('internal', 'extents do not follow each other')
    const part = Math.min(extent.length, end - at)
    at += part
    if (length > 0 && extent.flags === state) length += part
    else {
      if (length > 0) put()
      length = 0
      if (count === countMax) break
      length = part
      state = extent.flags
    }
    if (at === end) break
  }
  if (length > 0) put()
  if (count === 0) throw new LifeboatError('internal', 'no extents')
  putU32(bytes, 0, id)
  if (extended) putU32(bytes, 4, count)
  return bytes.subarray(0, head + unit * count)
}
