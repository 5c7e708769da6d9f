/** A hold on a point is a legal hold on everything that it is restored from, set whole or not at all. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { addHold, removeHold } from '../../../src/maintenance/hold.ts'
import { maintenanceContext } from '../../../src/maintenance/maintenance.ts'
import { listHolds } from '../../../src/repository/holds.ts'
import { faulty } from '../../../src/storage/faulty.ts'
import { intercepted } from '../../doubles/intercepted-store.ts'
import { DAY_MS, type LockedRepository, lockedRepository } from '../../doubles/locked-repository.ts'
import { maintainedRepository } from '../../doubles/maintained-repository.ts'
import { backup, keysOf, pointNumber, readBack, summaryOf } from '../../doubles/memory-repository.ts'

const image = seededRandom('image')(150_000)

async function withTwoPoints() {
  const locked = await lockedRepository()
  const repository = await locked.open()
  await backup(repository, { number: 1, disks: [{ name: 'vda', image }] })
  const changed = [{ offset: 0, length: 40_960 }]
  const next = image.slice().fill(7, 0, 40_960)
  await backup(repository, { number: 2, disks: [{ name: 'vda', image: next, base: pointNumber(1), changed }] })
  const context = maintenanceContext(repository, 'who@host')
  const points = await Promise.all([1, 2].map(number => summaryOf(repository, pointNumber(number))))
  return { ...locked, repository, context, first: points[0]!, second: points[1]! }
}

async function heldKeys({ store }: Pick<LockedRepository, 'store'>): Promise<string[]> {
  const held: string[] = []
  for (const key of keysOf(store, '')) if ((await store.versioned.lockOf(key)).legalHold) held.push(key)
  return held
}

test('a held point outlives its retention and everybody who would delete it, and goes when the hold is lifted', async () => {
  const locked = await withTwoPoints()
  const { context, first, store, clock, repository } = locked
  const id = await addHold(context, first, 'audit')
  await clock.advance(100 * DAY_MS)
  for (const key of keysOf(store, '')) await store.delete([key]).catch(() => {})
  assert.ok(Buffer.compare(await readBack(await locked.open(), first.id, 'vda'), image) === 0)
  assert.deepEqual(
    (await listHolds(repository.reading.control)).holds.map(hold => hold.id),
    [id],
  )
  await removeHold(context, { id, point: first.id })
  assert.deepEqual(await heldKeys(locked), [])
})

test('lifting one hold leaves what another one needs', async () => {
  const locked = await withTwoPoints()
  const { context, first, second } = locked
  const one = await addHold(context, first, 'one')
  const alone = await heldKeys(locked)
  const two = await addHold(context, second, 'two')
  const both = await heldKeys(locked)
  assert.ok(both.length > alone.length)
  await removeHold(context, { id: two, point: second.id })
  assert.deepEqual(await heldKeys(locked), alone)
  await removeHold(context, { id: one, point: first.id })
  assert.deepEqual(await heldKeys(locked), [])
})

test('a hold that is added while another is lifted is whole', async () => {
  const { store, open, first, second } = await withTwoPoints()
  const calm = maintenanceContext(await open(), 'who@host')
  const id = await addHold(calm, first, 'one')
  let added: string | undefined
  const adding = intercepted(store, {
    async before({ verb, key }) {
      if (verb !== 'lock' || !key.startsWith('packs/') || added !== undefined) return
      added = ''
      added = await addHold(calm, second, 'two')
    },
  })
  await removeHold(maintenanceContext(await open(adding), 'who@host'), { id, point: first.id })
  assert.ok(added)
  const held = await heldKeys({ store })
  await addHold(calm, second, 'again')
  assert.deepEqual(
    held.filter(key => !key.startsWith('holds/')),
    (await heldKeys({ store })).filter(key => !key.startsWith('holds/')),
  )
})

test('a hold that could not be set on everything is not reported', async () => {
  const { store, open, first, clock } = await withTwoPoints()
  const forbidden = faulty(store, {
    clock,
    script: [
      { verb: 'lock', key: /^meta\//, fault: { kind: 'error', code: 'store-denied', retry: 'permanent' }, times: 1 },
    ],
  })
  const repository = await open(forbidden)
  await assert.rejects(addHold(maintenanceContext(repository, 'who@host'), first, 'audit'), error =>
    isLifeboatError(error, 'store-denied'),
  )
  assert.equal(forbidden.fired.length, 1)
  assert.deepEqual((await listHolds(repository.reading.control)).holds, [])
})

test('a bucket with Object Lock holds what a held point needs, also where the repository promises no locks', async () => {
  const { store, context, repository, point } = await maintainedRepository({ locks: true })
  const made = await point('2026-11-20T10:00:00Z')
  const versioned = store.versioned!
  const held = async () => {
    const keys: string[] = []
    for (const key of keysOf(store, '')) if ((await versioned.lockOf(key)).legalHold) keys.push(key)
    return keys
  }
  const id = await addHold(context, made, 'audit')
  assert.ok(
    [/^holds/, /^points/, /^packs/, /^meta/, /^keys/, /^config$/].every(kind =>
      keysOf(store, '').some(key => kind.test(key)),
    ),
  )
  const kinds = new Set((await held()).map(key => key.split('/')[0]))
  assert.deepEqual([...kinds].sort(), ['config', 'holds', 'keys', 'meta', 'packs', 'points'])
  for (const key of keysOf(store, '')) await store.delete([key]).catch(() => {})
  assert.equal((await repository.points()).length, 1)
  await removeHold(context, { id, point: made.id })
  assert.deepEqual(await held(), [])
})
