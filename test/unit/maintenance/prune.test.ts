/** Prune: policies, flags, and what must neither be removed nor push others out. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { addHold } from '../../../src/maintenance/hold.ts'
import { setPolicy } from '../../../src/maintenance/policy.ts'
import { applyPrune, type PruneRequest, planPrune } from '../../../src/maintenance/prune.ts'
import { policyKey } from '../../../src/repository/object-keys.ts'
import { intercepted } from '../../doubles/intercepted-store.ts'
import { fillAndCommit, type MaintainedRepository, maintainedRepository } from '../../doubles/maintained-repository.ts'
import { keysOf } from '../../doubles/memory-repository.ts'

const zone = 'UTC'
const DAY = 24 * 3_600_000

/** 'DD reason, reason' of what stays, 'DD' of what goes; points of these tests are told by their day. */
async function planned({ context }: MaintainedRepository, request: Partial<PruneRequest>) {
  const plan = await planPrune(context, { zone, ...request })
  const day = ({ takenAt }: { takenAt: Date }) => takenAt.toISOString().slice(8, 10)
  return {
    ...plan,
    kept: plan.keep.map(({ point, reasons }) => `${day(point)} ${reasons.join(', ')}`),
    removed: plan.remove.map(({ point }) => day(point)),
  }
}

const fails = (place: MaintainedRepository, request: Partial<PruneRequest>, code: string, message: RegExp) =>
  assert.rejects(planPrune(place.context, { zone, ...request }), error => {
    assert.ok(isLifeboatError(error), String(error))
    assert.equal(error.code, code)
    assert.match(error.message, message)
    assert.ok(error.details.hint)
    return true
  })

/** One point a day at 10:00, from the 15th to the 21st. */
async function week(place: MaintainedRepository, vm = 'vm') {
  for (let day = 15; day <= 21; day++) await place.point(`2026-11-${day}T10:00:00Z`, { vm })
}

test('the plan says why each point stays or goes, and its application marks exactly those', async () => {
  const place = await maintainedRepository()
  await week(place)
  const [, , held] = await place.repository.points()
  await addHold(place.context, held!, 'ask Jane')
  const plan = await planned(place, { policy: { keepLast: 1, keepDaily: 2, keepWeekly: 2 } })
  assert.deepEqual(plan.kept, [
    '15 weekly 2026-W46',
    '17 held by jane@box (ask Jane)',
    '20 daily 2026-11-20',
    '21 last 1, daily 2026-11-21, weekly 2026-W47, newest',
  ])
  assert.deepEqual(plan.removed, ['16', '18', '19'])
  assert.deepEqual(
    new Set(plan.remove.map(({ why }) => why)),
    new Set(['outside keep-last 1, keep-daily 2, keep-weekly 2']),
  )
  assert.equal(keysOf(place.store, 'forgotten/').length, 0)
  await applyPrune(place.context, plan)
  assert.deepEqual(
    (await place.repository.points()).map(({ takenAt }) => takenAt.getUTCDate()),
    [15, 17, 20, 21],
  )
  assert.deepEqual((await planned(place, { policy: { keepLast: 1, keepDaily: 2, keepWeekly: 2 } })).removed, [])
})

test('what is read, built upon or held stays, and the plan says by whom', async () => {
  const place = await maintainedRepository()
  await week(place)
  const [base, read, held] = await place.repository.points()
  await using writer = await place.begin('2026-11-21T11:00:00Z', { base: base!.id })
  await using _ = await place.repository.openPoint(read!, { pin: 'export' })
  await addHold(place.context, held!, 'ask Jane')
  const plan = await planned(place, { policy: { keepLast: 1 } })
  assert.deepEqual(plan.kept, [
    '15 base of a running backup on test-host',
    '16 pinned by export on test-host',
    '17 held by jane@box (ask Jane)',
    '21 last 1, newest',
  ])
  assert.equal(writer.bases.size, 1)
})

test('a VM goes by its own policy, the others by the default, and flags replace both', async () => {
  const place = await maintainedRepository()
  await week(place, 'a')
  await week(place, 'b')
  await setPolicy(place.context, undefined, { keepLast: 1 })
  await setPolicy(place.context, 'b', { keepLast: 3 })
  assert.equal((await planned(place, {})).removed.length, 6 + 4)
  assert.deepEqual((await planned(place, { vm: 'b' })).removed, ['15', '16', '17', '18'])
  assert.equal((await planned(place, { policy: { keepLast: 6 } })).removed.length, 2)
})

