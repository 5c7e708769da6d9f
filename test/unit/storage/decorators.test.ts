import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { isLifeboatError, LifeboatError } from '../../../src/core/errors.ts'
import { limits } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import type { FaultRule } from '../../../src/storage/fault-script.ts'
import { faulty } from '../../../src/storage/faulty.ts'
import { memoryStore } from '../../../src/storage/memory.ts'
import { metered } from '../../../src/storage/metered.ts'
import { probeStore } from '../../../src/storage/probe.ts'
import { type RetryEvent, retrying } from '../../../src/storage/retrying.ts'
import { throttled } from '../../../src/storage/throttled.ts'
import { withoutWrites } from '../../../src/storage/without-writes.ts'
import { type ManualClock, manualClock } from '../../doubles/manual-clock.ts'

const bytes = new Uint8Array(1000).map((_, at) => at & 0xff)
const OUTAGE = { fault: { kind: 'error' }, times: Number.POSITIVE_INFINITY } as const
const hasCode = (code: Parameters<typeof isLifeboatError>[1]) => (error: unknown) => isLifeboatError(error, code)

/** Lets the clock run in steps of `stepMs` until `promise` settles; gives how long that took by this clock. */
async function runUntil(clock: ManualClock, promise: Promise<unknown>, stepMs = 10): Promise<number> {
  const startMs = clock.monotonicMs()
  let settled = false
  const done = promise.then(
    () => {
      settled = true
    },
    () => {
      settled = true
    },
  )
  while (!settled) await clock.advance(stepMs)
  await done
  return clock.monotonicMs() - startMs
}

