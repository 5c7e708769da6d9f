/** Locks are extended before the promise ends, wherever a renewal is interrupted; writers rely on nothing that is locked too short. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError, LifeboatError } from '../../../src/core/errors.ts'
import { leaseId } from '../../../src/core/ids.ts'
import { limits } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { readAuditLog } from '../../../src/maintenance/audit-log.ts'
import { forgetPoints } from '../../../src/maintenance/forget.ts'
import { type RenewalResult, renewLocks } from '../../../src/maintenance/lock-renewal.ts'
import { lockStatus } from '../../../src/maintenance/lock-status.ts'
import { maintenanceContext } from '../../../src/maintenance/maintenance.ts'
import { setPolicy } from '../../../src/maintenance/policy.ts'
import { promisedUntil } from '../../../src/repository/lock-policy.ts'
import { forgottenKey, leaseKey, policyKey } from '../../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../../src/repository/open.ts'
import { faulty, type MutationEvent } from '../../../src/storage/faulty.ts'
import { intercepted } from '../../doubles/intercepted-store.ts'
import { DAY_MS, type LockedRepository, lockedRepository } from '../../doubles/locked-repository.ts'
import { manualClock } from '../../doubles/manual-clock.ts'
import {
  backup,
  beginBackup,
  commitBackup,
  keysOf,
  openMemoryRepository,
  pointNumber,
  summaryOf,
  writeDisk,
} from '../../doubles/memory-repository.ts'

const image = seededRandom('image')(200_000)
const disks = [{ name: 'vda', image }]

async function withPoint() {
  const locked = await lockedRepository()
  const repository = await locked.open()
  await backup(repository, { number: 1, disks })
  return { ...locked, repository, context: maintenanceContext(repository, 'who@host') }
}

const renewing = (repository: OpenedRepository, options: Parameters<typeof renewLocks>[1] = {}) =>
  renewLocks(maintenanceContext(repository, 'who@host'), options)

/** The least lock of all that is there and belongs to points. */
async function leastLock({ store }: Pick<LockedRepository, 'store'>): Promise<{ key: string; until: number }> {
  let least = { key: '', until: Number.POSITIVE_INFINITY }
  for (const key of keysOf(store, '').filter(key => /^(config$|keys|points|packs|meta)/.test(key))) {
    const until = (await store.versioned.lockOf(key)).retainUntil?.getTime() ?? 0
    if (until < least.until) least = { key, until }
  }
  return least
}

test('a renewal extends what would fall below the promise, and a second one has nothing to do', async () => {
  const locked = await withPoint()
  const { repository, clock, lock, store } = locked
  const early = await renewing(repository)
  assert.equal(early.extended, 0)
  await clock.advance(7 * DAY_MS)
  const dry = await renewing(repository, { dryRun: true })
  const before = await leastLock(locked)
  const first = await renewing(repository)
  assert.ok(first.objects >= 6 && first.extended === first.objects, JSON.stringify(first))
  assert.equal(dry.extended, first.extended)
  assert.equal(dry.requests, first.requests)
  assert.equal(before.until - clock.now().getTime(), lock.forMs)
  assert.equal((await leastLock(locked)).until - clock.now().getTime(), lock.forMs + lock.renewEveryMs)
  assert.equal((await renewing(repository)).extended, 0)
  assert.equal(keysOf(store, 'leases/').length, 0)
  assert.ok(keysOf(store, 'audit/').length >= 1)
})

