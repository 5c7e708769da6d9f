/** Recording what a guest touches, and reading it ahead of the next one. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { cachedImage } from '../../../src/cache/cached-image.ts'
import { ChunkCache } from '../../../src/cache/chunk-cache.ts'
import { LifeboatError } from '../../../src/core/errors.ts'
import { pointId } from '../../../src/core/ids.ts'
import { limits } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { ReplaceableImage } from '../../../src/recovery/replaceable-image.ts'
import { type ReplayOptions, TraceReplay } from '../../../src/recovery/replay-trace.ts'
import { TraceRecorder } from '../../../src/recovery/trace-recorder.ts'
import type { BootTrace, Touch } from '../../../src/repository/boot-trace.ts'
import { MemoryChunkSource } from '../../doubles/chunk-source.ts'
import { manualClock } from '../../doubles/manual-clock.ts'

const CHUNK = 4096
const settle = async () => {
  for (let i = 0; i < 20; i++) await nextTurn()
}
const of = (disk: number, ...chunks: number[]): Touch[] => chunks.map(chunk => ({ disk, chunk }))
const traceOf = (touches: readonly Touch[], disks = ['vda']): BootTrace => ({
  point: pointId('00000000000000a1'),
  chunkSize: CHUNK,
  disks,
  touches,
})

test('a recorder keeps first touches in order, each chunk of each disk once', async () => {
  const told: Touch[] = []
  const recorder = new TraceRecorder({ chunkSize: CHUNK, diskCount: 2, onTouch: touch => told.push(touch) })
  recorder.note(0, 5 * CHUNK, CHUNK)
  recorder.note(1, 5 * CHUNK + 10, 10)
  recorder.note(0, 4 * CHUNK + 100, 2 * CHUNK)
  recorder.note(0, 0, 0)
  recorder.note(2, 0, CHUNK)
  await recorder.began
  assert.deepEqual(recorder.touches, [...of(0, 5), ...of(1, 5), ...of(0, 4, 6)])
  assert.deepEqual(told, recorder.touches)
  recorder.end()
  await recorder.ended
  recorder.note(0, 9 * CHUNK, CHUNK)
  assert.equal(recorder.touches.length, 4)
})

test('a recorder that is full ends by itself', async () => {
  const recorder = new TraceRecorder({ chunkSize: CHUNK, diskCount: 1, touchesMax: 3 })
  recorder.note(0, 7 * CHUNK, 100 * CHUNK)
  await recorder.ended
  assert.deepEqual(recorder.touches, of(0, 7, 8, 9))
})

/** A disk of different chunks whose records lie so far apart that only neighbours share a GET. */
function diskOf(chunks: number, holes: readonly number[] = [], cold = false) {
  const bytes = seededRandom('traced')(chunks * CHUNK).slice()
  for (const hole of holes) bytes.fill(0, hole * CHUNK, (hole + 1) * CHUNK)
  const source = new MemoryChunkSource(bytes, { chunkSize: CHUNK, storedLength: 500_000, cold })
  return {
    source,
    image: cachedImage(source, { cache: new ChunkCache({ maxBytes: 1e8 }), readAhead: { maxWindow: 0 } }),
  }
}
const slotsOf = (source: MemoryChunkSource) => source.fetches.map(refs => refs.map(({ slot }) => slot))

test('scattered chunks are fetched once each, neighbours in one call, holes and what is kept not at all', async () => {
  for (const cold of [false, true]) {
    const { source, image } = diskOf(400, [11, 12], cold)
    await using reader = image
    await reader.readInto(new Uint8Array(CHUNK), 300 * CHUNK)
    assert.equal(await reader.prefetchChunks([3, 4, 10, 11, 12, 200, 300, 399], { getsAtOnce: 2 }), 5)
    assert.deepEqual(slotsOf(source), [[300], [3, 4], [10], [200], [399]])
    assert.equal(source.locates, cold ? 1 + 4 : 0, 'one question for each leaf')
    assert.equal(await reader.prefetchChunks([3, 10], { getsAtOnce: 2 }), 0)
  }
})

