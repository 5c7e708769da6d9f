/** A store gives back what it once held, authentic and out of date: what each kind may do then (docs/concurrency.md, section 11). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { leaseId } from '../../../src/core/ids.ts'
import { limits } from '../../../src/core/limits.ts'
import { collectGarbage } from '../../../src/maintenance/gc.ts'
import { planGc } from '../../../src/maintenance/gc-plan.ts'
import { addHold, removeHold } from '../../../src/maintenance/hold.ts'
import { addKey, listKeys, removeKey } from '../../../src/maintenance/keys.ts'
import { renewLocks } from '../../../src/maintenance/lock-renewal.ts'
import { maintenanceContext } from '../../../src/maintenance/maintenance.ts'
import { listPolicies, setPolicy, unsetPolicy } from '../../../src/maintenance/policy.ts'
import { planPrune } from '../../../src/maintenance/prune.ts'
import { listHolds } from '../../../src/repository/holds.ts'
import { renewalState } from '../../../src/repository/lock-ledgers.ts'
import { fenceKey, forgottenKey, gcKey, leaseKey, pointKey, slotKey } from '../../../src/repository/object-keys.ts'
import { verifyPoints } from '../../../src/repository/verify.ts'
import type { MemoryStore } from '../../../src/storage/memory.ts'
import { assertWhole, type CollectionTale, collectionTale, forgetPoint } from '../../doubles/collection.ts'
import { DAY_MS, lockedRepository } from '../../doubles/locked-repository.ts'
import { maintainedRepository } from '../../doubles/maintained-repository.ts'
import { passing } from '../../doubles/manual-clock.ts'
import {
  backup,
  keysOf,
  newMemoryRepository,
  openMemoryRepository,
  pointNumber,
  readBack,
  summaryOf,
  timeNumber,
} from '../../doubles/memory-repository.ts'
import { bytesOf } from '../../doubles/repository-fixture.ts'

const WHEN = '2026-01-02T03:04:05.000Z'

/** Takes the objects away and gives what puts them back. */
function copyOf(store: Pick<MemoryStore, 'snapshot' | 'tamper'>, ...keys: readonly string[]): () => void {
  const copies = keys.map(key => [key, store.snapshot().get(key)!.bytes] as const)
  return () => {
    for (const [key, bytes] of copies) store.tamper(key, bytes)
  }
}

const leaseOf = async (tale: CollectionTale, number: number) => {
  const repository = await tale.open()
  return (await repository.manifest(await summaryOf(repository, pointNumber(number)))).lease
}

test('policy: what was replaced or unset does not come back by being put back', async () => {
  const { store, context } = await maintainedRepository()
  await setPolicy(context, undefined, { keepLast: 1 })
  const again = copyOf(store, ...keysOf(store, 'policies/'))
  await setPolicy(context, undefined, { keepLast: 30 })
  again()
  assert.equal((await listPolicies(context))[0]?.policy.keepLast, 30)
  const both = copyOf(store, ...keysOf(store, 'policies/'))
  await unsetPolicy(context, undefined)
  both()
  assert.deepEqual(await listPolicies(context), [])
})

test('policy: where locks are promised not even the newest can be taken away', async () => {
  const { store, open } = await lockedRepository()
  const context = maintenanceContext(await open(), 'a@b')
  await setPolicy(context, undefined, { keepLast: 1 })
  await setPolicy(context, undefined, { keepLast: 30 })
  store.tamper(keysOf(store, 'policies/').at(-1)!, undefined)
  assert.equal((await listPolicies(context))[0]?.policy.keepLast, 30)
})

test('key slot: one that was removed opens again, and is listed, so that it can be removed again', async () => {
  const { store, repository, context } = await maintainedRepository()
  const keyed = {
    ...context,
    slot: repository.slot!,
    credential: { kind: 'file', secret: new Uint8Array(32).fill(7) } as const,
  }
  const slot = await addKey(keyed, { kind: 'file', secret: new Uint8Array(32).fill(8) })
  const again = copyOf(store, slotKey(slot))
  await removeKey(keyed, slot)
  again()
  assert.equal((await listKeys(keyed)).find(({ id }) => id === slot)?.usable, 'likely')
  await removeKey(keyed, slot)
  assert.deepEqual(
    (await listKeys(keyed)).map(({ usable }) => usable),
    ['this'],
  )
})

