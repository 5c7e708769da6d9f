import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { LifeboatError } from '../../../src/core/errors.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { forEachLimited } from '../../../src/core/scope.ts'
import { type AdaptiveRate, adaptiveRate } from '../../../src/storage/adaptive-rate.ts'
import { memoryStore } from '../../../src/storage/memory.ts'
import type { ObjectStore } from '../../../src/storage/object-store.ts'
import { retrying } from '../../../src/storage/retrying.ts'
import { slowing } from '../../../src/storage/slowing.ts'
import { intercepted } from '../../doubles/intercepted-store.ts'
import { type ManualClock, manualClock } from '../../doubles/manual-clock.ts'

interface Tally {
  asked: number
  refused: number
}

/** Takes so many requests a second, each 20 ms long, and refuses the others at once. */
function strictStore(clock: ManualClock, perSecond: number): { store: ObjectStore; tally: Tally } {
  const tally: Tally = { asked: 0, refused: 0 }
  let tokens = perSecond
  let atMs = clock.monotonicMs()
  const before = async () => {
    tally.asked++
    const nowMs = clock.monotonicMs()
    tokens = Math.min(perSecond, tokens + ((nowMs - atMs) / 1000) * perSecond)
    atMs = nowMs
    if (tokens < 1) {
      tally.refused++
      throw new LifeboatError('store-throttled', 'SlowDown', { retry: 'transient' })
    }
    tokens--
    await clock.sleep(20)
  }
  return { store: intercepted(memoryStore({ clock }), { before }), tally }
}

/** Puts so many objects, 32 at a time. Gives what the store refused of the first and of the second half of its requests. */
async function putMany(clock: ManualClock, store: ObjectStore, tally: Tally, count: number) {
  const patient = retrying(store, { clock, random: seededRandom('slowing'), retryForMs: 600_000 })
  let first: Tally | undefined
  let done = 0
  let settled = false
  const all = forEachLimited(Array(count).keys(), 32, async index => {
    await patient.put(`k/${index}`, [Uint8Array.of(1)])
    if (++done === count / 2) first = { ...tally }
  }).finally(() => {
    settled = true
  })
  while (!settled) await clock.advance(5)
  await all
  assert.ok(first)
  const second = { asked: tally.asked - first.asked, refused: tally.refused - first.refused }
  return { first: first.refused / first.asked, second: second.refused / second.asked, done }
}

suite('slowing', () => {
  test('a store that refuses is asked less, until it refuses little, and everything gets through', async t => {
    const plainClock = manualClock()
    const plain = strictStore(plainClock, 50)
    const without = await putMany(plainClock, plain.store, plain.tally, 1_000)
    const clock = manualClock()
    const { store, tally } = strictStore(clock, 50)
    const found = await putMany(clock, slowing(store, { clock }), tally, 1_000)
    const percent = (share: number) => `${(100 * share).toFixed(1)} %`
    t.diagnostic(`refused without: ${percent(without.first)}, then ${percent(without.second)}`)
    t.diagnostic(`refused with: ${percent(found.first)}, then ${percent(found.second)}`)
    assert.deepEqual([found.done, without.done], [1_000, 1_000])
    assert.ok(plain.tally.refused > 100, `${plain.tally.refused} refusals without it`)
    assert.ok(tally.refused > 0, 'the store did refuse')
    assert.ok(found.second < without.second / 3 && found.second < 0.1, percent(found.second))
    assert.ok(found.second <= found.first)
    assert.ok(clock.monotonicMs() < 2 * plainClock.monotonicMs(), 'and it does not take much longer')
  })

  test('a store that never refuses is never waited for', async () => {
    const clock = manualClock()
    const rate = adaptiveRate(clock)
    for (let round = 0; round < 1_000; round++) await rate.take()
    assert.equal(rate.perSecond(), undefined)
  })

  /** So many requests at once, of which every so-manieth is refused 100 ms later. */
  async function burst(rate: AdaptiveRate, clock: ManualClock, count: number, refusedOneIn: number): Promise<void> {
    const taking = Promise.all(Array.from({ length: count }, () => rate.take()))
    while (!(await Promise.race([taking.then(() => true), clock.advance(100).then(() => false)])));
    for (const [index, takenMs] of (await taking).entries())
      rate.ended(takenMs, index % refusedOneIn === 0 ? 'refused' : 'accepted')
  }

  test('a burst of refusals halves the rate once, and it recovers in time', async () => {
    const clock = manualClock()
    const rate = adaptiveRate(clock)
    await clock.advance(5_000)
    await burst(rate, clock, 40, 1)
    assert.equal(rate.perSecond(), 20)
    await clock.advance(5_000)
    assert.equal(rate.perSecond(), 40)
    await clock.advance(9_000)
    assert.ok(rate.perSecond()! > 120)
    await clock.advance(2_000)
    assert.equal(rate.perSecond(), undefined, 'in the end it is forgotten')
  })

  test('a refusal here and there slows nothing down', async () => {
    const clock = manualClock()
    const rate = adaptiveRate(clock)
    for (let round = 0; round < 20; round++) await burst(rate, clock, 40, 10)
    assert.equal(rate.perSecond(), undefined)
  })

  test('it never stops altogether', async () => {
    const clock = manualClock()
    const rate = adaptiveRate(clock)
    for (let round = 0; round < 10; round++) await burst(rate, clock, 21, 1)
    assert.ok(rate.perSecond()! >= 1)
  })

  test('who is aborted while waiting goes at once', async () => {
    const clock = manualClock()
    const rate = adaptiveRate(clock)
    await burst(rate, clock, 21, 1)
    const stop = new AbortController()
    const waiting = Promise.all(Array.from({ length: 21 }, () => rate.take({ signal: stop.signal })))
    stop.abort(new Error('stopped'))
    await assert.rejects(waiting, /stopped/)
  })
})
