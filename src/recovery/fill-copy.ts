/**
 * Fills the local copy of a disk: windows of pages in the order of the disk, the chunks that each window lacks in the order of the
 * store, in few large GETs. What an earlier run or an earlier point left is used where it is proven to be right.
 */
import { chunkKey } from '../cache/chunk-cache.ts'
import type { LocalCopy } from '../cache/local-copy.ts'
import { PAGE_CHUNKS } from '../cache/local-table.ts'
import { isIntegrityError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { planRuns } from '../repository/record-runs.ts'
import type { ChunkRef, ChunkSource } from '../repository/repository.ts'

export interface FillOptions extends AbortOptions {
  /** Resolves when a GET of so many stored bytes may begin; then it is under way until `end` is called. */
  readonly admit: (bytes: number, options: AbortOptions) => Promise<{ end(): void }>
  /** Between two windows. */
  readonly onWindow: () => Promise<void>
}

interface Wanted {
  readonly ref: ChunkRef
  readonly chunks: number[]
}

/** Gives what kept pages from becoming whole, if anything did: damage in the store. Throws what store and disk throw. */
export async function fillCopy(source: ChunkSource, copy: LocalCopy, options: FillOptions): Promise<unknown> {
  const { signal } = options
  const { table } = copy
  let damage: unknown
  for (let page = 0; page < table.pageCount; ) {
    const window: number[] = []
    for (; page < table.pageCount && window.length < limits.hydrateWindowPages; page++)
      if (!table.isWhole(page)) window.push(page)
      else if (window.length > 0) break
    if (window.length === 0) continue
    damage = (await fillWindow(source, copy, window, options)) ?? damage
    await options.onWindow()
    signal?.throwIfAborted()
  }
  return damage
}

/** `pages` are neighbours. */
async function fillWindow(
  source: ChunkSource,
  copy: LocalCopy,
  pages: readonly number[],
  { admit, signal }: FillOptions,
): Promise<unknown> {
  const first = pages[0]! * PAGE_CHUNKS
  const last = copy.table.chunksOf(pages.at(-1)!)
  const refs = await source.locate(first, last.first + last.count - first, { signal })
  const wanted = await absentChunks(copy, first, refs, { signal })
  let damage: unknown
  await forEachLimited(
    runsOf(wanted, copy.chunkSize),
    limits.hydrateGets,
    async (run, gone) => {
      const admitted = await admit(run.length, { signal: gone })
      try {
        await fetchRun(source, copy, run.records, wanted, { signal: gone })
      } catch (error) {
        // A damaged chunk says nothing about others.
        if (!isIntegrityError(error)) throw error
        damage = error
      } finally {
        admitted.end()
      }
    },
    { signal },
  )
  for (const page of pages) {
    const { first: at, count } = copy.table.chunksOf(page)
    await copy.seal(page, refs.slice(at - first, at - first + count))
  }
  return damage
}

/** By content. Entries of chunks that are zeros now are taken away on the way. */
async function absentChunks(
  copy: LocalCopy,
  first: number,
  refs: readonly (ChunkRef | undefined)[],
  { signal }: AbortOptions,
): Promise<ReadonlyMap<string, Wanted>> {
  const wanted = new Map<string, Wanted>()
  for (const [i, ref] of refs.entries()) {
    const chunk = first + i
    const page = await copy.table.page(Math.floor(chunk / PAGE_CHUNKS))
    const index = chunk % PAGE_CHUNKS
    if (!ref) {
      if (page.entry(index)) await copy.drop(chunk)
      continue
    }
    if (page.holds(index, ref.id) && (page.isTrusted || (await copy.read(chunk, ref.id)))) continue
    signal?.throwIfAborted()
    const key = chunkKey(ref.id)
    const known = wanted.get(key)
    if (known) known.chunks.push(chunk)
    else wanted.set(key, { ref, chunks: [chunk] })
  }
  return wanted
}

function runsOf(wanted: ReadonlyMap<string, Wanted>, chunkSize: number) {
  const refs = [...wanted.values()].map(({ ref }) => ref)
  const bounds = {
    gapBytes: limits.coalesceGapBytes,
    runBytes: limits.getBytesMax,
    runRecords: Math.max(1, Math.floor(limits.hydrateGetPlainBytes / chunkSize)),
  }
  return [...Map.groupBy(refs, ({ pack }) => pack).values()].flatMap(ofPack => planRuns(ofPack, bounds))
}

async function fetchRun(
  source: ChunkSource,
  copy: LocalCopy,
  refs: readonly ChunkRef[],
  wanted: ReadonlyMap<string, Wanted>,
  options: AbortOptions,
): Promise<void> {
  const { generation } = copy
  const writes: Promise<void>[] = []
  const write = (ref: ChunkRef, content: Uint8Array) => {
    const { chunks } = wanted.get(chunkKey(ref.id))!
    const written = copy.put(chunks, ref.id, content, generation)
    written.catch(() => {})
    writes.push(written)
  }
  try {
    await source.fetch(refs, write, { ...options, isKept: false })
  } finally {
    await Promise.allSettled(writes)
  }
  await Promise.all(writes)
}
