/** Reading through a map: written blocks from their slots, each compared with its check, the rest from below. */
import { type Extent, type Range, rangeEnd } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { BlockReader } from './block-device.ts'
import type { OverlayFile } from './overlay-files.ts'
import { BELOW, BLOCK, FIRST_SLOT, overlayDamaged, PAGE_BLOCKS, ZERO } from './overlay-format.ts'
import type { DiskMap } from './overlay-map.ts'

export async function readMapped(
  map: DiskMap,
  data: OverlayFile,
  target: Uint8Array,
  offset: number,
  options: AbortOptions,
): Promise<void> {
  const end = offset + target.length
  const work: Promise<void>[] = []
  for (let at = offset; at < end; ) {
    const block = Math.floor(at / BLOCK)
    const until = Math.min(end, map.runEnd(block, Math.ceil(end / BLOCK)) * BLOCK)
    const part = target.subarray(at - offset, until - offset)
    work.push(map.isWritten(block) ? readWritten(map, data, part, at, options) : map.base.readInto(part, at, options))
    at = until
  }
  if (work.length === 1) return work[0]
  // Nobody else may touch the target before all have ended.
  const failed = (await Promise.allSettled(work)).find(result => result.status === 'rejected')
  if (failed !== undefined) throw failed.reason
}

/** One block of a read, or a part of it. */
interface Wanted {
  readonly block: number
  readonly location: number
  readonly check: number
  /** Where the whole block is read to. */
  readonly bytes: Uint8Array
  /** What of it is asked for, if that is not the whole block. */
  readonly part: { readonly from: number; readonly target: Uint8Array } | undefined
}

async function readWritten(
  map: DiskMap,
  data: OverlayFile,
  target: Uint8Array,
  offset: number,
  { signal }: AbortOptions,
): Promise<void> {
  const blocks: number[] = []
  for (let block = Math.floor(offset / BLOCK); block * BLOCK < offset + target.length; block++) blocks.push(block)
  let left = blocks
  while (left.length > 0) {
    signal?.throwIfAborted()
    await loadAll(map, left)
    const wanted: Wanted[] = []
    const below: number[] = []
    for (const block of left) {
      const from = Math.max(0, offset - block * BLOCK)
      const at = block * BLOCK + from - offset
      const part = target.subarray(at, Math.min(target.length, (block + 1) * BLOCK - offset))
      const location = map.locationOf(block)
      if (location === ZERO) part.fill(0)
      else if (location === BELOW) below.push(block)
      else {
        const whole = part.length === BLOCK
        const bytes = whole ? part : new Uint8Array(BLOCK)
        wanted.push({
          block,
          location,
          check: map.checkOf(block),
          bytes,
          part: whole ? undefined : { from, target: part },
        })
      }
    }
    // Settled meanwhile: what lies below holds the same.
    for (const block of below) {
      const at = Math.max(offset, block * BLOCK)
      const until = Math.min(offset + target.length, (block + 1) * BLOCK)
      await map.base.readInto(target.subarray(at - offset, until - offset), at, { signal })
    }
    left = await readSlots(map, data, wanted)
  }
  map.evict()
}

/** Gives the blocks that were written anew, and whose slots were taken by others, while they were read. */
async function readSlots(map: DiskMap, data: OverlayFile, wanted: readonly Wanted[]): Promise<number[]> {
  if (wanted.length === 0) return []
  const checks = new Uint32Array(wanted.length)
  const parts = wanted.map(({ bytes }) => bytes)
  await data.readBlocks(
    parts,
    Float64Array.from(wanted, ({ location }) => (location - FIRST_SLOT) * BLOCK),
    checks,
  )
  const again: number[] = []
  for (const [n, { block, location, check, bytes, part }] of wanted.entries()) {
    if (checks[n] === check) {
      part?.target.set(bytes.subarray(part.from, part.from + part.target.length))
      continue
    }
    await loadAll(map, [block])
    if (map.locationOf(block) === location && map.checkOf(block) === check)
      throw overlayDamaged('data', `block ${block} of ${map.name} does not match its checksum`, {
        disk: map.name,
        offset: block * BLOCK,
        slot: location - FIRST_SLOT,
      })
    again.push(block)
  }
  return again
}

async function loadAll(map: DiskMap, blocks: readonly number[]): Promise<void> {
  const pages = [...new Set(blocks.map(block => Math.floor(block / PAGE_BLOCKS)))]
  while (pages.some(page => map.page(page) === undefined)) await map.load(pages)
}

/** Has what lies below fetched ahead, where nothing is written above it. Absent where the base cannot. */
export function prefetchBelow(map: DiskMap): BlockReader['prefetch'] {
  if (!map.base.prefetch) return undefined
  return async (range, options) => {
    const end = rangeEnd(range)
    for (let at = range.offset; at < end; ) {
      const block = Math.floor(at / BLOCK)
      const until = Math.min(end, map.runEnd(block, Math.ceil(end / BLOCK)) * BLOCK)
      if (!map.isWritten(block)) await map.base.prefetch?.({ offset: at, length: until - at }, options)
      at = until
    }
  }
}

export async function* mapExtents(map: DiskMap, range: Range, options: AbortOptions): AsyncGenerator<Extent> {
  const end = rangeEnd(range)
  for (let at = range.offset; at < end; ) {
    const block = Math.floor(at / BLOCK)
    if (!map.isWritten(block)) {
      const until = Math.min(end, map.runEnd(block, Math.ceil(end / BLOCK)) * BLOCK)
      yield* map.base.extents({ offset: at, length: until - at }, options)
      at = until
      continue
    }
    options.signal?.throwIfAborted()
    await loadAll(map, [block])
    const kind = kindAt(map, block)
    // Settled meanwhile: asked for again, it lies below.
    if (kind === undefined) continue
    const last = Math.min(map.blocks, (Math.floor(block / PAGE_BLOCKS) + 1) * PAGE_BLOCKS)
    let next = block + 1
    while (next < last && kindAt(map, next) === kind) next++
    const until = Math.min(end, next * BLOCK)
    yield { offset: at, length: until - at, kind }
    at = until
  }
  map.evict()
}

function kindAt(map: DiskMap, block: number): Extent['kind'] | undefined {
  const location = map.locationOf(block)
  return location === BELOW ? undefined : location === ZERO ? 'zero' : 'data'
}
