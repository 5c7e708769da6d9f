/** A repository that was written by the command line, opened by the library: from its folder, or from a copy of it in memory. */
import { readFile } from 'node:fs/promises'
import { systemClock } from '../src/core/clock.ts'
import { systemRandom } from '../src/core/random.ts'
import { parseKeyFile } from '../src/crypto/key-file.ts'
import { loadPipeline } from '../src/native/native.ts'
import { type OpenedRepository, openRepository } from '../src/repository/open.ts'
import { filesystemStore } from '../src/storage/filesystem.ts'
import { memoryStore, type StoredObject } from '../src/storage/memory.ts'
import type { ObjectStore } from '../src/storage/object-store.ts'
import type { BenchRepository } from './repository.ts'

/**
 * All objects of the folder, read once. GETs of packs lend views of them: a store that costs nothing, as for a peer that has
 * all records in memory. (Nobody writes to these bytes, and nobody may give them back: they are parts of larger buffers.)
 */
export async function copiedToMemory({ path }: BenchRepository): Promise<ObjectStore> {
  const folder = filesystemStore(path)
  const entries: [string, StoredObject][] = []
  for await (const { key, modifiedAt } of folder.list(''))
    entries.push([key, { bytes: await folder.get(key), modifiedAt }])
  const packs = new Map(entries.filter(([key]) => key.startsWith('packs/')).map(([key, { bytes }]) => [key, bytes]))
  const store = memoryStore({ entries })
  return {
    ...store,
    async get(key, range, options) {
      const pack = packs.get(key)
      if (!pack || !range || range.offset + range.length >= pack.length) return store.get(key, range, options)
      return pack.subarray(range.offset, range.offset + range.length)
    },
  }
}

export async function openThrough(store: ObjectStore, { environment }: BenchRepository): Promise<OpenedRepository> {
  const file = environment.LIFEBOAT_KEY_FILE ?? ''
  return openRepository({
    store,
    credential: { kind: 'file', secret: parseKeyFile(await readFile(file, 'utf8'), file) },
    clock: systemClock,
    random: systemRandom,
    host: 'bench',
    pipeline: loadPipeline(),
  })
}