test('lock ledger: an old one never says that locks are longer than they are', async () => {
  const { store, open, clock, lock } = await lockedRepository()
  const repository = await open()
  await backup(repository, { number: 1, disks: [{ name: 'vda', image: new Uint8Array(8192).fill(1) }] })
  const context = maintenanceContext(repository, 'a@b')
  await renewLocks(context)
  const again = copyOf(store, ...keysOf(store, 'locks/'))
  const [old = ''] = keysOf(store, 'locks/')
  await clock.advance(7 * DAY_MS)
  await renewLocks(context)
  const state = () => renewalState(context.control, { ...lock, since: new Date(0) }, clock.now())
  const { until } = await state()
  again()
  assert.deepEqual((await state()).until, until)
  for (const key of keysOf(store, 'locks/')) if (key !== old) store.tamper(key, undefined)
  // The newest hidden: backups build upon nothing sooner than they need, and locks are as they were.
  await clock.advance(3 * DAY_MS)
  assert.equal((await state()).isOverdue, true)
})

test('config: it is written once; that of another repository under the same key is refused, with its slots and without', async () => {
  const store = await newMemoryRepository({ seed: 'one' })
  const { identity } = await openMemoryRepository(store, { seed: 'a' })
  await backup(await openMemoryRepository(store, { seed: 'b' }), {
    number: 1,
    disks: [{ name: 'vda', image: new Uint8Array(8192).fill(1) }],
  })
  const other = await newMemoryRepository({ seed: 'other' })
  const opening = () => openMemoryRepository(store, { seed: 'c', pinned: identity })
  await opening()
  store.tamper('config', bytesOf(other, 'config'))
  await assert.rejects(opening(), error => isLifeboatError(error, 'corrupt-object'))
  for (const key of keysOf(other, 'keys/')) store.tamper(key, bytesOf(other, key))
  await assert.rejects(opening(), error => isLifeboatError(error, 'corrupt-object'))
})

test('forgotten mark: of a point that is gone it does nothing; with its manifest the point is forgotten, not there', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  const manifest = pointKey('other', timeNumber(4), pointNumber(4))
  const again = copyOf(tale.store, forgottenKey(pointNumber(4)), manifest)
  await collectGarbage(context, { graceMs: 0 })
  again()
  assert.equal((await summaryOf(await tale.open(), pointNumber(4))).state, 'forgotten')
  assert.deepEqual((await collectGarbage(context, { graceMs: 0 })).removed, [pointNumber(4)])
  await assertWhole(tale, [1, 2, 3])
})

test('manifest: one that was removed and comes back without its mark is damage: verify names it, a collection stops', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  const again = copyOf(tale.store, pointKey('other', timeNumber(4), pointNumber(4)))
  await collectGarbage(context, { graceMs: 0 })
  again()
  const repository = await tale.open()
  const { problems } = await verifyPoints(repository, { points: await repository.points() })
  assert.deepEqual([...new Set(problems.flatMap(({ points }) => points))], [pointNumber(4)])
  await assert.rejects(planGc(context), error => isLifeboatError(error, 'missing-object'))
})