suite('retrying', () => {
  const setUp = (script: readonly FaultRule[], retryForMs = 60_000) => {
    const clock = manualClock()
    const events: RetryEvent[] = []
    const memory = memoryStore({ clock })
    const inner = faulty(memory, { script, clock })
    const random = seededRandom('retrying')
    const store = retrying(inner, { clock, random, retryForMs, onRetry: event => events.push(event) })
    return { clock, events, memory, inner, store }
  }

  test('tries again after passing errors, waiting longer each time', async () => {
    const { clock, events, store } = setUp([{ verb: 'get', fault: { kind: 'error' }, times: 8 }])
    await store.put('a', [bytes])
    const read = store.get('a')
    await runUntil(clock, read)
    assert.deepEqual(await read, bytes)
    assert.deepEqual(
      events.map(({ attempt }) => attempt),
      [1, 2, 3, 4, 5, 6, 7, 8],
    )
    for (const [index, { delayMs }] of events.entries()) {
      const full = Math.min(5_000, 100 * 2 ** index)
      assert.ok(delayMs >= full / 2 && delayMs <= full, `pause ${index} of ${delayMs} ms`)
    }
    assert.equal(new Set(events.slice(6).map(({ delayMs }) => delayMs)).size, 2, 'the pauses are jittered')
  })

  test('gives up when its time is over, with the last error', async () => {
    const { clock, events, store } = setUp([OUTAGE], 30_000)
    const read = store.get('a')
    const took = await runUntil(clock, read, 50)
    await assert.rejects(read, hasCode('store-unreachable'))
    assert.ok(took <= 30_050 && took >= 25_000, `${took} ms`)
    assert.ok(events.length >= 8)
  })

  test('what waited for its rate before the first failure has all of its patience', async () => {
    const clock = manualClock()
    const memory = memoryStore({ clock })
    const failing = faulty(memory, { script: [{ verb: 'put', fault: { kind: 'error' }, nth: 2, times: 3 }], clock })
    const limited = throttled(failing, { bytesPerSecond: 10, clock })
    const store = retrying(limited, { clock, random: seededRandom('slow'), retryForMs: 250_000 })
    const puts = Promise.all([store.put('a', [new Uint8Array(5000)]), store.put('b', [new Uint8Array(10)])])
    puts.catch(() => undefined)
    // The second put waits 500 s for its turn, twice as long as an outage is ridden out.
    assert.ok((await runUntil(clock, puts, 200)) > 490_000)
    await puts
    assert.equal((await memory.get('b')).length, 10)
  })

  test('never repeats what will not pass', async () => {
    const { events, store } = setUp([
      { verb: 'put', fault: { kind: 'error', code: 'store-denied', retry: 'permanent' } },
    ])
    await assert.rejects(store.put('a', [bytes]), hasCode('store-denied'))
    await assert.rejects(store.get('absent'), hasCode('store-not-found'))
    assert.equal(events.length, 0)
  })

  test('an abort ends the pause at once, with its reason', async () => {
    const { clock, store } = setUp([OUTAGE])
    const stop = new AbortController()
    const read = store.get('a', undefined, { signal: stop.signal })
    read.catch(() => undefined)
    await clock.advance(0)
    const reason = new Error('stopped')
    stop.abort(reason)
    await assert.rejects(read, error => error === reason)
  })

  test('a put that was stored but answered with an error is not a conflict with itself', async () => {
    const { clock, memory, store } = setUp([{ verb: 'put', fault: { kind: 'error-after' }, times: 2 }])
    const put = store.put('lease', [bytes.subarray(0, 10), bytes.subarray(10)], { ifAbsent: true })
    await runUntil(clock, put)
    await put
    assert.deepEqual(memory.snapshot().get('lease')?.bytes, bytes)
  })

  test("but another's object is a conflict, on the first and on a later attempt", async () => {
    for (const script of [[], [{ verb: 'put', fault: { kind: 'error' } } as const]]) {
      const { clock, memory, store } = setUp(script)
      await memory.put('lease', [bytes.subarray(1)])
      const put = store.put('lease', [bytes], { ifAbsent: true })
      await runUntil(clock, put)
      await assert.rejects(put, hasCode('store-conflict'))
      assert.equal(memory.snapshot().get('lease')?.bytes.length, 999)
    }
  })

  test('what a store honours is found out although each of its requests fails twice, and nothing done is done again', async () => {
    const verbs = ['probe', 'put', 'delete'] as const
    const { clock, inner, memory } = setUp(
      verbs.flatMap(verb => [1, 4].map(nth => ({ verb, nth, times: 2, fault: { kind: 'error' } as const }))),
    )
    const { store: counted, meter } = metered(inner)
    const store = retrying(counted, { clock, random: seededRandom('probe') })
    const probed = probeStore(store, 'probe/')
    await runUntil(clock, probed)
    assert.deepEqual(await probed, { conditionalPut: true, versioning: false, objectLock: false })
    assert.equal(memory.snapshot().size, 0)
    const { probe, put, delete: removed } = meter.figures()
    assert.deepEqual([probe.requests, put.requests, removed.requests], [3, 6, 3])
  })

  test('a listing goes on where it broke, without a key twice or left out', async () => {
    const script = [1, 2, 3].map(nth => ({ verb: 'list', nth, fault: { kind: 'error-after', entries: nth } }) as const)
    const { clock, memory, store } = setUp(script)
    const keys = Array.from({ length: 20 }, (_, index) => `k${String(index).padStart(2, '0')}`)
    for (const key of keys) await memory.put(key, [bytes])
    const listing = Array.fromAsync(store.list('k'))
    await runUntil(clock, listing)
    assert.deepEqual(
      (await listing).map(({ key }) => key),
      keys,
    )
  })
})

