/**
 * Each operation meets a store whose k-th request fails, for every k until none does: it fails with that error or goes on
 * without it, leaves nothing running, harms no point, and does its work when it is called again.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../../src/core/random.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import { verifyPoints } from '../../src/repository/verify.ts'
import { memoryStore, type StoredObject } from '../../src/storage/memory.ts'
import { failEachCall, injected } from '../doubles/kth-call.ts'
import {
  backup,
  newMemoryRepository,
  openMemoryRepository,
  pointNumber,
  readBack,
} from '../doubles/memory-repository.ts'

const C = 4096

interface Story {
  readonly start: ReadonlyMap<string, StoredObject>
  readonly images: readonly Uint8Array[]
}

/** Two points of one disk, the second upon the first. */
async function story(): Promise<Story> {
  const random = seededRandom('kth')
  const store = await newMemoryRepository()
  const repository = await openMemoryRepository(store, { seed: 'kth' })
  const first = random(80 * C)
  const second = first.slice()
  second.set(random(10 * C), 60 * C)
  await backup(repository, { number: 1, disks: [{ name: 'vda', image: first }] })
  const changed = [{ offset: 60 * C, length: 10 * C }]
  await backup(repository, { number: 2, disks: [{ name: 'vda', image: second, base: pointNumber(1), changed }] })
  return { start: store.snapshot(), images: [first, second] }
}

type Operation = (repository: OpenedRepository, story: Story) => Promise<void>

const operations: Readonly<Record<string, Operation>> = {
  'opening and listing': async repository => {
    assert.equal((await repository.points({ all: true })).length, 2)
  },
  reading: async (repository, { images }) => {
    assert.ok(Buffer.compare(await readBack(repository, pointNumber(2), 'vda'), images[1]!) === 0)
  },
  'a full backup': async (repository, { images }) => {
    await backup(repository, { number: 3, disks: [{ name: 'vda', image: images[1]! }] })
  },
  'an incremental backup': async (repository, { images }) => {
    const image = images[1]!.slice()
    image.fill(0x55, 7 * C, 9 * C)
    const disk = { name: 'vda', image, base: pointNumber(2), changed: [{ offset: 7 * C, length: 2 * C }] }
    await backup(repository, { number: 3, disks: [disk] })
  },
  verify: async repository => {
    const { problems } = await verifyPoints(repository, { points: await repository.points() })
    // What could not be asked is named as such, never as damage and never as fine.
    if (problems.some(({ kind }) => kind !== 'unchecked')) throw new Error('a failed request was taken for damage')
    if (problems.length > 0) throw injected()
  },
}

for (const [name, operation] of Object.entries(operations))
  test(`${name} meets a failure at each of its requests`, async t => {
    const tale = await story()
    await failEachCall(t, {
      begin: () => memoryStore({ entries: tale.start }),
      work: async (store, seed) => operation(await openMemoryRepository(store, { seed }), tale),
      async unharmed(store) {
        const repository = await openMemoryRepository(store, { seed: 'after' })
        for (const [n, image] of tale.images.entries())
          assert.ok(Buffer.compare(await readBack(repository, pointNumber(n + 1), 'vda'), image) === 0)
      },
    })
  })
