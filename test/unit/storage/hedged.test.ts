import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError, LifeboatError } from '../../../src/core/errors.ts'
import { limits } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import type { AbortOptions } from '../../../src/core/scope.ts'
import { hedged } from '../../../src/storage/hedged.ts'
import { memoryStore } from '../../../src/storage/memory.ts'
import type { ObjectStore } from '../../../src/storage/object-store.ts'
import { elapsing, manualClock } from '../../doubles/manual-clock.ts'

const RANGE = { offset: 0, length: 100 }

/** A store whose GETs take as long as `takes` says for the n-th, negative to fail then. */
async function slowStore(takes: (n: number) => number) {
  const clock = manualClock()
  const memory = memoryStore({ clock })
  await memory.put('a', [new Uint8Array(1_000).fill(5)])
  const seen = { gets: 0, aborted: 0, open: 0 }
  const inner: ObjectStore = {
    ...memory,
    async get(key, range, { signal }: AbortOptions = {}) {
      const ms = takes(seen.gets++)
      seen.open++
      try {
        await clock.sleep(Math.abs(ms), { signal })
        if (ms < 0) throw new LifeboatError('store-unreachable', 'gone', { retry: 'transient' })
        return await memory.get(key, range)
      } catch (error) {
        if (signal?.aborted) seen.aborted++
        throw error
      } finally {
        seen.open--
      }
    },
  }
  const store = hedged(inner, { clock })
  const timed = async (options?: AbortOptions) => {
    const startedMs = clock.monotonicMs()
    await elapsing(clock, store.get('a', RANGE, options))
    return clock.monotonicMs() - startedMs
  }
  return { clock, store, seen, timed }
}

test('a GET that hangs is asked again once when it takes longer than is usual; the first answer wins, the other is aborted', async () => {
  const { store, seen, timed } = await slowStore(n => (n === 100 ? 30_000 : 20 + (n % 10)))
  for (let n = 0; n < 100; n++) await timed()
  assert.equal(store.hedges().hedged, 0, 'what is usual is not asked twice')
  const took = await timed()
  assert.ok(took < 100, `${took} ms instead of 30 s`)
  assert.deepEqual([store.hedges().hedged, store.hedges().won, seen.gets], [1, 1, 102])
  await new Promise(setImmediate)
  assert.deepEqual([seen.aborted, seen.open], [1, 0])
})

test('the first one may still win, and the second is aborted then', async () => {
  const { store, seen, timed } = await slowStore(n => (n === 100 ? 60 : n === 101 ? 30_000 : 20))
  for (let n = 0; n < 100; n++) await timed()
  assert.ok((await timed()) <= 62)
  await new Promise(setImmediate)
  assert.deepEqual([store.hedges().hedged, store.hedges().won, seen.aborted, seen.open], [1, 0, 1, 0])
})

test('extra requests stay below their share however many hang', async () => {
  const random = seededRandom('hang')
  const { store, seen, timed } = await slowStore(() => (random(1)[0]! < 10 ? 3_000 : 20))
  for (let n = 0; n < 2_000; n++) await timed()
  const { gets, hedged: asked, withheld } = store.hedges()
  console.log(`${gets} GETs, one in 25 slow: ${asked} asked twice, ${withheld} withheld`)
  assert.ok(asked <= gets * limits.hedgeShare + limits.hedgesAtOnce && seen.gets === gets + asked)
  assert.ok(asked > 40)
})

test('a failure is told at once; while two are under way the other is waited for, and of two the first is told', async () => {
  const failing = await slowStore(() => -10)
  const error = await failing.timed().catch(failure => failure)
  assert.ok(isLifeboatError(error, 'store-unreachable'))
  const one = await slowStore(n => (n === 100 ? -50 : n === 101 ? 40 : 20))
  for (let n = 0; n < 100; n++) await one.timed()
  assert.ok((await one.timed()) <= 75)
  const both = await slowStore(n => (n >= 100 ? -50 : 20))
  for (let n = 0; n < 100; n++) await both.timed()
  await assert.rejects(both.timed(), failure => isLifeboatError(failure, 'store-unreachable'))
  assert.equal(both.store.hedges().hedged, 1)
})

test('an abort ends both', async () => {
  const { clock, store, seen, timed } = await slowStore(n => (n >= 100 ? 30_000 : 20))
  for (let n = 0; n < 100; n++) await timed()
  const stop = new AbortController()
  const read = store.get('a', RANGE, { signal: stop.signal })
  const rejected = assert.rejects(read, /stopped/)
  await clock.advance(100)
  assert.equal(seen.open, 2)
  stop.abort(new Error('stopped'))
  await rejected
  await new Promise(setImmediate)
  assert.equal(seen.open, 0)
})

test('a store that was asked too much is not asked twice for a while', async () => {
  const clock = manualClock()
  const memory = memoryStore({ clock })
  await memory.put('a', [new Uint8Array(1_000)])
  let next: 'quick' | 'slow' | 'refused' = 'quick'
  const inner: ObjectStore = {
    ...memory,
    async get(key, range, { signal }: AbortOptions = {}) {
      await clock.sleep(next === 'slow' ? 1_000 : 10, { signal })
      if (next === 'refused') throw new LifeboatError('store-throttled', 'slow down', { retry: 'transient' })
      return memory.get(key, range)
    },
  }
  const store = hedged(inner, { clock })
  const get = () => elapsing(clock, store.get('a', RANGE))
  for (let n = 0; n < 64; n++) await get()
  next = 'refused'
  await assert.rejects(get())
  next = 'slow'
  await get()
  assert.deepEqual([store.hedges().hedged, store.hedges().withheld], [0, 1])
  await clock.advance(limits.hedgeRestMs)
  await get()
  assert.equal(store.hedges().hedged, 1)
})
