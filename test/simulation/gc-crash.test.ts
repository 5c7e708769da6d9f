/**
 * A collection whose host dies after its k-th change of the store, for every k, or whose k-th change fails: every point
 * that is kept reads bit for bit, none that was forgotten comes back, and the next collection finishes the work.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LifeboatError } from '../../src/core/errors.ts'
import { leaseId } from '../../src/core/ids.ts'
import { limits } from '../../src/core/limits.ts'
import { collectGarbage } from '../../src/maintenance/gc.ts'
import { leaseKey, pointKey } from '../../src/repository/object-keys.ts'
import type { MemoryStore } from '../../src/storage/memory.ts'
import { assertWhole, collectionTale, forgetPoint } from '../doubles/collection.ts'
import { intercepted, type StoreRequest } from '../doubles/intercepted-store.ts'
import { passing } from '../doubles/manual-clock.ts'
import { keysOf, pointNumber, storedBytes, timeNumber } from '../doubles/memory-repository.ts'

type Ending = 'dies after' | 'fails before' | 'answer lost'

const dead = leaseId('dead'.repeat(4))

const packBytes = (store: MemoryStore) => storedBytes(store, 'packs/') + storedBytes(store, 'meta/')

/** Points 1 and 4 were forgotten, and a writer has died. */
async function story() {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 1)
  await forgetPoint(context, 4, 'other')
  await context.control.put('lease', leaseKey(dead), {
    counter: 4,
    host: 'dead-host',
    kind: 'backup',
    vm: 'vm',
    bases: [],
    manifest: pointKey('vm', timeNumber(9), pointNumber(9)),
    refreshMs: 1000,
    expiryMs: 5000,
    created: '2026-01-02T03:04:05.000Z',
  })
  return tale
}

/** Gives the number of changes that were made, and what the last of them was. */
async function run(k: number, ending: Ending) {
  const tale = await story()
  let changes = 0
  let last: StoreRequest | undefined
  const numbers = new Map<StoreRequest, number>()
  let isDead = false
  const gone = () => new LifeboatError('store-unreachable', 'the host died')
  const through = intercepted(tale.store, {
    before(request) {
      if (isDead) throw gone()
      if (request.verb !== 'put' && request.verb !== 'delete') return
      numbers.set(request, ++changes)
      if (changes === k) last = request
      if (changes === k && ending === 'fails before') throw gone()
    },
    after(request) {
      if (isDead) throw gone()
      if (numbers.get(request) !== k || ending === 'fails before') return
      isDead = ending === 'dies after'
      throw gone()
    },
  })
  let isFinished = false
  try {
    await passing(tale.clock, collectGarbage(await tale.context(through), { graceMs: 1000 }), 1000)
    isFinished = true
  } catch (error) {
    assert.match(String(error), /the host died/)
  }
  return { tale, changes, last, isFinished }
}

for (const ending of ['dies after', 'fails before', 'answer lost'] as const)
  test(`a collection that ${ending} any change of the store harms nothing`, async t => {
    const whole = await run(Number.POSITIVE_INFINITY, ending)
    assert.ok(whole.isFinished)
    const clean = packBytes(whole.tale.store)
    const indexes = keysOf(whole.tale.store, 'index/')
    const kinds = new Set<string>()
    for (let k = 1; k <= whole.changes; k++) {
      const { tale, last, isFinished } = await run(k, ending)
      assert.ok(last, `change ${k} of ${whole.changes} was reached`)
      kinds.add(`${last.verb} ${last.key.split('/')[0]}`)
      assert.equal(isFinished, false, `${last.verb} ${last.key}`)
      await assertWhole(tale, [2, 3])
      const left = keysOf(tale.store, 'gc/').length
      await passing(tale.clock, collectGarbage(await tale.context(), { graceMs: 0 }), 1000)
      await assertWhole(tale, [2, 3])
      assert.deepEqual(keysOf(tale.store, 'forgotten/'), [])
      assert.deepEqual(keysOf(tale.store, 'leases/'), [])
      assert.equal(keysOf(tale.store, 'points/').length, 2)
      assert.deepEqual(keysOf(tale.store, 'index/'), indexes, `after ${last.verb} ${last.key}`)
      // What a run that died has copied and not deleted is garbage like any other, of which a little may stay.
      const bytes = packBytes(tale.store)
      assert.ok(bytes * (1 - limits.garbageShare) <= clean, `after ${last.verb} ${last.key}: ${bytes} of ${clean}`)
      assert.equal(keysOf(tale.store, 'gc/').length, left, 'nobody else finishes a dead run')
      await collectGarbage(await tale.context(), { graceMs: 0, exclusive: true })
      assert.deepEqual(keysOf(tale.store, 'gc/'), [])
    }
    t.diagnostic(`${whole.changes} changes: ${[...kinds].sort().join(', ')}`)
    for (const kind of ['put gc', 'put fences', 'delete leases', 'put audit', 'delete points', 'delete forgotten'])
      assert.ok(kinds.has(kind), kind)
    assert.ok(kinds.has('put packs') && kinds.has('delete packs') && kinds.has('put meta') && kinds.has('delete gc'))
  })
