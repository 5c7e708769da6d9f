/** How fast this machine opens the records of a point when it does nothing else: the limit of every restore. */
import { limits, MiB } from '../src/core/limits.ts'
import { forEachLimited } from '../src/core/scope.ts'
import { loadPipeline } from '../src/native/native.ts'
import type { OpenNode } from '../src/native/pipeline.ts'
import { packKey } from '../src/repository/object-keys.ts'
import { RecordKeys } from '../src/repository/record-keys.ts'
import type { ObjectStore } from '../src/storage/object-store.ts'
import type { BenchRepository } from './repository.ts'
import { openThrough } from './repository-in-memory.ts'

/** Opened in batches of this much content; one on its way for each pool thread that the addon uses. */
const BATCH_BYTES = 8 * MiB
const BATCHES = 2

/** Every stored record of the newest point's only disk, once, as it is sealed. */
export async function readRecords(store: ObjectStore, repository: BenchRepository): Promise<readonly OpenNode[]> {
  await using opened = await openThrough(store, repository)
  const [summary] = await opened.points()
  if (!summary) throw new Error('the repository holds no point')
  await using point = await opened.openPoint(summary, { pin: 'restore' })
  const source = point.disk('vda')
  const keys = new RecordKeys(opened.reading.keyring)
  const { domain } = point.manifest
  const packs = new Map<string, Uint8Array>()
  const records = new Map<string, OpenNode>()
  const chunks = Math.ceil(source.size / source.chunkSize)
  for (let first = 0; first < chunks; first += 1024)
    for (const ref of await source.locate(first, Math.min(1024, chunks - first))) {
      if (!ref || records.has(`${ref.pack}${ref.slot}`)) continue
      const object = packKey('data', domain, ref.pack)
      const pack = packs.get(object) ?? (await store.get(object))
      packs.set(object, pack)
      const { key, aadPrefix } = await keys.of('data', domain, ref.pack, {})
      const stored = pack.subarray(ref.offset, ref.offset + ref.length)
      records.set(`${ref.pack}${ref.slot}`, { stored, slot: ref.slot, id: ref.id, key, aadPrefix })
    }
  return [...records.values()]
}

export async function decodeAll(records: readonly OpenNode[]): Promise<void> {
  const pipeline = loadPipeline()
  const chunkSize = limits.chunkSizeDefault
  const atOnce = BATCH_BYTES / chunkSize
  const free = Array.from({ length: BATCHES }, () => new Uint8Array(BATCH_BYTES))
  function* batches() {
    for (let first = 0; first < records.length; first += atOnce) yield records.slice(first, first + atOnce)
  }
  await forEachLimited(batches(), BATCHES, async batch => {
    const target = free.pop() ?? new Uint8Array(BATCH_BYTES)
    await pipeline.openChunks(
      batch.map((record, n) => ({ ...record, target: target.subarray(n * chunkSize, (n + 1) * chunkSize) })),
    )
    free.push(target)
  })
}
