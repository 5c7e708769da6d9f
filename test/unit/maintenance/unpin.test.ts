/** Pins of readers and sessions that are gone: `gc --exclusive` and `unlock --pin` take them away, and never one that is refreshed. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { limits } from '../../../src/core/limits.ts'
import { readAuditLog } from '../../../src/maintenance/audit-log.ts'
import { collectGarbage } from '../../../src/maintenance/gc.ts'
import { applyGc } from '../../../src/maintenance/gc-apply.ts'
import { planGc } from '../../../src/maintenance/gc-plan.ts'
import type { MaintenanceContext } from '../../../src/maintenance/maintenance.ts'
import { applyUnpin, planUnpin } from '../../../src/maintenance/unpin.ts'
import { pinKey, pointKey } from '../../../src/repository/object-keys.ts'
import { assertWhole, type CollectionTale, collectionTale, forgetPoint } from '../../doubles/collection.ts'
import { keysOf, pointNumber, timeNumber } from '../../doubles/memory-repository.ts'

const [dead, alive, session, broken] = ['d', 'a', '5', 'b'].map(digit => digit.repeat(16)) as [
  string,
  string,
  string,
  string,
]

const putPin = ({ control }: MaintenanceContext, id: string, kind: string, counter = 1) =>
  control.put('pin', pinKey(id), {
    counter,
    point: pointNumber(4),
    manifest: pointKey('other', timeNumber(4), pointNumber(4)),
    kind,
    host: 'host9',
    expiryMs: kind === 'session' ? null : limits.pinExpiryMs,
    created: '2026-01-02T03:04:05.000Z',
  })

/** A point that was forgotten, with a pin of each kind; a week and a day later only one of them has been refreshed. */
async function pinnedTale() {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  await putPin(context, dead, 'export')
  await tale.clock.advance(limits.pinExpiryMs + 24 * 3_600_000)
  return { ...tale, tale, context }
}

const pinsOf = ({ store }: Pick<CollectionTale, 'store'>) =>
  keysOf(store, 'pins/').map(key => key.slice('pins/'.length))

test('gc --exclusive shows the pins of dead readers, removes them with their points, and says so in the audit', async () => {
  const { tale, context, store } = await pinnedTale()
  assert.deepEqual((await planGc(context)).deadPins, [], 'not without that word')
  assert.deepEqual((await collectGarbage(context, { graceMs: 0 })).removed, [])
  assert.deepEqual(pinsOf({ store }), [dead])
  const plan = await planGc(context, { exclusive: true })
  assert.deepEqual(
    plan.deadPins.map(({ key }) => key),
    [pinKey(dead)],
  )
  const result = await applyGc(context, plan, { graceMs: 0, exclusive: true })
  assert.deepEqual([result.removed, result.leftovers?.pins], [[pointNumber(4)], [pinKey(dead)]])
  assert.deepEqual(pinsOf({ store }), [])
  const { entries } = await readAuditLog(context, { limit: 9 })
  assert.ok(entries.some(({ action, details }) => action === 'gc' && JSON.stringify(details).includes(dead)))
  await assertWhole(tale, [1, 2, 3])
})

test('a pin that is refreshed between plan and end stays, and so do those of sessions and those that cannot be read', async () => {
  const { context, store } = await pinnedTale()
  await putPin(context, alive, 'restore')
  await putPin(context, session, 'session')
  store.tamper(pinKey(broken), new Uint8Array(40))
  const plan = await planGc(context, { exclusive: true })
  assert.equal(plan.deadPins.length, 1)
  await putPin(context, dead, 'export', 2)
  await applyGc(context, plan, { graceMs: 0, exclusive: true })
  assert.deepEqual(pinsOf({ store }), [session, alive, broken, dead].sort())
})

test('unlock --pin removes what a person names: sessions, dead readers, the unreadable; never what may be reading', async () => {
  const { context, store } = await pinnedTale()
  await putPin(context, alive, 'restore')
  await putPin(context, session, 'session')
  store.tamper(pinKey(broken), new Uint8Array(40))
  const refused = (code: string, ...ids: string[]) =>
    assert.rejects(
      planUnpin(context, ids),
      error => isLifeboatError(error) && error.code === code && !!error.details.hint,
    )
  await refused('point-protected', dead, alive)
  await refused('usage', dead, '0'.repeat(16))
  const plan = await planUnpin(context, [session, dead, broken])
  assert.equal(pinsOf({ store }).length, 4, 'the plan writes nothing')
  await applyUnpin(context, plan)
  assert.deepEqual(pinsOf({ store }), [alive])
  const { entries } = await readAuditLog(context, { limit: 9 })
  assert.deepEqual([entries[0]?.action, JSON.stringify(entries[0]?.details).includes(session)], ['unlock', true])
})
