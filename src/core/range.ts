/** A byte range of an image or object. `number` is exact up to 2^53 - 1; 64-bit wire values are checked at the edge. */
export interface Range {
  readonly offset: number
  readonly length: number
}

/** A range with one property: stored bytes, or bytes known to read as zeros. */
export interface Extent extends Range {
  readonly kind: 'data' | 'zero'
}

/** A run of one state in a metadata context or bitmap; what the flags mean is the context's business. */
export interface StatusExtent extends Range {
  readonly flags: number
}

export const rangeEnd = (range: Range): number => range.offset + range.length

export function intersect(a: Range, b: Range): Range | undefined {
  const offset = Math.max(a.offset, b.offset)
  const length = Math.min(rangeEnd(a), rangeEnd(b)) - offset
  return length > 0 ? { offset, length } : undefined
}

/** Sorts and joins ranges that overlap or touch; a gap of up to `gap` bytes is swallowed. The result is a superset. */
export function mergeRanges(ranges: Iterable<Range>, gap = 0): Range[] {
  const sorted = [...ranges].filter(range => range.length > 0).sort((a, b) => a.offset - b.offset)
  const merged: { offset: number; length: number }[] = []
  for (const range of sorted) {
    const last = merged.at(-1)
    if (last && range.offset <= rangeEnd(last) + gap)
      last.length = Math.max(rangeEnd(last), rangeEnd(range)) - last.offset
    else merged.push({ offset: range.offset, length: range.length })
  }
  return merged
}

/** Widens each range to multiples of `unit` bytes, clipped to `size`, and merges them. */
export function alignRanges(ranges: Iterable<Range>, unit: number, size: number): Range[] {
  const aligned: Range[] = []
  for (const range of ranges) {
    const offset = range.offset - (range.offset % unit)
    const end = Math.min(size, Math.ceil(rangeEnd(range) / unit) * unit)
    aligned.push({ offset, length: end - offset })
  }
  return mergeRanges(aligned)
}

export const totalLength = (ranges: Iterable<Range>): number => {
  let total = 0
  for (const range of ranges) total += range.length
  return total
}
