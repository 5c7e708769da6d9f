import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readPackRows } from '../../../src/repository/pack-object.ts'
import { intercepted } from '../../doubles/intercepted-store.ts'
import { backup, keysOf, newMemoryRepository, openMemoryRepository } from '../../doubles/memory-repository.ts'

test('a pack that another host removes between two questions is gone, which is no failure', async () => {
  const store = await newMemoryRepository()
  const repository = await openMemoryRepository(store, { seed: 'pack' })
  await backup(repository, { number: 1, disks: [{ name: 'vda', image: new Uint8Array(4096).fill(7) }] })
  const [key = ''] = keysOf(store, 'packs/')
  const { keyring } = repository.reading
  assert.equal((await readPackRows({ store, keyring }, key, {}))?.rows.count, 1)
  let removed = 0
  const racing = intercepted(store, {
    after({ verb }) {
      if (verb !== 'head') return
      removed++
      store.tamper(key, undefined)
    },
  })
  assert.equal(await readPackRows({ store: racing, keyring }, key, {}), undefined)
  assert.equal(removed, 1)
})