test('lease: one that ended and comes back, or whose counter falls, is waited for, and its point stays', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  const lease = await leaseOf(tale, 3)
  const document = (counter: number) => ({
    counter,
    host: 'h',
    kind: 'backup',
    vm: 'vm',
    bases: [],
    manifest: pointKey('vm', timeNumber(3), pointNumber(3)),
    refreshMs: 1000,
    expiryMs: limits.leaseExpiryMs,
    created: WHEN,
  })
  await forgetPoint(context, 4, 'other')
  await context.control.put('lease', leaseKey(lease), document(9))
  const old = bytesOf(tale.store, leaseKey(lease))
  await context.control.put('lease', leaseKey(lease), document(12))
  const work = collectGarbage(context, { graceMs: 0 })
  // It looks alive for as long as somebody changes it, and for a week at the most.
  await tale.clock.advance(60_000)
  tale.store.tamper(leaseKey(lease), old)
  const { leases } = await passing(tale.clock, work)
  assert.equal(leases[lease], 'committed')
  await assertWhole(tale, [1, 2, 3])
})

test('lease: one that somebody changes for ever keeps a collection for a week, not for ever', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  const lease = leaseId('0d'.repeat(8))
  const put = (counter: number) =>
    context.control.put('lease', leaseKey(lease), {
      counter,
      host: 'h',
      kind: 'backup',
      vm: 'vm',
      bases: [],
      manifest: pointKey('vm', timeNumber(9), pointNumber(9)),
      refreshMs: 1,
      expiryMs: limits.leaseExpiryMs,
      created: WHEN,
    })
  await put(1)
  const work = collectGarbage(context, { graceMs: 0 })
  let isDone = false
  void work.finally(() => {
    isDone = true
  })
  let hours = 0
  for (; !isDone && hours < 24 * 9; hours++) {
    await put(1 + (hours % 2))
    for (let minutes = 0; minutes < 60; minutes += 15) await tale.clock.advance(15 * 60_000)
  }
  assert.equal((await work).leases[lease], 'fenced')
  assert.ok(hours >= 24 * 7 - 1, `${hours} h`)
})

test('fence: one that was withdrawn makes its point void again, which is told, and the point can be adopted', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  const key = fenceKey(await leaseOf(tale, 4), '00112233445566aa')
  const manifest = pointKey('other', timeNumber(4), pointNumber(4))
  await context.control.put('fence', key, { who: 'gc@b', when: WHEN, manifest })
  const again = copyOf(tale.store, key)
  await context.control.delete([key])
  assert.equal((await summaryOf(await tale.open(), pointNumber(4))).state, 'committed')
  again()
  assert.deepEqual((await planGc(context)).voids, [manifest])
})

test('hold and pin: one that was removed holds its point again, and is listed', async () => {
  const { store, repository, context, point } = await maintainedRepository()
  const made = await point('2026-11-20T10:00:00Z')
  await point('2026-11-21T10:00:00Z')
  const id = await addHold(context, made, 'audit')
  const again = copyOf(store, ...keysOf(store, 'holds/'))
  await removeHold(context, { id, point: made.id })
  again()
  assert.deepEqual(
    (await listHolds(repository.reading.control)).holds.map(hold => hold.id),
    [id],
  )
  const plan = await planPrune(context, { policy: { keepLast: 1 } })
  assert.deepEqual(plan.remove, [])
})

test('record of a collection: one that ended and comes back keeps what it names out of dedup, until somebody says --exclusive', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  let again = () => {}
  await collectGarbage(context, {
    graceMs: 0,
    progress: () => {
      const records = keysOf(tale.store, 'gc/')
      if (records.length > 0) again = copyOf(tale.store, ...records)
    },
  })
  assert.deepEqual(keysOf(tale.store, 'gc/'), [])
  again()
  const [record = ''] = keysOf(tale.store, 'gc/')
  assert.ok(record.startsWith(gcKey('')), 'the story took place')
  assert.deepEqual(
    (await planGc(context)).others.map(({ key }) => key),
    [record],
  )
  const repository = await tale.open()
  await backup(repository, { vm: 'other', number: 9, disks: [{ name: 'vda', image: tale.images[3]! }] })
  assert.ok(Buffer.compare(await readBack(repository, pointNumber(9), 'vda'), tale.images[3]!) === 0)
  await collectGarbage(context, { graceMs: 0, exclusive: true })
  assert.deepEqual(keysOf(tale.store, 'gc/'), [])
})
