/** Reads ranges of an image in rising order with a few reads ahead, from a fixed set of buffers. */
import type { BlockReader } from '../block/block-device.ts'
import { MiB } from '../core/limits.ts'
import { intersect, type Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'

/** `data` is lent until the consumer asks for the next segment. */
export type Segment =
  | (Range & { readonly kind: 'zero' })
  | (Range & { readonly kind: 'data'; readonly data: Uint8Array })

/** Four reads keep a hypervisor's NBD server and its disk busy: eight, or four of 1 MiB, were no faster and held 2 MiB more of the 95 that a capture may take. */
const SEGMENT_BYTES = MiB / 2
const READS_AHEAD = 4
const BYTES_AHEAD = 8 * MiB

/** `ranges` are aligned to `unit` but at the image's end; so are the segments. */
export async function* readSegments(
  image: BlockReader,
  ranges: Iterable<Range>,
  unit: number,
  options: AbortOptions,
): AsyncGenerator<Segment> {
  const segmentBytes = Math.max(SEGMENT_BYTES, unit)
  // Chunks of 4 MiB are read two at a time.
  const readsAhead = Math.min(READS_AHEAD, Math.max(2, Math.floor(BYTES_AHEAD / segmentBytes)))
  const ahead: { segment: Segment; ready: Promise<unknown>; buffer?: Uint8Array }[] = []
  const free: Uint8Array[] = []
  try {
    for await (const piece of pieces(image, ranges, unit, segmentBytes, options)) {
      if (piece.kind === 'zero') ahead.push({ segment: { ...piece, kind: 'zero' }, ready: Promise.resolve() })
      else {
        const buffer = free.pop() ?? new Uint8Array(segmentBytes)
        const data = buffer.subarray(0, piece.length)
        const ready = image.readInto(data, piece.offset, options)
        // Its failure is thrown in its turn; until then it must not count as unhandled.
        ready.catch(() => {})
        ahead.push({ segment: { ...piece, kind: 'data', data }, ready, buffer })
      }
      if (ahead.length >= readsAhead) yield* next()
    }
    while (ahead.length > 0) yield* next()
  } finally {
    // The buffers belong to the reads until these settle.
    await Promise.allSettled(ahead.map(({ ready }) => ready))
  }

  async function* next(): AsyncGenerator<Segment> {
    const first = ahead[0]
    if (!first) return
    await first.ready
    ahead.shift()
    yield first.segment
    if (first.buffer) free.push(first.buffer)
  }
}

/**
 * Cuts ranges into pieces of whole units that are all zeros, or hold data, of at most `most` bytes. A unit that is part
 * zero and part data is data.
 */
async function* pieces(
  image: BlockReader,
  ranges: Iterable<Range>,
  unit: number,
  most: number,
  options: AbortOptions,
): AsyncGenerator<Range & { kind: 'zero' | 'data' }> {
  for (const range of ranges) {
    let at = range.offset
    const end = range.offset + range.length
    for await (const extent of image.extents(range, options)) {
      const zero = extent.kind === 'zero' ? wholeUnits(extent, unit, image.size) : undefined
      const hole = zero && intersect(zero, { offset: at, length: end - at })
      if (!hole) continue
      yield* dataPieces(at, hole.offset, most)
      yield { ...hole, kind: 'zero' }
      at = hole.offset + hole.length
    }
    yield* dataPieces(at, end, most)
  }
}

function* dataPieces(from: number, to: number, most: number): Generator<Range & { kind: 'data' }> {
  for (let offset = from; offset < to; offset += most)
    yield { kind: 'data', offset, length: Math.min(most, to - offset) }
}

function wholeUnits(range: Range, unit: number, size: number): Range | undefined {
  const offset = Math.ceil(range.offset / unit) * unit
  const rawEnd = range.offset + range.length
  const end = rawEnd >= size ? size : rawEnd - (rawEnd % unit)
  return end > offset ? { offset, length: end - offset } : undefined
}
