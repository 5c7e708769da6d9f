/** Forgetting: every reason to refuse, each by its name and before anything is written, and what no reason can keep. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { applyForget, forgetPoints, planForget } from '../../../src/maintenance/forget.ts'
import { addHold } from '../../../src/maintenance/hold.ts'
import { forgottenKey, holdKey, leaseKey, pinKey } from '../../../src/repository/object-keys.ts'
import type { PointSummary } from '../../../src/repository/repository.ts'
import { intercepted } from '../../doubles/intercepted-store.ts'
import { fillAndCommit, type MaintainedRepository, maintainedRepository } from '../../doubles/maintained-repository.ts'
import { keysOf } from '../../doubles/memory-repository.ts'

const DAY = 24 * 3_600_000
const forget = ({ context }: MaintainedRepository, ...points: PointSummary[]) =>
  forgetPoints(context, points, { why: 'a test' })

/** Refused by its reason, with what to do, and without a trace. */
async function refused(place: MaintainedRepository, point: PointSummary, reason: RegExp, lastPoint = true) {
  const before = [...place.store.snapshot().keys()].sort()
  await assert.rejects(forgetPoints(place.context, [point], { why: 'a test', lastPoint }), error => {
    assert.ok(isLifeboatError(error, 'point-protected'), String(error))
    assert.match(error.message, reason)
    assert.ok(error.message.includes(point.id) && error.details.hint)
    return true
  })
  assert.deepEqual([...place.store.snapshot().keys()].sort(), before)
}