suite('throttled', () => {
  test('keeps to the rate over many puts, and lets idle time buy only a little', async () => {
    const clock = manualClock()
    const store = throttled(memoryStore({ clock }), { bytesPerSecond: 1000, clock })
    await clock.advance(3_600_000)
    const puts = Promise.all(Array.from({ length: 10 }, (_, index) => store.put(`k${index}`, [bytes])))
    const took = await runUntil(clock, puts, 50)
    assert.ok(took >= 8_500 && took <= 9_100, `10 kB at 1 kB/s went through in ${took} ms`)
  })

  test('reads are paid for by what they brought', async () => {
    const clock = manualClock()
    const store = throttled(memoryStore({ clock }), { bytesPerSecond: 1000, clock })
    await store.put('a', [new Uint8Array(4000)])
    const reads = (async () => {
      for (let round = 0; round < 3; round++) await store.get('a')
      await store.get('a', { offset: 3999, length: 1_000_000 })
      await store.get('a')
    })()
    const took = await runUntil(clock, reads, 50)
    assert.ok(took >= 15_500 && took <= 16_200, `${took} ms`)
  })

  test('requests have a rate of their own', async () => {
    const clock = manualClock()
    const store = throttled(memoryStore({ clock }), { requestsPerSecond: 10, clock })
    const took = await runUntil(clock, Promise.all(Array.from({ length: 30 }, () => store.head('a'))), 50)
    assert.ok(took >= 2_500 && took <= 3_000, `${took} ms`)
  })

  test('who is aborted while waiting pays nothing', async () => {
    const clock = manualClock()
    const store = throttled(memoryStore({ clock }), { bytesPerSecond: 1000, clock })
    await store.put('a', [bytes])
    const stop = new AbortController()
    const waiting = store.put('b', [new Uint8Array(1_000_000)], { signal: stop.signal })
    waiting.catch(() => undefined)
    await clock.advance(10)
    stop.abort(new Error('stopped'))
    await assert.rejects(waiting, /stopped/)
    assert.ok((await runUntil(clock, store.put('c', [bytes]), 50)) < 2_000)
  })
})

test('metered counts requests, failures, bytes and keys by verb', async () => {
  const inner = faulty(memoryStore(), { script: [{ verb: 'get', nth: 2, fault: { kind: 'error' } }] })
  const { store, meter } = metered(inner)
  await store.put('a', [bytes, bytes])
  await store.put('b', [])
  await store.get('a', { offset: 10, length: 20 })
  await assert.rejects(store.get('a'))
  await store.head('a')
  await store.head('absent')
  await Array.fromAsync(store.list(''))
  const before = meter.figures()
  await store.delete(['a', 'b', 'c'])
  const { get, put, head, list, delete: removed } = meter.figures()
  assert.deepEqual(get, { requests: 2, failures: 1, bytes: 20, objects: 1 })
  assert.deepEqual(put, { requests: 2, failures: 0, bytes: 2000, objects: 2 })
  assert.deepEqual([head.requests, list.requests, list.objects], [2, 1, 2])
  assert.deepEqual([removed.requests, removed.objects, before.delete.requests], [1, 3, 0])
})

test('metered counts a request for each 1,000 keys listed or deleted, and believes a store that says what it sent', async () => {
  const memory = memoryStore()
  const { store, meter } = metered(memory)
  const keys = Array.from({ length: 2001 }, (_, n) => `k${n}`)
  for (const key of keys) await memory.put(key, [])
  await Array.fromAsync(store.list('absent'))
  assert.equal(meter.figures().list.requests, 1)
  for await (const _ of store.list('k')) break
  assert.equal(meter.figures().list.requests, 2, 'a listing that is left early')
  await Array.fromAsync(store.list('k'))
  assert.equal(meter.figures().list.requests, 5)
  await store.delete(keys.slice(0, 1000))
  await store.delete(keys)
  assert.equal(meter.figures().delete.requests, 4)

  const sent = { get: 0, head: 0, put: 0, list: 7, delete: 0, lock: 0, now: 0, probe: 0 }
  const telling = metered({ ...memory, sentRequests: () => sent })
  await Array.fromAsync(telling.store.list(''))
  assert.equal(telling.meter.figures().list.requests, 7)
})

suite('without writes', () => {
  test('everything seems to be written, and nothing is', async () => {
    const inner = memoryStore()
    await inner.put('there', [bytes])
    const { store, bytesKept } = withoutWrites(inner)
    await store.put('small', [bytes, bytes])
    await store.put('large', [new Uint8Array(limits.controlObjectMax + 1)])
    assert.deepEqual(await store.get('small', { offset: 1, length: 3 }), bytes.slice(1, 4))
    assert.equal((await store.head('large'))?.size, limits.controlObjectMax + 1)
    await assert.rejects(store.get('large'), { code: 'store-not-found' })
    await store.delete(['there', 'large'])
    assert.equal(bytesKept(), bytes.length * 2)
    await store.put('there', [])
    assert.deepEqual([...inner.snapshot().keys()], ['there'])
    assert.equal((await inner.get('there')).length, bytes.length)
  })
})