test('a stored policy is applied by its own zone, whatever that of the host', async () => {
  const place = await maintainedRepository()
  for (const time of ['20T10:00', '20T12:00', '21T10:00']) await place.point(`2026-11-${time}:00Z`)
  const removed = async (request: Partial<PruneRequest>) =>
    (await planPrune(place.context, request)).remove.map(({ point }) => point.takenAt.getUTCHours())
  const inUtc = [10]
  // There the second of them is of the next day.
  const inAuckland = [12]
  const policy = { keepDaily: 9 }
  assert.deepEqual(await removed({ policy, zone: 'UTC' }), inUtc)
  assert.deepEqual(await removed({ policy, zone: 'Pacific/Auckland' }), inAuckland)
  await setPolicy(place.context, undefined, { ...policy, timeZone: 'Pacific/Auckland' })
  for (const host of ['UTC', 'America/New_York', undefined])
    assert.deepEqual(await removed({ zone: host }), inAuckland, host)
  await setPolicy(place.context, undefined, policy)
  for (const host of ['UTC', 'Pacific/Auckland', undefined])
    assert.deepEqual(await removed({ zone: host }), inUtc, host)
})

test('without a word on what to keep nothing is done', async () => {
  const place = await maintainedRepository()
  await week(place, 'a')
  await place.point('2026-11-21T10:00:00Z', { vm: 'b' })
  await fails(place, {}, 'usage', /nobody has said what to keep/)
  await fails(place, { vm: 'a' }, 'usage', /what to keep of a/)
  await setPolicy(place.context, 'a', { keepLast: 6 })
  const plan = await planned(place, {})
  assert.deepEqual([plan.removed, plan.withoutPolicy], [['15'], ['b']])
  assert.ok(plan.kept.includes('21 no policy, newest'))
  await fails(place, { vm: 'nobody' }, 'no-such-vm', /nobody/)
  const empty = await maintainedRepository()
  assert.deepEqual((await planned(empty, {})).keep, [])
})

test('keeping nothing must be said twice, of one VM; the newest needs a third word', async () => {
  const place = await maintainedRepository()
  await week(place)
  const policy = { keepLast: 0 }
  await fails(place, { policy }, 'usage', /keeps nothing/)
  await fails(place, { policy: { timeZone: 'UTC' }, vm: 'vm' }, 'usage', /keeps nothing/)
  await fails(place, { policy, removeEverything: true }, 'usage', /one VM/)
  const all = await planned(place, { policy, removeEverything: true, vm: 'vm' })
  assert.deepEqual([all.kept, all.removed.length], [['21 newest'], 6])
  assert.deepEqual(
    (await planned(place, { policy, removeEverything: true, vm: 'vm', lastPoint: true })).removed.length,
    7,
  )
})

test('a damaged point stands for no day: the good one of that day stays', async () => {
  const place = await maintainedRepository()
  await place.point('2026-11-20T08:00:00Z')
  await place.point('2026-11-21T08:00:00Z')
  const { key } = await place.point('2026-11-21T10:00:00Z')
  place.damage(key)
  const plan = await planned(place, { policy: { keepDaily: 2 } })
  assert.deepEqual(plan.kept, ['20 daily 2026-11-20', '21 daily 2026-11-21, newest', '21 damaged'])
  assert.deepEqual([plan.removed, plan.damaged], [[], [key]])
})

test('suspect points keep their places, and so do those that would have them otherwise', async () => {
  const place = await maintainedRepository()
  await week(place)
  const points = await place.repository.points()
  await place.suspect(points[5]!, points[6]!)
  const plan = await planned(place, { policy: { keepLast: 2 } })
  assert.deepEqual(plan.kept, [
    '18 last 2 (not suspect)',
    '19 last 1 (not suspect), newest',
    '20 last 2',
    '21 last 1, newest',
  ])
  assert.deepEqual(plan.removed, ['15', '16', '17'])
})

test('points of the future stay, count for nothing and push nobody out', async () => {
  const place = await maintainedRepository()
  await week(place)
  await place.point('2031-01-01T00:00:00Z')
  await place.point('2026-11-21T12:04:00Z')
  const plan = await planned(place, { policy: { keepLast: 2 } })
  assert.deepEqual(plan.kept, ['21 last 2', '21 last 1, newest', '01 dated in the future'])
})

test('the last backup stays although its host dated it into the past', async () => {
  const place = await maintainedRepository()
  await week(place)
  await place.point('2000-01-01T00:00:10Z')
  assert.deepEqual((await planned(place, { policy: { keepLast: 1 } })).kept, ['01 newest', '21 last 1, newest'])
})

test('a point whose backup has not ended stays and counts for nothing: it may become void', async () => {
  const place = await maintainedRepository()
  await place.point('2026-11-20T10:00:00Z')
  const writer = await place.begin('2026-11-21T10:00:00Z')
  const [lease = ''] = keysOf(place.store, 'leases/')
  const bytes = place.store.snapshot().get(lease)!.bytes
  await fillAndCommit(writer, place.random)
  place.store.tamper(lease, bytes)
  const plan = await planned(place, { policy: { keepLast: 1 } })
  assert.deepEqual(plan.kept, ['20 last 1, newest', '21 its backup on test-host has not ended, just written'])
})