test('a point is marked with who, when and why, after the audit says so', async () => {
  const place = await maintainedRepository()
  const [older, newer] = [await place.point('2026-11-20T10:00:00Z'), await place.point('2026-11-21T10:00:00Z')]
  const puts: string[] = []
  const before = ({ verb, key }: { verb: string; key: string }) => void (verb === 'put' && puts.push(key))
  const context = await place.through(intercepted(place.store, { before }))
  const { remove } = await forgetPoints(context, [older], { why: 'a test' })
  assert.deepEqual(
    remove.map(({ id }) => id),
    [older.id],
  )
  assert.match(puts[0]!, /^audit\//)
  assert.equal(puts[1], forgottenKey(older.id))
  const mark = await place.context.control.get('forgotten', forgottenKey(older.id))
  assert.deepEqual(
    [mark?.text('who'), mark?.text('why'), mark?.text('manifest'), mark?.date('when').toISOString()],
    ['jane@box', 'a test', older.key, '2026-11-21T12:00:00.000Z'],
  )
  const entry = await place.context.control.get('audit', puts[0]!)
  assert.deepEqual(entry?.object('details'), { points: [older.key], why: 'a test' })
  assert.deepEqual(
    (await place.repository.points()).map(({ id }) => id),
    [newer.id],
  )
  const again = await forget(place, older)
  assert.deepEqual([again.remove, again.gone.map(({ id }) => id)], [[], [older.id]])
})

test('the audit names a thousand points an entry', async () => {
  const place = await maintainedRepository()
  const point = await place.point('2026-11-20T10:00:00Z')
  await applyForget(place.context, new Array(1001).fill(point), { why: 'many' })
  assert.equal(keysOf(place.store, 'audit/').length, 2)
})

test('the newest point of a VM needs --last-point; points of others do not count', async () => {
  const place = await maintainedRepository()
  const a = await place.point('2026-11-20T10:00:00Z', { vm: 'a' })
  await place.point('2026-11-21T10:00:00Z', { vm: 'b' })
  await refused(place, a, /newest/, false)
  await forgetPoints(place.context, [a], { why: 'a test', lastPoint: true })
  assert.equal((await place.repository.points({ vm: 'a' })).length, 0)
})

test('several points go all or none', async () => {
  const place = await maintainedRepository()
  const older = await place.point('2026-11-20T10:00:00Z')
  const newer = await place.point('2026-11-21T10:00:00Z')
  await assert.rejects(forget(place, older, newer), /newest/)
  assert.equal((await place.repository.points()).length, 2)
})

test('a held point stays until the hold is lifted', async () => {
  const place = await maintainedRepository()
  const point = await place.point('2026-11-20T10:00:00Z')
  const id = await addHold(place.context, point, 'audit 2026')
  await refused(place, point, /held by jane@box \(audit 2026\)/)
  await place.context.control.delete([holdKey(id)])
  await forgetPoints(place.context, [point], { why: 'a test', lastPoint: true })
})

test('a pinned point stays: while its reader lives, and for twice the expiry of one that was killed', async () => {
  const place = await maintainedRepository()
  const point = await place.point('2026-11-20T10:00:00Z')
  const opened = await place.repository.openPoint(point, { pin: 'export' })
  await refused(place, point, /pinned by export on test-host/)
  await opened[Symbol.asyncDispose]()
  await planned(place, point, 0)

  const document = {
    counter: 1,
    point: point.id,
    manifest: point.key,
    kind: 'restore',
    host: 'gone',
    expiryMs: 7 * DAY,
  }
  await place.context.control.put('pin', pinKey('0123456789abcdef'), document)
  await place.clock.advance(13 * DAY)
  await refused(place, point, /pinned by restore on gone/)
  await place.clock.advance(2 * DAY)
  await planned(place, point, 0)
})

test("a session's pin counts for ever", async () => {
  const place = await maintainedRepository()
  const point = await place.point('2026-11-20T10:00:00Z')
  const opened = await place.repository.openPoint(point, { pin: 'session' })
  opened.keepPin()
  await opened[Symbol.asyncDispose]()
  await place.clock.advance(1000 * DAY)
  await refused(place, point, /pinned by session on test-host/)
})

async function planned({ context }: MaintainedRepository, point: PointSummary, reasons: number): Promise<void> {
  const { keep } = await planForget(context, [point], { lastPoint: true })
  assert.equal(keep.flatMap(({ protections }) => protections).length, reasons)
}

test('the base of a running backup stays, and so does a point whose backup has not ended', async () => {
  const place = await maintainedRepository()
  const base = await place.point('2026-11-20T10:00:00Z')
  const writer = await place.begin('2026-11-21T10:00:00Z', { base: base.id })
  await refused(place, base, /base of a running backup on test-host/)
  const [lease = ''] = keysOf(place.store, 'leases/')
  const kept = place.store.snapshot().get(lease)!.bytes
  await fillAndCommit(writer, place.random)
  // The writer died between its manifest and the end of its lease.
  place.store.tamper(lease, kept)
  const [, newest] = await place.repository.points()
  await refused(place, newest!, /its backup on test-host has not ended/)
})

test('what the store locks stays, by retention or by a legal hold', async () => {
  const place = await maintainedRepository({ locks: true })
  const point = await place.point('2026-11-20T10:00:00Z')
  const { versioned } = place.store
  await versioned!.retain(point.key, undefined, 'governance', new Date('2026-12-01T00:00:00Z'))
  await refused(place, point, /locked until 2026-12-01T00:00:00.000Z/)
  await place.clock.advance(30 * DAY)
  await planned(place, point, 0)
  await versioned!.legalHold(point.key, undefined, true)
  await refused(place, point, /legal hold/)
})

test('a void point can be forgotten whatever stands in its way, and is nobody’s newest', async () => {
  const place = await maintainedRepository()
  const good = await place.point('2026-11-20T10:00:00Z')
  const never = await place.point('2026-11-21T10:00:00Z')
  await addHold(place.context, never, 'seen for a moment')
  await place.makeVoid(never)
  await refused(place, good, /newest/, false)
  const { remove } = await forget(place, never)
  assert.equal(remove.length, 1)
})

test('a void point whose lease is there may yet become one: it stays', async () => {
  const place = await maintainedRepository()
  const point = await place.point('2026-11-20T10:00:00Z')
  const { lease } = await place.repository.manifest(point)
  const document = { kind: 'backup', host: 'slow', vm: 'vm', bases: [], manifest: point.key }
  await place.context.control.put('lease', leaseKey(lease), document)
  await place.makeVoid(point)
  await refused(place, point, /its backup on slow has not ended/)
})

test('a damaged point can be forgotten, and the newest is the one before it', async () => {
  const place = await maintainedRepository()
  const good = await place.point('2026-11-20T10:00:00Z')
  const bad = await place.point('2026-11-21T10:00:00Z')
  place.damage(bad.key)
  await refused(place, good, /newest/, false)
  assert.equal((await forget(place, bad)).remove.length, 1)
})

test('a point whose writer may still make it void is nobody’s newest', async () => {
  const place = await maintainedRepository()
  const good = await place.point('2026-11-20T10:00:00Z')
  const writer = await place.begin('2026-11-21T10:00:00Z')
  const [lease = ''] = keysOf(place.store, 'leases/')
  const kept = place.store.snapshot().get(lease)!.bytes
  await fillAndCommit(writer, place.random)
  place.store.tamper(lease, kept)
  await refused(place, good, /newest/, false)
})

test('a point that is stored while others are looked at does not make them older', async () => {
  const place = await maintainedRepository()
  const good = await place.point('2026-11-20T10:00:00Z')
  let fired = false
  const context = await place.through(
    intercepted(place.store, {
      async before({ verb, key }) {
        // After the first listing of points, and before the second: committed, but who knows.
        if (fired || verb !== 'list' || key !== 'leases/') return
        fired = true
        await place.point('2026-11-21T10:00:00Z')
      },
    }),
  )
  const { keep } = await planForget(context, [good])
  assert.ok(fired)
  assert.deepEqual(
    keep.flatMap(({ protections }) => protections),
    [{ kind: 'newest' }],
  )
})

test('where a clock was wrong, both the newest by time and the last that was made stay', async () => {
  const place = await maintainedRepository()
  const first = await place.point('2026-11-20T10:00:00Z')
  const second = await place.point('2026-11-21T10:00:00Z')
  const last = await place.point('2000-01-01T00:00:10Z')
  await refused(place, second, /newest/, false)
  await refused(place, last, /newest/, false)
  assert.equal((await forget(place, first)).remove.length, 1)
})

test('where the newest is suspect, the newest that is not stays as well', async () => {
  const place = await maintainedRepository()
  const good = await place.point('2026-11-20T10:00:00Z')
  const suspect = await place.point('2026-11-21T10:00:00Z')
  await place.suspect(suspect)
  await refused(place, good, /newest/, false)
  await refused(place, suspect, /newest/, false)
})

test('a point of the future is not the newest, so that the others keep theirs', async () => {
  const place = await maintainedRepository()
  const future = await place.point('2031-01-01T00:00:00Z')
  await place.point('2026-11-20T10:00:00Z')
  const newest = await place.point('2026-11-21T10:00:00Z')
  await refused(place, newest, /newest/, false)
  assert.equal((await forget(place, future)).remove.length, 1)
})

for (const [kind, key] of [
  ['pin', pinKey('00112233445566aa')],
  ['hold', holdKey('00112233445566aa')],
  ['lease', 'leases/00112233445566aa'],
] as const)
  test(`a ${kind} that does not authenticate may protect any point: nothing is forgotten`, async () => {
    const place = await maintainedRepository()
    const point = await place.point('2026-11-20T10:00:00Z')
    place.store.tamper(key, new Uint8Array(100))
    await assert.rejects(
      forgetPoints(place.context, [point], { why: 'a test', lastPoint: true }),
      error => isLifeboatError(error, 'corrupt-object') && error.details.object === key && !!error.details.hint,
    )
    assert.equal(keysOf(place.store, 'forgotten/').length + keysOf(place.store, 'audit/').length, 0)
  })

test('a request that fails, whichever it is, is told, and nothing is forgotten on half of the answers', async t => {
  const place = await maintainedRepository()
  const point = await place.point('2026-11-20T10:00:00Z')
  await place.point('2026-11-21T10:00:00Z')
  let left = Number.POSITIVE_INFINITY
  const store = intercepted(place.store, {
    before() {
      if (--left === 0) throw new Error('no answer')
    },
  })
  const context = await place.through(store)
  for (let k = 1; ; k++) {
    left = k
    const done = await forgetPoints(context, [point], { why: 'a test' }).catch(error => {
      assert.match(String(error), /no answer/)
    })
    if (done) {
      assert.ok(left > 0 && k > 10, `${k - 1} requests`)
      t.diagnostic(`${k - 1} requests failed, one after the other`)
      return
    }
    assert.equal(keysOf(place.store, 'forgotten/').length, 0)
  }
})