suite('faulty', () => {
  test('short and wrong bytes, errors before and after, by verb, key and count; all recorded', async () => {
    const memory = memoryStore()
    const store = faulty(memory, {
      script: [
        { verb: 'get', key: 'packs/', nth: 2, fault: { kind: 'short-body', keep: 3 } },
        { verb: 'get', key: /manifest/, fault: { kind: 'wrong-bytes', at: 5 } },
        { verb: 'put', key: 'lost', fault: { kind: 'error', code: 'store-full', retry: 'permanent' } },
        { verb: 'put', key: 'stored', fault: { kind: 'error-after' } },
        { verb: 'put', key: 'bad', fault: { kind: 'wrong-bytes' } },
      ],
    })
    await store.put('packs/1', [bytes])
    await store.put('manifests/1', [bytes])
    assert.deepEqual(await store.get('packs/1'), bytes)
    assert.deepEqual(await store.get('packs/1'), bytes.subarray(0, 3))
    const wrong = await store.get('manifests/1')
    assert.deepEqual(
      [...wrong.keys()].filter(at => wrong[at] !== bytes[at]),
      [5],
    )
    assert.deepEqual(await store.get('manifests/1'), bytes)
    await assert.rejects(store.put('lost', [bytes]), hasCode('store-full'))
    await assert.rejects(store.put('stored', [bytes]), hasCode('store-unreachable'))
    await store.put('bad', [bytes])
    assert.deepEqual([...memory.snapshot().keys()].sort(), ['bad', 'manifests/1', 'packs/1', 'stored'])
    assert.notDeepEqual(memory.snapshot().get('bad')?.bytes, bytes)
    assert.deepEqual(
      store.fired.map(({ verb, key, fault }) => `${verb} ${key} ${fault.kind}`),
      [
        'get packs/1 short-body',
        'get manifests/1 wrong-bytes',
        'put lost error',
        'put stored error-after',
        'put bad wrong-bytes',
      ],
    )
  })

  test('the same seed gives the same faults', async () => {
    const run = async (seed: string) => {
      const faults = [{ kind: 'error' }, { kind: 'error-after' }] as const
      const store = faulty(memoryStore(), { seeded: { random: seededRandom(seed), probability: 0.4, faults } })
      for (let index = 0; index < 50; index++) await store.put(`k${index}`, [bytes]).catch(() => undefined)
      return store.fired.map(({ key, fault }) => `${key} ${fault.kind}`)
    }
    assert.deepEqual(await run('a'), await run('a'))
    assert.notDeepEqual(await run('a'), await run('b'))
    const count = (await run('a')).length
    assert.ok(count > 5 && count < 40, `${count} of 50`)
  })

  test('killed before or after its k-th mutation it is dead, and the mutation is absent or there', async () => {
    const work = async (store: Pick<ReturnType<typeof faulty>, 'put' | 'delete'>) => {
      await store.put('a', [bytes])
      await store.put('b', [bytes])
      await store.delete(['a', 'b'])
      await store.put('c', [bytes])
    }
    const states: string[] = []
    for (let index = 1; index <= 5; index++)
      for (const when of ['before', 'after'] as const) {
        const memory = memoryStore()
        const store = faulty(memory, {
          onMutation: event => {
            if (event.index === index && event.when === when) throw new LifeboatError('interrupted', 'power cut')
          },
        })
        await assert.rejects(work(store), hasCode('interrupted'))
        await assert.rejects(store.get('a'), hasCode('interrupted'))
        await assert.rejects(Array.fromAsync(store.list('')), hasCode('interrupted'))
        states.push([...memory.snapshot().keys()].join(''))
      }
    assert.deepEqual(states, ['', 'a', 'a', 'ab', 'ab', 'b', 'b', '', '', 'c'])
  })
})