test('no more GETs of a prefetch are under way than it was allowed, and a read goes past those that wait', async () => {
  const { source, image } = diskOf(100)
  await using reader = image
  const open = Promise.withResolvers<void>()
  source.beforeDeliver = (_ref, index) => (index === 90 ? Promise.resolve() : open.promise)
  const prefetched = reader.prefetchChunks([0, 10, 20, 30, 90], { getsAtOnce: 3 })
  await settle()
  assert.deepEqual(slotsOf(source), [[0], [10], [20]])
  await reader.readInto(new Uint8Array(CHUNK), 90 * CHUNK)
  open.resolve()
  assert.equal(await prefetched, 4, 'the guest has fetched the fifth')
  assert.deepEqual(slotsOf(source).slice(3), [[90], [30]])
})

/** A disk that only keeps what it was asked for; each call lasts until it is let go. */
class AskedDisk {
  readonly size = 10_000 * CHUNK
  readonly blockSize = CHUNK
  readonly calls: { chunks: readonly number[]; gets: number; done: (failure?: unknown) => void }[] = []

  prefetchChunks(
    chunks: readonly number[],
    { getsAtOnce, signal }: { getsAtOnce: number; signal?: AbortSignal },
  ): Promise<number> {
    return new Promise((resolve, reject) => {
      signal?.addEventListener('abort', () => reject(signal.reason), { once: true })
      const done = (failure?: unknown) => (failure ? reject(failure) : resolve(chunks.length))
      this.calls.push({ chunks, gets: getsAtOnce, done })
    })
  }
}

function replayOf(touches: readonly Touch[], more: Partial<ReplayOptions> = {}) {
  const disk = new AskedDisk()
  const replay = new TraceReplay({
    disks: new Map([['vda', disk]]),
    trace: traceOf(touches),
    budgetBytes: 1e9,
    isGuestWaiting: () => false,
    clock: manualClock(),
    ...more,
  })
  return { disk, replay }
}
const W = limits.traceWindowTouches
/** Backwards, so that order of place is not order of time. */
const backwards = (count: number) => of(0, ...Array.from({ length: count }, (_, i) => 5000 - i))

test('windows go in the order of the trace, each in order of place, few at once', async () => {
  const { disk, replay } = replayOf(backwards(3 * W + 1))
  const run = replay.run()
  await settle()
  assert.equal(disk.calls.length, limits.traceWindowsInFlight)
  assert.equal(disk.calls[0]!.gets, limits.traceWindowGets)
  assert.deepEqual(
    disk.calls[0]!.chunks,
    Array.from({ length: W }, (_, i) => 5000 - W + 1 + i),
  )
  assert.equal(disk.calls[1]!.chunks.at(-1), 5000 - W)
  for (let i = 0; i < 4; i++) {
    disk.calls[i]!.done()
    await settle()
  }
  await run
  assert.equal(disk.calls.length, 4)
  assert.equal(replay.fetched, 3 * W + 1)
})

test('what a disk does not have, and disks that are not there or of other chunks, are left out', async () => {
  const vda = new AskedDisk()
  const other = Object.assign(new AskedDisk(), { blockSize: 2 * CHUNK })
  const disks = new Map([
    ['vda', vda],
    ['other', other],
  ])
  const touches = [...of(0, 5), ...of(1, 1), ...of(2, 1), ...of(0, 10_000, 9_999)]
  const { replay } = replayOf([], { disks, trace: traceOf(touches, ['vda', 'gone', 'other']) })
  const run = replay.run()
  await settle()
  assert.deepEqual([vda.calls.map(({ chunks }) => chunks), other.calls.length], [[[5, 9_999]], 0])
  vda.calls[0]!.done()
  await run
})

test('while a read of the guest waits no window is begun', async () => {
  let waiting = true
  const { disk, replay } = replayOf(backwards(3 * W), { isGuestWaiting: () => waiting })
  const run = replay.run()
  await settle()
  assert.equal(disk.calls.length, 0)
  waiting = false
  replay.wake()
  await settle()
  assert.equal(disk.calls.length, 2)
  waiting = true
  disk.calls[0]!.done()
  await settle()
  assert.equal(disk.calls.length, 2)
  waiting = false
  replay.wake()
  await settle()
  assert.equal(disk.calls.length, 3)
  disk.calls[1]!.done()
  disk.calls[2]!.done()
  await run
})

