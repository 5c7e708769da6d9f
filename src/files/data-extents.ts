/** The contents of a file as the pieces that have to be read: what an untrusted tree says of its holes is checked on the way. */
import type { BlockReader } from '../block/block-device.ts'
import { LifeboatError } from '../core/errors.ts'
import type { Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'

/** Data in order, neighbours joined; the rest are holes. Throws 'guest-filesystem' where the extents do not cover the file. */
export async function* dataExtents(reader: BlockReader, { signal }: AbortOptions): AsyncGenerator<Range> {
  let data: { offset: number; length: number } | undefined
  let at = 0
  if (reader.size === 0) return
  for await (const extent of reader.extents({ offset: 0, length: reader.size }, { signal })) {
    if (extent.offset !== at || !(extent.length > 0) || at + extent.length > reader.size) throw overlapping()
    at += extent.length
    if (extent.kind === 'data' && data !== undefined) data.length += extent.length
    else if (extent.kind === 'data') data = { offset: extent.offset, length: extent.length }
    else if (data !== undefined) {
      yield data
      data = undefined
    }
  }
  if (at !== reader.size) throw overlapping()
  if (data !== undefined) yield data
}

/** Of at most `length` bytes each. */
export async function* piecesOf(ranges: AsyncIterable<Range> | Iterable<Range>, length: number): AsyncGenerator<Range> {
  for await (const range of ranges)
    for (let at = 0; at < range.length; at += length)
      yield { offset: range.offset + at, length: Math.min(length, range.length - at) }
}

const overlapping = (): LifeboatError =>
  new LifeboatError('guest-filesystem', "the file's extents do not cover it", {
    hint: 'The filesystem may be damaged: check it in the guest, or restore from another point.',
  })