test('a renewal leaves a ledger of what it extended, and an entry in the audit; the newest eight ledgers stay', async () => {
  const { repository, context, clock, store } = await withPoint()
  for (let times = 1; times <= limits.ledgersKept + 2; times++) {
    await clock.advance(7 * DAY_MS)
    const result = await renewing(repository)
    assert.equal(keysOf(store, 'locks/').length, Math.min(times, limits.ledgersKept))
    const ledger = await context.control.get('lock-ledger', `locks/${result.run}`)
    assert.equal(ledger?.date('until').getTime(), result.until.getTime())
    assert.equal(ledger?.count('count'), result.extended)
    assert.equal(ledger?.count('requests'), result.requests)
    assert.equal(ledger?.texts('extended', 1000).length, result.extended)
    assert.ok(result.extended > 0 && result.requests === 2 * result.objects)
  }
  const { entries } = await readAuditLog(context, { limit: 99 })
  assert.deepEqual([...new Set(entries.map(({ action }) => action))], ['lock-renew'])
})

test('a renewal that dies at any change is finished by the next', async t => {
  const total = await changesOfRenewal(undefined)
  for (let index = 1; index <= total; index++)
    for (const when of ['before', 'after'] as const) await changesOfRenewal({ when, index })
  assert.ok(total >= 10)
  t.diagnostic(`${total} changes`)
})

async function changesOfRenewal(death: Pick<MutationEvent, 'when' | 'index'> | undefined): Promise<number> {
  const locked = await withPoint()
  await locked.clock.advance(7 * DAY_MS)
  let count = 0
  let hasDied = false
  const dying = faulty(locked.store, {
    clock: locked.clock,
    onMutation: ({ when, index }) => {
      count = Math.max(count, index)
      if (death?.when !== when || death.index !== index) return
      hasDied = true
      throw new Error('the host is gone')
    },
  })
  const run = renewing(await locked.open(dying))
  if (death) await run.catch(() => {})
  else await run
  assert.equal(hasDied, death !== undefined)
  await renewing(await locked.open())
  const least = await leastLock(locked)
  assert.ok(
    least.until >= locked.clock.now().getTime() + locked.lock.forMs,
    `${least.key} after ${JSON.stringify(death)}`,
  )
  return count
}

test('the lock of the right object is extended under what somebody put over it, and that is told', async () => {
  const locked = await withPoint()
  const [pack = ''] = keysOf(locked.store, 'packs/')
  const [manifest = ''] = keysOf(locked.store, 'points/')
  locked.store.tamper(pack, new Uint8Array(100))
  locked.store.tamper(manifest, undefined)
  await locked.clock.advance(7 * DAY_MS)
  const { covered } = await renewing(await locked.open())
  assert.deepEqual(covered, [pack, manifest].sort())
  for (const key of covered) {
    const versions = await Array.fromAsync(locked.store.versioned.versions(key))
    const { retainUntil } = await locked.store.versioned.lockOf(key, versions.at(-1)!.versionId)
    assert.equal(retainUntil?.getTime(), locked.clock.now().getTime() + 37 * DAY_MS, key)
  }
})

test('what is forgotten is not renewed; a damaged point keeps nobody from the others', async () => {
  const { repository, context, clock, store } = await withPoint()
  const other = seededRandom('other')(100_000)
  await backup(repository, { vm: 'b', number: 2, disks: [{ name: 'vda', image: other }] })
  await backup(repository, { number: 3, disks })
  const meta = keysOf(store, 'meta/')
  await assert.rejects(forgetPoints(context, [await summaryOf(repository, pointNumber(1))], { why: 'test' }), error =>
    isLifeboatError(error, 'point-protected'),
  )
  await clock.advance(37 * DAY_MS)
  await forgetPoints(context, [await summaryOf(repository, pointNumber(1))], { why: 'test' })
  // Its lock is over, so that it can really be damaged.
  const victims = meta.filter(key => store.snapshot().get(key)!.bytes.length > 0).slice(0, 1)
  await store.delete(victims)
  const result = await renewing(repository)
  assert.equal(result.points, 2)
  const key = keysOf(store, 'points/').find(name => name.endsWith(pointNumber(1)))!
  assert.ok((await store.versioned.lockOf(key)).retainUntil! <= clock.now())
  for (const name of keysOf(store, 'points/').filter(name => name !== key))
    assert.ok((await store.versioned.lockOf(name)).retainUntil! > clock.now(), name)
})

