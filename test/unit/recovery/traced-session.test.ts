/** The trace of a session: what it stores, when, and what the next one reads ahead. */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { cachedImage } from '../../../src/cache/cached-image.ts'
import { ChunkCache } from '../../../src/cache/chunk-cache.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { limits } from '../../../src/core/limits.ts'
import { systemRandom } from '../../../src/core/random.ts'
import { connectNbd } from '../../../src/nbd/client.ts'
import { exportSession } from '../../../src/recovery/export-session.ts'
import { ReplaceableImage } from '../../../src/recovery/replaceable-image.ts'
import { TracedSession, type TracedSessionOptions, type VmTraces } from '../../../src/recovery/traced-session.ts'
import { type BootTrace, latestTrace, putTrace } from '../../../src/repository/boot-trace.ts'
import { MemoryChunkSource } from '../../doubles/chunk-source.ts'
import { manualClock } from '../../doubles/manual-clock.ts'
import { testExporter } from '../../doubles/nbd-exporter.ts'
import { memoryPoint } from '../../doubles/recovery-point.ts'
import { noise, repositoryFixture } from '../../doubles/repository-fixture.ts'
import { placeIn } from '../../doubles/session-place.ts'

const CHUNK = 4096
const folder = await mkdtemp(path.join(tmpdir(), 'lb-trace-'))
after(() => rm(folder, { recursive: true, force: true }))

/** Traces in memory; `put` fails where a failure is set. */
function tracesOf(latest?: BootTrace) {
  const stored: BootTrace[] = latest ? [latest] : []
  const asked = { puts: 0 }
  const traces: VmTraces = {
    latest: async () => stored.at(-1),
    put: async trace => {
      asked.puts++
      stored.push({ ...trace, touches: [...trace.touches] })
    },
  }
  return { stored, asked, traces }
}

/** A session over one disk of 1000 chunks, whose guest reads chunks by number. */
async function session(traces: VmTraces, store: TracedSessionOptions['store'] = 'if-better') {
  const clock = manualClock()
  const source = new MemoryChunkSource(noise('traced', 1000 * CHUNK), { chunkSize: CHUNK, storedLength: 500_000 })
  const traced = new TracedSession({ traces, clock, cacheBytes: 1e8, store })
  const image = cachedImage(source, { cache: new ChunkCache({ maxBytes: 1e8 }), readAhead: { maxWindow: 0 } })
  const base = new ReplaceableImage(image, {
    onRead: (bytes, offset) => traced.onRead('vda', bytes, offset),
    onWait: traced.onWait,
  })
  const point = memoryPoint({ vda: source })
  traced.begin({ point, disks: [{ name: 'vda', size: source.size, base, stats: () => base.stats() }] })
  await clock.advance(0)
  return {
    traced,
    clock,
    source,
    async read(...chunks: readonly number[]) {
      for (const chunk of chunks) await base.readInto(new Uint8Array(CHUNK), chunk * CHUNK)
      await clock.advance(0)
    },
  }
}
const span = (first: number, count: number) => Array.from({ length: count }, (_, i) => first + i)
const chunksOf = (trace: BootTrace | undefined) => trace?.touches.map(({ chunk }) => chunk)

const stepMs = limits.traceCalmMs / limits.traceCalmSteps

test('a trace is stored when a minute has touched next to nothing, once, and nothing is recorded after that', async () => {
  const { stored, asked, traces } = tracesOf()
  const { traced, clock, read } = await session(traces)
  await clock.advance(2 * limits.traceMs)
  assert.equal(stored.length, 0, 'a guest that has not begun is waited for')
  const few = limits.traceCalmTouches - 1
  await read(...span(100, 50))
  for (let step = 1; step <= limits.traceCalmSteps; step++) {
    await clock.advance(stepMs)
    // Somebody who looks around, and who comes back to what was read.
    if (step === 3) await read(...span(0, few), ...span(100, 50))
    assert.equal(asked.puts, 0, `step ${step}`)
  }
  await clock.advance(stepMs - 1)
  assert.equal(asked.puts, 0)
  await clock.advance(1)
  assert.deepEqual(chunksOf(stored[0]), [...span(100, 50), ...span(0, few)])
  await read(900)
  await traced[Symbol.asyncDispose]()
  assert.deepEqual([asked.puts, traced.figures().tracedChunks], [1, 50 + few])
})

test('a boot that pauses for less than a minute goes on, and one that never comes to rest ends with its time', async () => {
  const { stored, asked, traces } = tracesOf()
  const { traced, clock, read } = await session(traces)
  await read(...span(0, 20))
  // Like an emulated guest between its boot loader and its root file system.
  for (let step = 1; step < limits.traceCalmSteps; step++) await clock.advance(stepMs)
  await read(...span(20, 20))
  assert.equal(asked.puts, 0)
  let next = 40
  for (let step = limits.traceCalmSteps; step < limits.traceMs / stepMs; step++) {
    await clock.advance(stepMs)
    assert.equal(asked.puts, 0)
    await read(...span(next, 4))
    next += 4
  }
  await clock.advance(stepMs)
  assert.deepEqual(chunksOf(stored[0]), span(0, next))
  await traced[Symbol.asyncDispose]()
  assert.equal(asked.puts, 1)
})

