/**
 * Retention, collection and verify on a store that fails at random: each ends, done or with a clean error, and afterwards every
 * point that is kept reads bit for bit, verify finds nothing, and the same work on the store as it is ends.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError } from '../../src/core/errors.ts'
import { seededRandom } from '../../src/core/random.ts'
import { collectGarbage } from '../../src/maintenance/gc.ts'
import { isEmptyPlan, planGc } from '../../src/maintenance/gc-plan.ts'
import { maintenanceContext } from '../../src/maintenance/maintenance.ts'
import { applyPrune, planPrune } from '../../src/maintenance/prune.ts'
import { scrubStored } from '../../src/maintenance/scrub.ts'
import { listDamage } from '../../src/repository/damage-marks.ts'
import { markDamaged } from '../../src/repository/mark-damaged.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import { verifyPoints } from '../../src/repository/verify.ts'
import { memoryStore, type StoredObject } from '../../src/storage/memory.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import { retrying } from '../../src/storage/retrying.ts'
import { forgetPoint, writeTale } from '../doubles/collection.ts'
import { manualClock, passing } from '../doubles/manual-clock.ts'
import { keysOf, newMemoryRepository, openMemoryRepository, readBack } from '../doubles/memory-repository.ts'
import { unreliable } from '../doubles/unreliable.ts'

const C = 4096
const seed = process.env.SEED ?? 'squall'
const RUNS = Number(process.env.RUNS ?? 4)
/** Of each piece of work, until it is done: most end where the repository is opened. */
const TRIES = 6

interface Tale {
  readonly entries: ReadonlyMap<string, StoredObject>
  readonly images: readonly Uint8Array[]
}

async function write(): Promise<Tale> {
  const store = await newMemoryRepository({ seed: 'faults' })
  const repository = await openMemoryRepository(store, { seed: 'writer' })
  const images = await writeTale(repository, C)
  await forgetPoint(maintenanceContext(repository, 'a@b'), 4, 'other')
  return { entries: store.snapshot(), images }
}

async function verifyAll(repository: OpenedRepository) {
  const points = await repository.points()
  const result = await verifyPoints(repository, { points })
  await markDamaged(repository, {
    result,
    whole: points.map(({ id }) => id),
    isAll: true,
    who: 'jane@box',
    now: new Date(0),
  })
  return result.problems
}

const prune = async (repository: OpenedRepository) => {
  const context = maintenanceContext(repository, 'jane@box')
  await applyPrune(context, await planPrune(context, { vm: 'vm', policy: { keepLast: 2 }, zone: 'UTC' }))
}

const collect = (repository: OpenedRepository, exclusive = false) =>
  collectGarbage(maintenanceContext(repository, 'jane@box'), { graceMs: 1000, exclusive })

const works: Readonly<Record<string, (repository: OpenedRepository) => Promise<unknown>>> = {
  prune,
  gc: repository => collect(repository),
  verify: verifyAll,
  scrub: ({ reading: { store, random } }) => scrubStored({ store, random }),
}

async function run(tale: Tale, percent: number, name: string) {
  const clock = manualClock()
  const store = memoryStore({ entries: tale.entries, clock })
  const random = seededRandom(name)
  const bad = unreliable(store, {
    random,
    probability: percent / 100,
    late: ['points/', 'packs/', 'meta/', 'forgotten/', 'index/', 'gc/', 'damaged/'],
  })
  const patient = retrying(bad, { clock, random, retryForMs: 60_000 })
  const open = (through: ObjectStore, who: string) => openMemoryRepository(through, { seed: `${name} ${who}`, clock })
  const outcomes: string[] = []
  for (const [what, work] of Object.entries(works))
    for (let tries = 0, outcome = ''; outcome !== 'done' && tries < TRIES; tries++) {
      const attempt = async () => work(await open(patient, `${what} ${tries}`))
      // It throws where time passes and nothing ends.
      outcome = await passing(clock, attempt(), 5_000).then(
        () => 'done',
        error => {
          assert.ok(isLifeboatError(error), `${what} ended with ${error instanceof Error ? error.stack : error}`)
          return error.code
        },
      )
      outcomes.push(`${what}: ${outcome}`)
    }
  const calm = await open(store, 'calm')
  const listed: number[] = []
  for (const { id } of await calm.points()) {
    const number = Number.parseInt(id, 16)
    const bytes = await readBack(calm, id, 'vda')
    assert.ok(Buffer.compare(bytes, tale.images[number - 1]!) === 0, `point ${number} differs`)
    listed.push(number)
  }
  for (const number of [2, 3]) assert.ok(listed.includes(number), `point ${number} is gone`)
  assert.deepEqual(await verifyAll(calm), [])
  assert.deepEqual(await listDamage(calm.reading.control), [], 'what was taken for damage is told to be none')
  // Pins of readers that could not remove them count for twice their expiry.
  await clock.advance(15 * 24 * 3_600_000)
  await prune(calm)
  await passing(clock, collect(await open(store, 'last'), true))
  const after = await open(store, 'after')
  assert.deepEqual((await after.points()).map(({ id }) => Number.parseInt(id, 16)).sort(), [2, 3])
  for (const { id } of await after.points())
    assert.ok(Buffer.compare(await readBack(after, id, 'vda'), tale.images[Number.parseInt(id, 16) - 1]!) === 0)
  assert.ok(isEmptyPlan(await planGc(maintenanceContext(after, 'a@b'))), 'nothing is left behind')
  return { outcomes, fired: bad.fired }
}

for (const percent of [1, 5, 15, 30])
  test(`prune, gc and verify while ${percent} % of all requests go wrong, each in its way (seed ${seed})`, async t => {
    const tale = await write()
    const outcomes = new Map<string, number>()
    const fired = new Map<string, number>()
    const count = (into: Map<string, number>, what: string, by = 1) => into.set(what, (into.get(what) ?? 0) + by)
    for (let round = 0; round < RUNS; round++) {
      const name = `${seed}/${percent}/${round}`
      const result = await run(tale, percent, name).catch(error => {
        throw new Error(`seed ${name}: ${error instanceof Error ? error.message : error}`, { cause: error })
      })
      for (const outcome of result.outcomes) count(outcomes, outcome)
      for (const [kind, times] of result.fired) count(fired, kind, times)
    }
    t.diagnostic(`${RUNS} runs; faults ${JSON.stringify([...fired])}; ${JSON.stringify([...outcomes])}`)
    assert.ok([...fired.values()].reduce((sum, times) => sum + times, 0) > 0, 'a fault fired')
  })

test('a store whose listings never show the newest object collects nothing', async () => {
  const { entries } = await write()
  const store = memoryStore({ entries, clock: manualClock() })
  const before = keysOf(store, '')
  const late: ObjectStore = {
    ...store,
    async *list(prefix, options) {
      for await (const info of store.list(prefix, options)) if (before.includes(info.key)) yield info
    },
  }
  const repository = await openMemoryRepository(late, { seed: 'late' })
  await assert.rejects(
    collectGarbage(maintenanceContext(repository, 'a@b'), { graceMs: 0 }),
    error => isLifeboatError(error, 'gc-stopped') && error.message.includes('does not list'),
  )
  assert.deepEqual(keysOf(store, ''), before)
})