test('a policy that cannot be read, or names a zone that this host does not know, lets nothing go', async () => {
  const { repository, context, clock, lock, store } = await withPoint()
  await backup(repository, { number: 2, disks })
  await setPolicy(context, undefined, { keepLast: 1 })
  const day = lock.forMs / 30
  await clock.advance(lock.renewEveryMs)
  assert.deepEqual(outcome(await renewing(repository)), [1, 1])
  const key = policyKey(undefined, new Date(clock.now().getTime() + day), '00112233445566aa')
  const good = { keepLast: 1, who: 'a@b', when: clock.now().toISOString() }
  await context.control.put('policy', key, { ...good, timeZone: 'Nowhere/Here' })
  assert.deepEqual(outcome(await renewing(repository)), [2, 0])
  store.tamper(policyKey(undefined, new Date(clock.now().getTime() + 2 * day), '00112233445566bb'), new Uint8Array(99))
  assert.deepEqual(outcome(await renewing(repository)), [2, 0])
})

const outcome = ({ points, outlived }: RenewalResult) => [points, outlived]

test('a base that is forgotten stays locked while a backup builds upon it, or may have begun to', async () => {
  const { repository, context, store, open, clock } = await withPoint()
  await clock.advance(7 * DAY_MS)
  const point = await summaryOf(repository, pointNumber(1))
  const mark = () =>
    context.control.put('forgotten', forgottenKey(point.id), { who: 'a@b', when: 'w', why: 't', manifest: point.key })
  // Marked between the first listing and the second: a writer that asked before that may have stored its lease since.
  let marked = 0
  const marking = intercepted(store, {
    async before({ verb, key }) {
      if (verb === 'list' && key === 'leases/' && marked++ === 0) await mark()
    },
  })
  assert.equal((await renewing(await open(marking), { dryRun: true })).points, 1)
  assert.ok(marked > 0)
  assert.equal((await renewing(repository, { dryRun: true })).points, 0)
  const lease = { counter: 1, host: 'h', kind: 'backup', vm: 'vm', bases: [point.key], manifest: 'points/x' }
  await context.control.put('lease', leaseKey(leaseId('0b'.repeat(8))), lease)
  const result = await renewing(repository)
  assert.ok(result.points === 1 && result.extended === result.objects, JSON.stringify(result))
})

test('a point that retention has let go is no base any more, though renewals of the others run', async () => {
  const { repository, context, clock } = await withPoint()
  await backup(repository, { number: 2, disks })
  await setPolicy(context, undefined, { keepLast: 1 })
  const bases = async (number: number, base: number) => {
    const request = { vm: 'vm', point: pointNumber(number), takenAt: clock.now(), kind: 'backup' } as const
    await using writer = await repository.beginPoint({ ...request, bases: [pointNumber(base)] })
    return writer.bases.size
  }
  assert.deepEqual([await bases(3, 1), await bases(4, 2)], [1, 1])
  for (let week = 0; week < 3; week++) {
    await clock.advance(7 * DAY_MS)
    await renewing(repository)
  }
  assert.deepEqual([await bases(5, 1), await bases(6, 2)], [0, 1])
})

test('a clock that is far off the one of the store is refused', async () => {
  const { store } = await withPoint()
  const wrong = manualClock('2026-03-02T03:04:05.000Z')
  const repository = await openMemoryRepository(store, { seed: 'wrong', clock: wrong })
  for (const work of [renewing(repository), backup(repository, { number: 9, disks })])
    await assert.rejects(work, error => isLifeboatError(error, 'clock-skew'))
})

