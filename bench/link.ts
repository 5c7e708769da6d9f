/** The link of a store far away, and what it can give: 16 parallel GETs of 1 MiB over all packs. */
import { MiB } from '../src/core/limits.ts'
import { forEachLimited } from '../src/core/scope.ts'
import type { ObjectStore } from '../src/storage/object-store.ts'
import type { Distance } from './distant-store.ts'

export const LINK: Distance = { latencyMs: 10, bytesPerSecond: 150e6 }

interface Pack {
  readonly key: string
  readonly size: number
}

export const packsOf = (store: ObjectStore): Promise<readonly Pack[]> => Array.fromAsync(store.list('packs/'))

export async function readAll(store: ObjectStore, packs: readonly Pack[]): Promise<void> {
  function* ranges() {
    for (const { key, size } of packs)
      for (let offset = 0; offset < size; offset += MiB) yield { key, offset, length: Math.min(MiB, size - offset) }
  }
  await forEachLimited(ranges(), 16, async ({ key, ...range }) => {
    await store.get(key, range)
  })
}