test('a session that ends before stores what it has; one that read nothing stores nothing', async () => {
  const { stored, traces } = tracesOf()
  const first = await session(traces)
  await first.traced[Symbol.asyncDispose]()
  assert.equal(stored.length, 0)
  const second = await session(traces)
  await second.read(4)
  await second.traced[Symbol.asyncDispose]()
  assert.deepEqual(chunksOf(stored[0]), [4])
})

test('a trace is replaced when a tenth was not foreseen, or when it foresaw twice too much; not by half a boot', async () => {
  const first = tracesOf()
  const boot = await session(first.traces)
  await boot.read(...span(0, 100))
  await boot.traced[Symbol.asyncDispose]()
  const [known] = first.stored
  for (const { chunks, isWhole, replaced } of [
    { chunks: [...span(0, 90), ...span(500, 10)], isWhole: true, replaced: false },
    { chunks: [...span(0, 89), ...span(500, 11)], isWhole: true, replaced: true },
    { chunks: span(0, 49), isWhole: false, replaced: false },
    { chunks: span(0, 49), isWhole: true, replaced: true },
    { chunks: span(0, 50), isWhole: true, replaced: false },
  ]) {
    const { asked, traces } = tracesOf(known)
    const { traced, clock, read } = await session(traces)
    await read(...chunks)
    for (let step = 0; isWhole && step <= limits.traceCalmSteps; step++) await clock.advance(stepMs)
    await traced[Symbol.asyncDispose]()
    assert.equal(asked.puts, replaced ? 1 : 0, `${chunks.length} chunks up to ${chunks.at(-1)}, whole: ${isWhole}`)
  }
})

test('an export stores a trace where there is none, and a guest that has written before never does', async () => {
  for (const [store, puts] of [
    ['if-none', [1, 0]],
    ['never', [0, 0]],
  ] as const) {
    const first = tracesOf()
    const before = await session(first.traces, store)
    await before.read(1, 2, 3)
    await before.traced[Symbol.asyncDispose]()
    const known = { point: memoryPoint({}).id, chunkSize: CHUNK, disks: ['vda'], touches: [{ disk: 0, chunk: 9 }] }
    const second = tracesOf(known)
    const after = await session(second.traces, store)
    await after.read(1, 2, 3)
    await after.traced[Symbol.asyncDispose]()
    assert.deepEqual([first.asked.puts, second.asked.puts], puts)
  }
})

test('a store that refuses or never answers keeps nobody', async () => {
  const refused = tracesOf()
  refused.traces.put = () => Promise.reject(new Error('403'))
  const first = await session(refused.traces)
  await first.read(1)
  await first.traced[Symbol.asyncDispose]()
  const silent = await session({
    latest: ({ signal }) =>
      new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason), { once: true })),
    put: () => Promise.reject(new Error('nobody knows whether it is better')),
  })
  await silent.read(1)
  await silent.traced[Symbol.asyncDispose]()
  let given: AbortSignal | undefined
  const slow = await session({
    latest: async () => undefined,
    put: (_, { signal }) => {
      given = signal
      return new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason), { once: true }))
    },
  })
  await slow.read(1)
  const ended = slow.traced[Symbol.asyncDispose]()
  await slow.clock.advance(0)
  await slow.clock.advance(limits.traceStoreMs - 1)
  assert.equal(given?.aborted, false)
  await slow.clock.advance(1)
  assert.equal(given?.aborted, true)
  await ended
})

test('the next session of a VM reads ahead what the first one touched, and its reads do not wait', async () => {
  const fixture = await repositoryFixture()
  const { control } = fixture.repository.reading
  const count = 512
  const disk = (seed: string) => [
    { name: 'vda', size: count * CHUNK, writes: [[0, noise(seed, count * CHUNK)] as const] },
  ]
  const points = [await fixture.writePoint({ disks: disk('old') }), await fixture.writePoint({ disks: disk('new') })]
  const traces: VmTraces = {
    latest: options => latestTrace(control, points[0]!.vm, options),
    put: (trace, options) =>
      putTrace(control, points[0]!.vm, trace, { now: new Date(), random: systemRandom, ...options }),
  }
  // Far apart and in no order: what read-ahead cannot foresee.
  const places = Array.from({ length: 100 }, (_, i) => (i * 213) % count)
  const waits: number[] = []
  for (const [i, point] of points.entries()) {
    const socket = path.join(folder, `${i}.sock`)
    await using running = await exportSession({
      ...placeIn(folder),
      repository: fixture.repository,
      point,
      session: `traced-${i}`,
      listen: { socket },
      openOverlays: () => Promise.reject(new Error('read-only')),
      exporter: testExporter,
      cache: new ChunkCache({ maxBytes: 64e6 }),
      traces,
    })
    const foreseen = i === 0 ? 0 : places.length
    while (running.figures().replayedChunks! < foreseen) await systemClock.sleep(5)
    await using client = await connectNbd({ socket, exportName: 'vda', clock: systemClock })
    const before = running.live.figures().cacheHits
    for (const place of places) await client.readInto(Buffer.alloc(512), place * CHUNK)
    waits.push(places.length - (running.live.figures().cacheHits - before))
    assert.equal(running.figures().tracedChunks, places.length)
  }
  assert.deepEqual(waits, [places.length, 0])
  assert.deepEqual(chunksOf(await traces.latest({})), places)
})