test('a backup relies on nothing that is locked too short: it extends what it reuses', async () => {
  const { open, clock, store, lock } = await lockedRepository()
  const repository = await open()
  // Large enough that some of its contents are hooks.
  const large = [{ name: 'vda', image: seededRandom('large')(1_600_000) }]
  await backup(repository, { number: 1, disks: large })
  await clock.advance(20 * DAY_MS)
  const [pack = ''] = keysOf(store, 'packs/')
  const manifest = await backup(repository, { vm: 'twin', number: 2, disks: large })
  assert.ok(manifest.disks[0]!.bytesNew < 800_000, `${manifest.disks[0]?.bytesNew} bytes were stored again`)
  const until = clock.now().getTime() + lock.forMs + lock.renewEveryMs
  assert.equal((await store.versioned.lockOf(pack)).retainUntil?.getTime(), until)
})

test('a writer that may not extend a lock does not rely on what has a short one', async () => {
  const { open, clock, store } = await lockedRepository()
  const large = [{ name: 'vda', image: seededRandom('large')(1_600_000) }]
  await backup(await open(), { number: 1, disks: large })
  await clock.advance(20 * DAY_MS)
  let refused = 0
  const retain = async (key: string) => {
    refused++
    throw new LifeboatError('store-denied', 'no right to PutObjectRetention', { details: { object: key } })
  }
  const repository = await open({ ...store, versioned: { ...store.versioned, retain } })
  const manifest = await backup(repository, { vm: 'twin', number: 2, disks: large })
  assert.ok(refused >= 1)
  assert.equal(manifest.disks[0]!.bytesNew, 1_600_000)
})

test('what a long backup stored at its beginning has its full time when it is committed', async () => {
  const hour = 3_600_000
  const locked = await lockedRepository({ mode: 'governance', forMs: 8 * hour, renewEveryMs: 2 * hour })
  const repository = await locked.open()
  const made = new Set(keysOf(locked.store, ''))
  // More than a pack holds, so that one is stored long before the point is committed.
  const large = [{ name: 'vda', image: seededRandom('packs')(18 << 20) }]
  await using writer = await beginBackup(repository, { number: 1, disks: large })
  for (const disk of large) await writeDisk(repository, writer, disk)
  for (let minutes = 0; minutes < 180; minutes += 5) await locked.clock.advance(5 * 60_000)
  await commitBackup(writer)
  const stored = keysOf(locked.store, '').filter(key => !made.has(key) && /^(points|packs|meta)/.test(key))
  assert.ok(stored.length >= 3)
  for (const key of stored) {
    const { retainUntil } = await locked.store.versioned.lockOf(key)
    assert.ok(retainUntil!.getTime() >= locked.clock.now().getTime() + locked.lock.forMs, key)
  }
})

test('a base counts while renewals run; when one is overdue, nothing is built upon it', async () => {
  const { repository, clock } = await withPoint()
  const begin = async (number: number) => {
    const takenAt = clock.now()
    const bases = [pointNumber(1)]
    await using writer = await repository.beginPoint({
      vm: 'vm',
      point: pointNumber(number),
      takenAt,
      kind: 'backup',
      bases,
    })
    return writer.bases.size
  }
  await clock.advance(7 * DAY_MS)
  assert.equal(await begin(2), 1)
  await renewing(repository)
  await clock.advance(8 * DAY_MS)
  assert.equal(await begin(3), 1)
  await clock.advance(DAY_MS)
  assert.equal(await begin(4), 0)
  await renewing(repository)
  assert.equal(await begin(5), 1)
})

test('lock show tells the least lock of a point, by its manifest or object by object', async () => {
  const { repository, clock, context, lock } = await withPoint()
  const points = await repository.points()
  const made = clock.now().getTime()
  await clock.advance(DAY_MS)
  for (const asked of [false, true]) {
    const status = await lockStatus(context, { points, asked })
    assert.equal(status.points[0]?.lockedUntil?.getTime(), made + lock.forMs + lock.renewEveryMs)
    assert.equal(status.renewal.isOverdue, false)
    assert.ok(promisedUntil(lock, clock.now()) < status.renewal.until)
  }
})
