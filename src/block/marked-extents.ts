/** Ranges as a metadata context: the runs that they cover have flag 1, those between them have none. */
import { LifeboatError } from '../core/errors.ts'
import { intersect, type Range, rangeEnd, type StatusExtent } from '../core/range.ts'

/** Bit 0 of `qemu:dirty-bitmap:*`, and of every context that is made of ranges. */
const MARKED = 1

/** `marked` comes in rising order and may reach beyond `range`. A list that goes backwards fails: believed, it would leave something out. */
export async function* markedExtents(
  range: Range,
  marked: Iterable<Range> | AsyncIterable<Range>,
): AsyncGenerator<StatusExtent> {
  let at = range.offset
  let seen = 0
  for await (const mark of marked) {
    if (mark.offset >= rangeEnd(range)) break
    if (mark.offset < seen) throw new LifeboatError('internal', 'the ranges of a context are out of order')
    seen = rangeEnd(mark)
    const part = intersect(range, mark)
    if (part === undefined) continue
    if (part.offset > at) yield { offset: at, length: part.offset - at, flags: 0 }
    yield { ...part, flags: MARKED }
    at = rangeEnd(part)
  }
  if (at < rangeEnd(range)) yield { offset: at, length: rangeEnd(range) - at, flags: 0 }
}