test('void and forgotten points are in no plan', async () => {
  const place = await maintainedRepository()
  await week(place)
  const points = await place.repository.points()
  await place.makeVoid(points.at(-1)!)
  await applyPrune(place.context, { remove: [{ point: points[0]!, why: 'a test' }] })
  const plan = await planned(place, { policy: { keepLast: 2 } })
  assert.deepEqual(
    [plan.kept, plan.removed],
    [
      ['19 last 2', '20 last 1, newest'],
      ['16', '17', '18'],
    ],
  )
})

test('what only its lock keeps is said to be outlived, so that nobody renews it', async () => {
  const place = await maintainedRepository({ locks: true })
  await week(place)
  const [first, second] = await place.repository.points()
  for (const { key } of [first!, second!])
    await place.store.versioned!.retain(key, undefined, 'governance', new Date('2026-12-01T00:00:00Z'))
  await addHold(place.context, second!, 'a test')
  const plan = await planned(place, { policy: { keepLast: 1 } })
  assert.deepEqual(plan.kept.slice(0, 2), ['15 locked until 2026-12-01T00:00:00.000Z', '16 held by jane@box (a test)'])
  assert.deepEqual(
    plan.keep.map(({ isOutlived }) => isOutlived),
    [true, false, false],
  )
  await place.clock.advance(20 * DAY)
  assert.equal((await planned(place, { policy: { keepLast: 1 } })).removed[0], '15')
})

test("a host's clock that is far off the store's stops it, either way; a slow answer does not", async () => {
  const place = await maintainedRepository()
  await week(place)
  const policy = { keepLast: 1 }
  for (const [skewMs, isFar] of [
    [-6 * 60_000, true],
    [6 * 60_000, true],
    [4 * 60_000, false],
    [-4 * 60_000, false],
  ] as const) {
    const now = () => new Date(place.clock.now().getTime() + skewMs)
    const context = { ...place.context, clock: { ...place.clock, now } }
    const plan = planPrune(context, { zone, policy })
    if (isFar) await assert.rejects(plan, error => isLifeboatError(error, 'clock-skew') && !!error.details.hint)
    else assert.equal((await plan).remove.length, 6)
  }
  const slow = {
    ...place.store,
    async now() {
      const read = place.clock.now()
      await place.clock.advance(10 * 60_000)
      return read
    },
  }
  assert.equal((await planPrune({ ...place.context, store: slow }, { zone, policy })).remove.length, 6)
})

test('a policy that cannot be read keeps everything, until it is set anew or flags are given', async () => {
  const place = await maintainedRepository()
  await week(place)
  await setPolicy(place.context, undefined, { keepLast: 5 })
  await setPolicy(place.context, 'vm', { keepLast: 1 })
  const [, key = ''] = keysOf(place.store, 'policies/')
  assert.match(key, /^policies\/vm\/vm\//)
  place.damage(key)
  await fails(place, {}, 'corrupt-object', /what it keeps is not known/)
  assert.equal((await planned(place, { policy: { keepLast: 6 } })).removed.length, 1)
  await setPolicy(place.context, 'vm', { keepLast: 2 })
  assert.equal((await planned(place, {})).removed.length, 5)
})

test('a policy for a zone that this host does not know keeps everything', async () => {
  const place = await maintainedRepository()
  await week(place)
  const document = { keepDaily: 1, timeZone: 'Mars/Olympus', who: 'jane@box', when: '2026-11-21T12:00:00Z' }
  await place.context.control.put(
    'policy',
    policyKey('vm', new Date('2026-11-21T12:00:00Z'), '00112233445566aa'),
    document,
  )
  await fails(place, {}, 'usage', /Mars\/Olympus/)
  await fails(place, { policy: { keepDaily: 1, timeZone: 'Mars/Olympus' } }, 'usage', /Mars\/Olympus/)
})

test('a listing that fails removes nothing', async () => {
  const place = await maintainedRepository()
  await week(place)
  for (const prefix of ['points/', 'pins/', 'leases/', 'holds/', 'forgotten/', 'fences/']) {
    let fired = 0
    const store = intercepted(place.store, {
      before({ verb, key }) {
        if (verb !== 'list' || key !== prefix) return
        fired++
        throw new Error('no answer')
      },
    })
    await assert.rejects(planPrune(await place.through(store), { zone, policy: { keepLast: 1 } }), /no answer/)
    assert.equal(fired, 1, prefix)
  }
})
