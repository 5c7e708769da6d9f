/**
 * Each operation meets a store whose k-th request fails, for every k until none does: it fails with that error or goes on
 * without it, leaves nothing running, harms no point, and does its work when it is called again.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError, LifeboatError } from '../../src/core/errors.ts'
import { seededRandom } from '../../src/core/random.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import { verifyPoints } from '../../src/repository/verify.ts'
import { memoryStore, type StoredObject } from '../../src/storage/memory.ts'
import { intercepted, type StoreRequest } from '../doubles/intercepted-store.ts'
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
  const first = random(200 * C)
  const second = first.slice()
  second.set(random(20 * C), 100 * C)
  await backup(repository, { number: 1, disks: [{ name: 'vda', image: first }] })
  const changed = [{ offset: 100 * C, length: 20 * C }]
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

const injected = () => new LifeboatError('store-failed', 'the request was refused on purpose')
const isInjected = (error: unknown): boolean =>
  /refused on purpose/.test(String(error)) || (isLifeboatError(error) && isInjectedCause(error.cause))
const isInjectedCause = (cause: unknown): boolean => cause !== undefined && isInjected(cause)

async function run(tale: Story, operation: Operation, k: number) {
  const store = memoryStore({ entries: tale.start })
  let requests = 0
  let fired: StoreRequest | undefined
  const before = (request: StoreRequest) => {
    if (++requests !== k) return
    fired = request
    throw injected()
  }
  let failure: unknown
  try {
    await operation(await openMemoryRepository(intercepted(store, { before }), { seed: `k ${k}` }), tale)
  } catch (error) {
    failure = error
  }
  return { store, fired, failure }
}

async function assertUnharmed(store: ReturnType<typeof memoryStore>, { images }: Story): Promise<void> {
  const repository = await openMemoryRepository(store, { seed: 'after' })
  for (const [n, image] of images.entries())
    assert.ok(Buffer.compare(await readBack(repository, pointNumber(n + 1), 'vda'), image) === 0)
}

for (const [name, operation] of Object.entries(operations))
  test(`${name} meets a failure at each of its requests`, async t => {
    const unhandled: unknown[] = []
    const note = (error: unknown) => unhandled.push(error)
    process.on('unhandledRejection', note)
    t.after(() => process.off('unhandledRejection', note))
    const tale = await story()
    let k = 0
    let failed = 0
    for (;;) {
      const { store, fired, failure } = await run(tale, operation, ++k)
      if (!fired) {
        assert.equal(failure, undefined, 'without a failure it works')
        break
      }
      if (failure !== undefined) {
        failed++
        assert.ok(isInjected(failure), `${fired.verb} ${fired.key}: ended with ${failure}`)
      }
      await assertUnharmed(store, tale)
      await operation(await openMemoryRepository(intercepted(store, {}), { seed: `again ${k}` }), tale).catch(error => {
        // A backup that committed although its last request failed is there: the same id is not written twice.
        if (failure !== undefined) throw error
      })
    }
    await new Promise(resolve => setImmediate(resolve))
    assert.deepEqual(unhandled, [])
    assert.ok(failed > 2, `${failed} of ${k - 1} failures were told`)
    t.diagnostic(`${k - 1} requests were refused in turn, ${failed} of them ended the operation`)
  })
