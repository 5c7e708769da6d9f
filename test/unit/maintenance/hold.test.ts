/** Holds stand before they are looked for, and none stays of which nobody was told. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { forgetPoints } from '../../../src/maintenance/forget.ts'
import { addHold, removeHold } from '../../../src/maintenance/hold.ts'
import { listHolds } from '../../../src/repository/holds.ts'
import { forgottenKey, holdKey } from '../../../src/repository/object-keys.ts'
import { intercepted, type StoreRequest } from '../../doubles/intercepted-store.ts'
import { maintainedRepository } from '../../doubles/maintained-repository.ts'
import { keysOf } from '../../doubles/memory-repository.ts'

async function held() {
  const place = await maintainedRepository()
  const point = await place.point('2026-11-20T10:00:00Z')
  await place.point('2026-11-21T10:00:00Z')
  return { place, point }
}

test('audit, hold, then mark, manifest and fences are asked for, in this order', async () => {
  const { place, point } = await held()
  const seen: string[] = []
  const before = ({ verb, key }: StoreRequest) => void seen.push(`${verb} ${key.split('/')[0]}`)
  const context = await place.through(intercepted(place.store, { before }))
  seen.splice(0)
  const id = await addHold(context, point, 'audit 2026')
  assert.deepEqual(seen, ['put audit', 'put holds', 'get forgotten', 'get points', 'list fences'])
  const fields = await place.context.control.get('hold', holdKey(id))
  assert.deepEqual(
    [
      fields?.text('point'),
      fields?.text('manifest'),
      fields?.text('who'),
      fields?.text('host'),
      fields?.has('expiryMs'),
    ],
    [point.id, point.key, 'jane@box', 'box', false],
  )
  const { holds } = await listHolds(place.context.control)
  assert.deepEqual(
    holds.map(({ reason, created }) => [reason, created?.toISOString()]),
    [['audit 2026', '2026-11-21T12:00:00.000Z']],
  )
})

test('a point that is forgotten, void, gone or damaged cannot be held, and no hold stays', async () => {
  const { place, point } = await held()
  const fails = async (code: string) => {
    await assert.rejects(addHold(place.context, point, 'a test'), error => isLifeboatError(error, code as 'usage'))
    assert.deepEqual(keysOf(place.store, 'holds/'), [])
  }
  const good = place.store.snapshot().get(point.key)!.bytes
  place.damage(point.key)
  await fails('corrupt-object')
  place.store.tamper(point.key, undefined)
  await fails('no-such-point')
  place.store.tamper(point.key, good)
  await place.makeVoid(point)
  await fails('not-committed')
  await forgetPoints(place.context, [point], { why: 'a test' })
  await fails('point-forgotten')
})

test('a mark that is stored before the hold is seen by it', async () => {
  const { place, point } = await held()
  const context = await place.through(
    intercepted(place.store, {
      async before({ verb, key }) {
        if (verb === 'put' && key.startsWith('holds/')) await forgetPoints(place.context, [point], { why: 'a test' })
      },
    }),
  )
  await assert.rejects(addHold(context, point, 'a test'), error => isLifeboatError(error, 'point-forgotten'))
  assert.deepEqual(keysOf(place.store, 'holds/'), [])
  assert.deepEqual(keysOf(place.store, 'forgotten/'), [forgottenKey(point.id)])
})

test('a hold whose answer was lost does not stay; where it cannot be removed, the error names it', async () => {
  const { place, point } = await held()
  let isAway = false
  const store = intercepted(place.store, {
    before({ verb }) {
      if (isAway && verb === 'delete') throw new Error('no answer')
    },
    after({ verb, key }) {
      if (verb === 'put' && key.startsWith('holds/')) throw new Error('the answer was lost')
    },
  })
  const context = await place.through(store)
  await assert.rejects(addHold(context, point, 'a test'), /the answer was lost/)
  assert.deepEqual(keysOf(place.store, 'holds/'), [])
  isAway = true
  await assert.rejects(addHold(context, point, 'a test'), error => {
    const [key = ''] = keysOf(place.store, 'holds/')
    return isLifeboatError(error) && error.details.object === key && error.details.hint!.includes(key.slice(6))
  })
})

test('a reason is a must, and has a bound', async () => {
  const { place, point } = await held()
  for (const reason of ['', '  ', 'x'.repeat(1001)])
    await assert.rejects(addHold(place.context, point, reason), error => isLifeboatError(error, 'usage'))
  assert.deepEqual(keysOf(place.store, 'audit/'), [])
})

test('a hold is lifted after the audit says so, also one that does not authenticate', async () => {
  const { place, point } = await held()
  const id = await addHold(place.context, point, 'a test')
  place.damage(holdKey(id))
  assert.deepEqual((await listHolds(place.context.control)).damaged, [holdKey(id)])
  const seen: string[] = []
  const before = ({ verb, key }: StoreRequest) => void (verb === 'get' || seen.push(`${verb} ${key.split('/')[0]}`))
  const context = await place.through(intercepted(place.store, { before }))
  await removeHold(context, { id })
  assert.deepEqual(seen.slice(-2), ['put audit', 'delete holds'])
  assert.deepEqual(keysOf(place.store, 'holds/'), [])
})
