/**
 * As kth-call.test.ts, for what people and timers do: whichever request fails, every point that is kept reads bit for bit, and the work
 * done again ends as if nothing had been.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { seededRandom, systemRandom } from '../../src/core/random.ts'
import { adoptPoint } from '../../src/maintenance/adopt.ts'
import { startEpochs } from '../../src/maintenance/epochs.ts'
import { forgetPoints } from '../../src/maintenance/forget.ts'
import { collectGarbage } from '../../src/maintenance/gc.ts'
import { isEmptyPlan, planGc } from '../../src/maintenance/gc-plan.ts'
import { addHold, removeHold } from '../../src/maintenance/hold.ts'
import { renewLocks } from '../../src/maintenance/lock-renewal.ts'
import { lockStatus } from '../../src/maintenance/lock-status.ts'
import { type MaintenanceContext, maintenanceContext } from '../../src/maintenance/maintenance.ts'
import { markRot } from '../../src/maintenance/mark-rot.ts'
import { applyPrune, planPrune } from '../../src/maintenance/prune.ts'
import { scrubStored } from '../../src/maintenance/scrub.ts'
import { listDamage } from '../../src/repository/damage-marks.ts'
import { listHolds } from '../../src/repository/holds.ts'
import { fenceKey, parsePackKey } from '../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import { type MemoryStore, memoryStore, type StoredObject } from '../../src/storage/memory.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import { forgetPoint, writeTale } from '../doubles/collection.ts'
import { failEachCall, injected } from '../doubles/kth-call.ts'
import { DAY_MS, lockedRepository } from '../doubles/locked-repository.ts'
import { exchangeKeys, firstKey, laterKey, openAny, opens, spareKey } from '../doubles/maintenance-works.ts'
import { manualClock } from '../doubles/manual-clock.ts'
import {
  backup,
  keysOf,
  newMemoryRepository,
  openMemoryRepository,
  pointNumber,
  readBack,
  summaryOf,
} from '../doubles/memory-repository.ts'

const C = 4096
const clock = manualClock()
let opened = 0
const fresh = (store: ObjectStore) => ({ store, random: seededRandom(`fresh ${opened++}`), clock })

interface Tale {
  readonly entries: ReadonlyMap<string, StoredObject>
  readonly images: readonly Uint8Array[]
}

let written: Promise<Tale> | undefined

/** Points 1 to 3 of VM 'vm', each upon the one before, and 4 of 'other'. */
async function write(): Promise<Tale> {
  const store = await newMemoryRepository({ seed: 'kth' })
  const images = await writeTale(await openMemoryRepository(store, { seed: 'writer' }), C)
  return { entries: store.snapshot(), images }
}

interface Scene {
  readonly set?: (context: MaintenanceContext, store: MemoryStore, repository: OpenedRepository) => Promise<void>
  readonly work: (context: MaintenanceContext, repository: OpenedRepository) => Promise<void>
  /** Points that are kept whatever happens. */
  readonly kept: readonly number[]
  readonly done: (context: MaintenanceContext, store: MemoryStore, listed: readonly number[]) => Promise<void> | void
}

async function listedWhole(store: MemoryStore, images: readonly Uint8Array[]): Promise<readonly number[]> {
  const repository = await openAny(fresh(store))
  const numbers: number[] = []
  for (const { id } of await repository.points()) {
    // What was adopted has an id of its own.
    const { adoptedFrom = id } = await repository.manifest(await summaryOf(repository, id))
    const number = Number.parseInt(adoptedFrom, 16)
    assert.ok(Buffer.compare(await readBack(repository, id, 'vda'), images[number - 1]!) === 0, `point ${number}`)
    numbers.push(number)
  }
  return numbers.sort((a, b) => a - b)
}

async function failEachCallOf(t: TestContext, { set, work, kept, done }: Scene): Promise<void> {
  written ??= write()
  const { entries, images } = await written
  const begun = memoryStore({ entries, clock })
  const repository = await openAny(fresh(begun))
  await set?.(maintenanceContext(repository, 'a@b'), begun, repository)
  const start = begun.snapshot()
  await failEachCall(t, {
    begin: () => memoryStore({ entries: start, clock }),
    async work(store, seed) {
      const through = await openMemoryRepository(store, { seed, clock })
      await work(maintenanceContext(through, 'jane@box'), through)
    },
    async unharmed(store) {
      const listed = await listedWhole(store, images)
      for (const number of kept) assert.ok(listed.includes(number), `point ${number} is gone`)
    },
    async finished(store) {
      const after = maintenanceContext(await openAny(fresh(store)), 'a@b')
      await done(after, store, await listedWhole(store, images))
    },
  })
}

