/** How fast this machine opens the records of a point when it does nothing else: the limit of every restore. */
import { open } from 'node:fs/promises'
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

const chunkSize = limits.chunkSizeDefault
const atOnce = BATCH_BYTES / chunkSize

function* batches(records: readonly OpenNode[]) {
  for (let first = 0; first < records.length; first += atOnce) yield records.slice(first, first + atOnce)
}

export async function decodeAll(records: readonly OpenNode[]): Promise<void> {
  const pipeline = loadPipeline()
  const free = Array.from({ length: BATCHES }, () => new Uint8Array(BATCH_BYTES))
  await forEachLimited(batches(records), BATCHES, async batch => {
    const target = free.pop() ?? new Uint8Array(BATCH_BYTES)
    await pipeline.openChunks(
      batch.map((record, n) => ({ ...record, target: target.subarray(n * chunkSize, (n + 1) * chunkSize) })),
    )
    free.push(target)
  })
}

/** The same, and each content is written once, in the order of the records, into a new file: no tree, no store, no buffers. */
export async function decodeAndWriteAll(records: readonly OpenNode[], output: string): Promise<void> {
  const pipeline = loadPipeline()
  const end = records.length * chunkSize
  const offsets = new Map(records.map((record, n) => [record, n * chunkSize]))
  await using file = await open(output, 'wx')
  await file.truncate(end)
  const target = { file, chunkSize, end, idKey: new Uint8Array(32) }
  await forEachLimited(batches(records), BATCHES, async batch => {
    await pipeline.writeChunks(
      batch.map(record => ({ ...record, offsets: [offsets.get(record) ?? 0], checkId: false })),
      target,
    )
  })
}
