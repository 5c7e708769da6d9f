/** A recovery point's disk as a BlockReader, without a cache: for restore and verify. */
import type { BlockReader } from '../block/block-device.ts'
import { type Extent, intersect, type Range, rangeEnd } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ChunkRef, ChunkSource, ChunkSpan } from './repository.ts'

/** Chunks whose places are asked for at once: 1 GiB at 64 KiB, some 60 KiB of references. */
const SPAN_WINDOW_CHUNKS = 16_384

/** The source stays the caller's: dispose does nothing. */
export function pointImage(source: ChunkSource): BlockReader {
  const { size, chunkSize } = source
  const refuseOutside = ({ offset, length }: Range) => {
    if (offset < 0 || length < 0 || offset + length > size)
      throw new RangeError(`bytes ${offset} to ${offset + length} of ${size}`)
  }
  return {
    size,
    blockSize: chunkSize,

    async readInto(target, offset, options = {}) {
      const wanted = { offset, length: target.length }
      refuseOutside(wanted)
      if (target.length === 0) return
      const { first, count } = chunksOf(wanted, chunkSize)
      const refs = source.locateNow(first, count) ?? (await source.locate(first, count, options))
      const chunksByRef = new Map<ChunkRef, number>()
      for (const [n, ref] of refs.entries())
        if (ref) chunksByRef.set(ref, first + n)
        else fillZeros(target, wanted, { offset: (first + n) * chunkSize, length: chunkSize })
      const deliver = (ref: ChunkRef, content: Uint8Array) => {
        const chunk = chunksByRef.get(ref)
        if (chunk === undefined) return
        const part = intersect(wanted, { offset: chunk * chunkSize, length: chunkSize })
        if (!part) return
        const from = part.offset - chunk * chunkSize
        target.set(content.subarray(from, from + part.length), part.offset - offset)
      }
      await source.fetch([...chunksByRef.keys()], deliver, options)
    },

    async *extents(range, options = {}) {
      refuseOutside(range)
      yield* joined(clippedExtents(source, range, options))
    },

    async [Symbol.asyncDispose]() {},
  }
}

function chunksOf({ offset, length }: Range, chunkSize: number): { first: number; count: number } {
  const first = Math.floor(offset / chunkSize)
  return { first, count: Math.ceil((offset + length) / chunkSize) - first }
}

function fillZeros(target: Uint8Array, wanted: Range, chunk: Range): void {
  const part = intersect(wanted, chunk)
  if (part) target.fill(0, part.offset - wanted.offset, rangeEnd(part) - wanted.offset)
}

async function* clippedExtents(source: ChunkSource, range: Range, options: AbortOptions): AsyncIterable<Extent> {
  const { chunkSize } = source
  const { first, count } = chunksOf(range, chunkSize)
  const spans = source.spans?.(first, count, options) ?? locatedSpans(source, first, count, options)
  for await (const span of spans) {
    const part = intersect(range, { offset: span.first * chunkSize, length: span.count * chunkSize })
    if (part) yield { ...part, kind: span.isPresent ? 'data' : 'zero' }
  }
}

async function* locatedSpans(
  source: ChunkSource,
  first: number,
  count: number,
  options: AbortOptions,
): AsyncIterable<ChunkSpan> {
  for (let at = first; at < first + count; at += SPAN_WINDOW_CHUNKS) {
    const window = Math.min(SPAN_WINDOW_CHUNKS, first + count - at)
    const refs = source.locateNow(at, window) ?? (await source.locate(at, window, options))
    for (const [n, ref] of refs.entries()) yield { first: at + n, count: 1, isPresent: ref !== undefined }
  }
}

async function* joined(extents: AsyncIterable<Extent>): AsyncIterable<Extent> {
  let open: Extent | undefined
  for await (const extent of extents)
    if (open && open.kind === extent.kind) open = { ...open, length: open.length + extent.length }
    else {
      if (open) yield open
      open = extent
    }
  if (open) yield open
}
