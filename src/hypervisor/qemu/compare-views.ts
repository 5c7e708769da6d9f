/** Two views over NBD, compared: which ranges hold other bytes. Areas that both call zeros are not read. */
import { type Extent, intersect, mergeRanges, type Range, rangeEnd } from '../../core/range.ts'
import { type AbortOptions, forEachLimited } from '../../core/scope.ts'
import type { NbdReader } from '../nbd-reader.ts'

/** Bytes of one comparison, and how many are under way at once: 8 MiB in all. */
const PIECE = 1 << 20
const PIECES_IN_FLIGHT = 4

/** Ranges that differ, to `unit` bytes. The caller bounds how many matter: past `countMax` the search ends. */
export async function differingRanges(
  a: NbdReader,
  b: NbdReader,
  {
    unit,
    countMax,
    progress,
    signal,
  }: { unit: number; countMax: number; progress: (bytes: number) => void } & AbortOptions,
): Promise<readonly Range[]> {
  const found: Range[] = []
  // A target on a larger block device has more bytes, which are nobody's.
  const size = Math.min(a.size, b.size)
  await forEachLimited(
    pieces(a, b, size, progress, { signal }),
    PIECES_IN_FLIGHT,
    async ({ offset, length }, within) => {
      const [left, right] = [Buffer.allocUnsafe(length), Buffer.allocUnsafe(length)]
      await Promise.all([a.readInto(left, offset, { signal: within }), b.readInto(right, offset, { signal: within })])
      progress(length)
      if (left.equals(right)) return
      for (let at = 0; at < length && found.length < countMax; at += unit) {
        const end = Math.min(length, at + unit)
        if (left.compare(right, at, end, at, end) !== 0) found.push({ offset: offset + at, length: end - at })
      }
    },
    { signal },
  )
  return mergeRanges(found)
}

/** What at least one of the two calls data, in pieces; `passed` hears of what neither does. */
async function* pieces(
  a: NbdReader,
  b: NbdReader,
  size: number,
  passed: (bytes: number) => void,
  options: AbortOptions,
): AsyncGenerator<Range> {
  for (let offset = 0; offset < size; offset += WINDOW) {
    const window = { offset, length: Math.min(WINDOW, size - offset) }
    const data = mergeRanges([...(await dataIn(a, window, options)), ...(await dataIn(b, window, options))])
    let seen = 0
    for (const range of data) {
      seen += range.length
      for (let at = range.offset; at < rangeEnd(range); at += PIECE)
        yield { offset: at, length: Math.min(PIECE, rangeEnd(range) - at) }
    }
    passed(window.length - seen)
  }
}

/** One question for the extents of so many bytes. */
const WINDOW = 1 << 30

async function dataIn(view: NbdReader, window: Range, options: AbortOptions): Promise<Range[]> {
  const isData = ({ kind }: Extent) => kind === 'data'
  const extents: Range[] = []
  for await (const extent of view.extents(window, options)) {
    const inside = intersect(extent, window)
    if (inside && isData(extent)) extents.push(inside)
  }
  return extents
}
