/** Policies: the newest counts whatever clocks say. The audit: in order, bounded, and damage is named. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { recordAudit } from '../../../src/maintenance/audit.ts'
import { readAuditLog } from '../../../src/maintenance/audit-log.ts'
import { listPolicies, policyOf, setPolicy, unsetPolicy } from '../../../src/maintenance/policy.ts'
import { parsePolicyKey, policyKey } from '../../../src/repository/object-keys.ts'
import { maintainedRepository } from '../../doubles/maintained-repository.ts'
import { manualClock } from '../../doubles/manual-clock.ts'
import { keysOf } from '../../doubles/memory-repository.ts'

test('the policy that was set last counts: twice in a second, and by a host whose clock is behind', async () => {
  const place = await maintainedRepository()
  const { context } = place
  for (let keepLast = 1; keepLast <= 20; keepLast++) await setPolicy(context, 'web', { keepLast })
  assert.equal(policyOf(await listPolicies(context), 'web')?.policy.keepLast, 20)
  const behind = { ...context, clock: manualClock('2020-01-01T00:00:00.000Z') }
  await setPolicy(behind, 'web', { keepDaily: 7, timeZone: 'Europe/Berlin' })
  const found = policyOf(await listPolicies(context, { vm: 'web' }), 'web')
  assert.deepEqual(found, {
    vm: 'web',
    policy: { keepDaily: 7, timeZone: 'Europe/Berlin' },
    who: 'jane@box',
    when: new Date('2020-01-01T00:00:00.000Z'),
  })
  assert.equal(keysOf(place.store, 'audit/').length, 21)
})

test('a VM without a policy has the default; any name of a VM has its own', async () => {
  const { context } = await maintainedRepository()
  await setPolicy(context, undefined, { keepLast: 1 })
  for (const vm of ['a/b', '../default', 'Über', 'default']) {
    await setPolicy(context, vm, { keepLast: 9 })
    assert.equal(policyOf(await listPolicies(context, { vm }), vm)?.policy.keepLast, 9, vm)
  }
  assert.deepEqual(policyOf(await listPolicies(context, { vm: 'other' }), 'other')?.policy, {
    keepLast: 1,
    timeZone: 'UTC',
  })
  assert.equal((await listPolicies(context)).length, 5)
})

test('a policy that is unset counts no more, and the default counts instead; set again it counts again', async () => {
  const place = await maintainedRepository()
  const { context } = place
  await setPolicy(context, undefined, { keepLast: 1 })
  await setPolicy(context, 'web', { keepLast: 9 })
  const counting = async () => policyOf(await listPolicies(context, { vm: 'web' }), 'web')?.policy.keepLast
  await unsetPolicy({ ...context, clock: manualClock('2020-01-01T00:00:00.000Z') }, 'web')
  assert.equal(await counting(), 1)
  await assert.rejects(unsetPolicy(context, 'web'), error => isLifeboatError(error, 'usage') && !!error.details.hint)
  await unsetPolicy(context, undefined)
  assert.equal(await counting(), undefined)
  assert.deepEqual(await listPolicies(context), [])
  await setPolicy(context, 'web', { keepLast: 2 })
  assert.equal(await counting(), 2)
  assert.equal(keysOf(place.store, 'policies/').length, 5, 'nothing is overwritten')
  const { entries } = await readAuditLog(context, { limit: 9 })
  assert.deepEqual(entries.map(({ action }) => action).sort(), [
    'policy-set',
    'policy-set',
    'policy-set',
    'policy-unset',
    'policy-unset',
  ])
})

test('a policy that keeps nothing or names no zone is refused before anything is written', async () => {
  const place = await maintainedRepository()
  for (const policy of [{}, { keepLast: 0 }, { keepLast: 1, timeZone: 'nowhere' }])
    await assert.rejects(
      setPolicy(place.context, 'vm', policy),
      error => isLifeboatError(error, 'usage') && !!error.details.hint,
    )
  assert.deepEqual([...keysOf(place.store, 'policies/'), ...keysOf(place.store, 'audit/')], [])
})

test('a policy with absurd numbers is damage, and strangers are nobody’s policy', async () => {
  const place = await maintainedRepository()
  const key = policyKey('vm', new Date('2026-11-21T12:00:00Z'), '00112233445566aa')
  const document = { who: 'jane', when: '2026-11-21T12:00:00Z' }
  for (const bad of [{ keepLast: -1 }, { keepDaily: 1e9 }, { keepWeekly: '7' }, { timeZone: 5 }]) {
    await place.context.control.put('policy', key, { ...document, ...bad })
    await assert.rejects(
      listPolicies(place.context),
      error => isLifeboatError(error, 'absurd-object') && error.details.object === key && !!error.details.hint,
    )
  }
  place.store.tamper(key, undefined)
  for (const stranger of ['policies/README', 'policies/vm/a/b/c', 'policies/vm/%2f/20261121T120000Z-00112233445566aa'])
    place.store.tamper(stranger, new Uint8Array(3))
  assert.deepEqual(await listPolicies(place.context), [])
  assert.equal(parsePolicyKey('policies/vm/%2f/20261121T120000Z-00112233445566aa'), undefined)
  assert.equal(parsePolicyKey('policies/default/20261199T120000Z-00112233445566aa'), undefined)
})

test('the log is in order of time, also within a second, and bounded from its end', async () => {
  const place = await maintainedRepository()
  for (let n = 0; n < 12; n++) {
    await recordAudit(place.context, 'forget', { n })
    await place.clock.advance(300)
  }
  const numbers = async (options: { limit: number; since?: Date }) => {
    const { entries, earlier } = await readAuditLog(place.context, options)
    return [entries.map(({ details }) => details.n), earlier]
  }
  assert.deepEqual(await numbers({ limit: 100 }), [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], 0])
  for (let limit = 1; limit <= 12; limit++)
    assert.deepEqual(await numbers({ limit }), [Array.from({ length: limit }, (_, n) => 12 - limit + n), 12 - limit])
  assert.deepEqual(await numbers({ limit: 100, since: new Date('2026-11-21T12:00:03Z') }), [[10, 11], 0])
  assert.deepEqual(await numbers({ limit: 100, since: new Date('2027-01-01T00:00:00Z') }), [[], 0])
})

test('an entry that does not authenticate is named, the others are shown', async () => {
  const place = await maintainedRepository()
  for (let n = 0; n < 3; n++) {
    await recordAudit(place.context, 'gc', { n })
    await place.clock.advance(2000)
  }
  const [, second = ''] = keysOf(place.store, 'audit/')
  place.damage(second)
  place.store.tamper('audit/notes.txt', new Uint8Array(3))
  const { entries, damaged } = await readAuditLog(place.context, { limit: 10 })
  assert.deepEqual(
    [entries.map(({ details, who, action }) => [details.n, who, action]), damaged],
    [
      [
        [0, 'jane@box', 'gc'],
        [2, 'jane@box', 'gc'],
      ],
      [second],
    ],
  )
})
