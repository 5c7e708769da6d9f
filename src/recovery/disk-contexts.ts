/** What clients may ask of an exported disk beside where its data lies: what was written to it, and what differs from older points of its VM. */
import { markedExtents } from '../block/marked-extents.ts'
import { abortable } from '../core/abortable.ts'
import type { PointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { mergeRanges, type Range, rangeEnd } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ExportedContext } from './exporter.ts'

/** Points of the VM that differences can be asked to. */
export interface OlderPoints {
  readonly points: readonly PointId[]
  /** Where the disk differs between two points, in rising order; more is allowed, less is not. Asked when a client asks, and not before. */
  readonly changedSince: (
    older: PointId,
    newer: PointId,
    disk: string,
    options?: AbortOptions,
  ) => Promise<readonly Range[]>
}

export interface ContextSource {
  readonly disk: string
  /** The point below, which may be replaced by another while the export lives. */
  readonly point: () => PointId
  readonly older?: OlderPoints
  /** What clients have written above the point, in rising order. */
  readonly written?: (range: Range) => Iterable<Range>
}

export const WRITTEN_CONTEXT = 'qemu:dirty-bitmap:written'
/** A namespace of our own; the leaf is followed by the point's id. */
export const CHANGED_SINCE = 'x-lifeboat:changed-since:'
/** Differences that one disk remembers: at most 2^20 ranges each, mostly some thousand. */
const DIFFERENCES_KEPT = 4

/** `signal` is that of the export: a difference is worked out for everybody who asks for it. */
export function diskContexts(source: ContextSource, { signal }: AbortOptions): readonly ExportedContext[] {
  const { disk, older, written } = source
  const differences = new Map<string, Promise<readonly Range[]>>()
  const difference = (since: PointId, newer: PointId): Promise<readonly Range[]> => {
    const key = `${since} ${newer}`
    const known = differences.get(key)
    if (known) return known
    const fresh = older!.changedSince(since, newer, disk, { signal }).then(few)
    differences.set(key, fresh)
    // A failure is told to those who wait, and the next one tries again.
    fresh.catch(() => differences.delete(key))
    for (const oldest of [...differences.keys()].slice(0, -DIFFERENCES_KEPT)) differences.delete(oldest)
    return fresh
  }
  const sinceContext = (since: PointId): ExportedContext => ({
    name: CHANGED_SINCE + since,
    listedAs: CHANGED_SINCE,
    async *extents(range, options = {}) {
      const below = from(await abortable(difference(since, source.point()), options), range.offset)
      yield* markedExtents(range, written ? both(below, written(range), range) : below)
    },
  })
  return [...(written ? [writtenContext(written)] : []), ...(older?.points ?? []).map(sinceContext)]
}

const writtenContext = (written: (range: Range) => Iterable<Range>): ExportedContext => ({
  name: WRITTEN_CONTEXT,
  extents: range => markedExtents(range, written(range)),
})

/** What a client wrote has changed as well. */
const both = (below: Iterable<Range>, above: Iterable<Range>, range: Range): readonly Range[] => {
  const within: Range[] = [...above]
  for (const part of below) {
    if (part.offset >= rangeEnd(range)) break
    within.push(part)
  }
  return mergeRanges(within)
}

/** Gaps are swallowed until few enough are left: more than has changed, never less. */
function few(ranges: readonly Range[]): readonly Range[] {
  let merged = ranges
  for (let gap: number = limits.bitmapGranularity; merged.length > limits.changeRangesMax; gap *= 2)
    merged = mergeRanges(merged, gap)
  return merged
}

/** Those that end after `offset`, found by halving: a client goes through a disk in many steps. */
function* from(ranges: readonly Range[], offset: number): Generator<Range> {
  let low = 0
  let high = ranges.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (rangeEnd(ranges[middle]!) > offset) high = middle
    else low = middle + 1
  }
  for (let i = low; i < ranges.length; i++) yield ranges[i]!
}