const scenes: Readonly<Record<string, Scene>> = {
  'a collection with points to remove and packs to rewrite': {
    async set(context) {
      await forgetPoint(context, 1)
      await forgetPoint(context, 4, 'other')
    },
    async work(context) {
      await collectGarbage(context, { graceMs: 0 })
    },
    kept: [2, 3],
    async done(context, store, listed) {
      assert.deepEqual(listed, [2, 3])
      assert.deepEqual(keysOf(store, 'forgotten/'), [])
      assert.ok(isEmptyPlan(await planGc(context)), 'a second collection finds nothing')
    },
  },
  forget: {
    async work(context, repository) {
      const points = await repository.points({ all: true })
      const wanted = points.filter(({ id }) => [pointNumber(1), pointNumber(2)].includes(id))
      await forgetPoints(context, wanted, { why: 'a test' })
    },
    kept: [3, 4],
    done: (_context, _store, listed) => assert.deepEqual(listed, [3, 4]),
  },
  prune: {
    async set(context, _store, repository) {
      await addHold(context, await summaryOf(repository, pointNumber(2)), 'a test')
    },
    async work(context) {
      await applyPrune(context, await planPrune(context, { policy: { keepLast: 1 }, zone: 'UTC' }))
    },
    kept: [2, 3, 4],
    done: (_context, _store, listed) => assert.deepEqual(listed, [2, 3, 4]),
  },
  'a hold, and its end': {
    async work(context, repository) {
      await addHold(context, await summaryOf(repository, pointNumber(2)), 'a test')
      const { holds } = await listHolds(context.control)
      assert.ok(holds.length > 0, 'it is held')
      for (const { id, point } of holds) await removeHold(context, { id, point })
    },
    kept: [1, 2, 3, 4],
    async done({ control }) {
      assert.deepEqual((await listHolds(control)).holds, [])
    },
  },
  'new data keys': {
    async work(context) {
      await startEpochs(context)
    },
    kept: [1, 2, 3, 4],
    async done(_context, store) {
      const copy = memoryStore({ entries: store.snapshot(), clock })
      await backup(await openAny(fresh(copy)), { number: 9, disks: [{ name: 'vda', image: seededRandom('nine')(C) }] })
      const epochs = keysOf(copy, 'packs/').map(key => parsePackKey(key)?.pack.slice(0, 2))
      assert.equal(epochs.filter(epoch => epoch !== '00').length, 1, 'what is stored from now on is under new keys')
    },
  },
  'verify --stored, and its mark': {
    async set(_context, store) {
      // The checksums of point 4's pack: its records are whole, and the scrub cannot tell.
      const pack = keysOf(store, 'packs/').at(-1)!
      const bytes = store.snapshot().get(pack)!.bytes.slice()
      bytes[bytes.length - 70]! ^= 1
      store.tamper(pack, bytes)
    },
    async work(context) {
      const { problems } = await scrubStored({ store: context.store, random: systemRandom })
      await markRot(context, problems)
      assert.equal(problems.filter(({ kind }) => kind === 'corrupt').length <= 1, true, 'a failure is no rot')
      if (problems.some(({ kind }) => kind === 'unchecked')) throw injected()
    },
    kept: [1, 2, 3, 4],
    async done({ control }) {
      assert.equal((await listDamage(control)).length, 1)
    },
  },
  adopt: {
    async set({ control }, _store, repository) {
      const point = await summaryOf(repository, pointNumber(3))
      const { lease } = await repository.manifest(point)
      await control.put('fence', fenceKey(lease, '00000000000000cc'), { who: 'gc@b', when: 'w', manifest: point.key })
    },
    async work(_context, repository) {
      await adoptPoint(repository, { point: await summaryOf(repository, pointNumber(3)), who: 'a@b' })
    },
    kept: [1, 2, 4],
    done: (_context, _store, listed) => assert.deepEqual(listed, [1, 2, 3, 4]),
  },
}

for (const [name, scene] of Object.entries(scenes))
  test(`${name} meets a failure at each of its requests`, t => failEachCallOf(t, scene))

test('an exchange of keys meets a failure at each of its requests, and a key opens at all times', async t => {
  written ??= write()
  const { entries, images } = await written
  await failEachCall(t, {
    begin: () => memoryStore({ entries, clock }),
    work: (store, seed) => exchangeKeys({ store, random: seededRandom(seed), clock }),
    async unharmed(store) {
      assert.deepEqual(await listedWhole(store, images), [1, 2, 3, 4])
    },
    async finished(store) {
      assert.deepEqual(await Promise.all([firstKey, spareKey, laterKey].map(key => opens(fresh(store), key))), [
        false,
        false,
        true,
      ])
    },
  })
})

test('a renewal of locks meets a failure at each of its requests, and locks only grow', async t => {
  const image = seededRandom('locked')(20 * C)
  const begun = async () => {
    const locked = await lockedRepository()
    await backup(await locked.open(), { number: 1, disks: [{ name: 'vda', image }] })
    await locked.clock.advance(8 * DAY_MS)
    return locked
  }
  let locked = await begun()
  const status = async () => {
    const repository = await locked.open()
    const points = await repository.points()
    return (await lockStatus(maintenanceContext(repository, 'a@b'), { points, asked: true })).points[0]!
  }
  let before = 0
  await failEachCall(t, {
    async begin() {
      locked = await begun()
      before = (await status()).lockedUntil!.getTime()
      return locked.store
    },
    async work(store) {
      await renewLocks(maintenanceContext(await locked.open(store), 'a@b'))
    },
    async unharmed() {
      assert.ok((await status()).lockedUntil!.getTime() >= before)
      assert.ok(Buffer.compare(await readBack(await locked.open(), pointNumber(1), 'vda'), image) === 0)
    },
    async finished() {
      const { lock } = locked
      const until = (await status()).lockedUntil!.getTime() - locked.clock.now().getTime()
      assert.equal(until, lock.forMs + lock.renewEveryMs)
      assert.equal((await renewLocks(maintenanceContext(await locked.open(), 'a@b'), { dryRun: true })).extended, 0)
    },
  })
})