test('a guest whose reads always wait lets one window in at a time, and for twice as long none', async () => {
  const clock = manualClock()
  const { disk, replay } = replayOf(backwards(4 * W), { isGuestWaiting: () => true, clock })
  const run = replay.run()
  await settle()
  await clock.advance(limits.traceYieldMs - 1)
  assert.equal(disk.calls.length, 0)
  await clock.advance(1)
  assert.equal(disk.calls.length, 1)
  // A slow line: the window takes ten times as long.
  const took = 10 * limits.traceYieldMs
  await clock.advance(took)
  assert.equal(disk.calls.length, 1, 'a second one beside it is not let in')
  disk.calls[0]!.done()
  await settle()
  await clock.advance(took - 1)
  assert.equal(disk.calls.length, 1)
  await clock.advance(1)
  assert.equal(disk.calls.length, 2, 'begun twice as long after the first as that took')
  for (let i = 1; i < 4; i++) {
    disk.calls[i]!.done()
    await settle()
    await clock.advance(2 * took)
  }
  await run
  assert.equal(clock.nextMs(), undefined, 'nothing is left that would wake up')
})

test('it stays within its budget ahead of the guest, and goes on as the guest follows', async () => {
  const { disk, replay } = replayOf(backwards(4 * W), { budgetBytes: 2 * W * CHUNK })
  const run = replay.run()
  await settle()
  disk.calls[0]!.done()
  disk.calls[1]!.done()
  await settle()
  assert.equal(disk.calls.length, 2, 'the guest has touched nothing')
  for (let i = 0; i < W - 1; i++) replay.touched('vda', 5000 - i)
  await settle()
  assert.equal(disk.calls.length, 2)
  replay.touched('vda', 5000 - W + 1)
  await settle()
  assert.equal(disk.calls.length, 3)
  // The guest is quicker: what it has come to is not asked for.
  for (let i = W; i < 4 * W - 1; i++) replay.touched('vda', 5000 - i)
  await settle()
  assert.deepEqual(disk.calls[3]?.chunks, [5000 - 4 * W + 1])
  disk.calls[2]!.done()
  disk.calls[3]!.done()
  await run
})

test('a budget that is smaller than a window makes smaller windows, and none nothing', async () => {
  const { disk, replay } = replayOf(backwards(20), { budgetBytes: 8 * CHUNK })
  const stop = new AbortController()
  const run = assert.rejects(replay.run({ signal: stop.signal }), /the end/)
  await settle()
  assert.deepEqual(
    disk.calls.map(({ chunks }) => chunks.length),
    [8],
  )
  stop.abort(new Error('the end'))
  await run
  const { disk: none, replay: nothing } = replayOf(backwards(20), { budgetBytes: CHUNK - 1 })
  await nothing.run()
  assert.equal(none.calls.length, 0)
})

test('it ends with its signal, wherever it waits, and with what it has under way', async () => {
  for (const isGuestWaiting of [() => true, () => false]) {
    const { disk, replay } = replayOf(backwards(5 * W), { isGuestWaiting })
    const stop = new AbortController()
    const run = assert.rejects(replay.run({ signal: stop.signal }), /the end/)
    await settle()
    stop.abort(new Error('the end'))
    await run
    assert.equal(disk.calls.length, isGuestWaiting() ? 0 : 2)
  }
})

test('damage costs its window, a store that fails ends it, and neither is told', async () => {
  const { disk, replay } = replayOf(backwards(5 * W))
  const run = replay.run()
  await settle()
  disk.calls[0]!.done(new LifeboatError('corrupt-object', 'a damaged chunk'))
  await settle()
  assert.equal(disk.calls.length, 3)
  disk.calls[1]!.done(new LifeboatError('store-unreachable', 'an outage'))
  disk.calls[2]!.done()
  await run
  assert.equal(disk.calls.length, 3)
})

test('an image tells of reads with their places, and of those that wait', async () => {
  const { source, image } = diskOf(8)
  const open = Promise.withResolvers<void>()
  source.beforeDeliver = () => open.promise
  const told: (readonly number[])[] = []
  let waiting = 0
  await using base = new ReplaceableImage(image, {
    onRead: (bytes, offset) => told.push([bytes, offset]),
    onWait: change => {
      waiting += change
    },
  })
  const prefetched = base.prefetchChunks([5], { getsAtOnce: 1 })
  assert.equal(waiting, 0, 'nobody waits for what is read ahead')
  const read = base.readInto(new Uint8Array(10), CHUNK)
  assert.equal(waiting, 1)
  open.resolve()
  await Promise.all([read, prefetched])
  assert.ok(base.borrow(CHUNK, 20))
  assert.deepEqual(
    [waiting, told],
    [
      0,
      [
        [10, CHUNK],
        [20, CHUNK],
      ],
    ],
  )
})
