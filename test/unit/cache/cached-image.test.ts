import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'
import fc from 'fast-check'
import { cachedImage } from '../../../src/cache/cached-image.ts'
import { ChunkCache } from '../../../src/cache/chunk-cache.ts'
import { LifeboatError } from '../../../src/core/errors.ts'
import { limits } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { MemoryChunkSource } from '../../doubles/chunk-source.ts'

const KiB = 1024
const CHUNK = 4 * KiB
const OFF = { maxWindow: 0 }

/** `chunks` chunks of different content; those named in `holes` are zeros. */
function image(chunks: number, holes: readonly number[] = [], tail = 0): Uint8Array {
  const bytes = seededRandom('image')(chunks * CHUNK - tail).slice()
  for (const hole of holes) bytes.fill(0, hole * CHUNK, (hole + 1) * CHUNK)
  return bytes
}

const read = async (
  reader: { readInto(t: Uint8Array, o: number, x?: { signal?: AbortSignal }): Promise<void> },
  offset: number,
  length: number,
  signal?: AbortSignal,
) => {
  const target = new Uint8Array(length)
  await reader.readInto(target, offset, { signal })
  return target
}
const joinViews = (views: readonly Uint8Array[]) => new Uint8Array(Buffer.concat(views))
const same = (actual: Uint8Array, expected: Uint8Array) =>
  assert.equal(Buffer.compare(actual, expected), 0, 'the bytes are those of the image')
const settle = async () => {
  for (let i = 0; i < 5; i++) await nextTurn()
}

/** Holds every delivery back until `open` is called. */
function gate(source: MemoryChunkSource) {
  const opened = Promise.withResolvers<void>()
  source.beforeDeliver = async (_ref, _index, signal) => {
    const aborted = Promise.withResolvers<never>()
    signal?.addEventListener('abort', () => aborted.reject(signal.reason), { once: true })
    await Promise.race([opened.promise, aborted.promise])
  }
  return opened.resolve
}

test('reads of any range give the image, through locate or locateNow, with borrowed views or without', async () => {
  const bytes = image(9, [2, 3, 7], 1000)
  for (const cold of [false, true]) {
    const source = new MemoryChunkSource(bytes, { chunkSize: CHUNK, cold })
    await using reader = cachedImage(source, { cache: new ChunkCache({ maxBytes: 1e6 }) })
    assert.equal(reader.size, bytes.length)
    for (const [offset, length] of [
      [0, 1],
      [CHUNK - 1, 2],
      [0, bytes.length],
      [5, 3 * CHUNK],
      [2 * CHUNK, CHUNK],
      [bytes.length - 1, 1],
      [100, 0],
      [bytes.length, 0],
    ] as const) {
      same(await read(reader, offset, length), bytes.slice(offset, offset + length))
      const borrowed = reader.borrow(offset, length)
      if (cold) assert.equal(borrowed, undefined)
      else same(joinViews(borrowed!.views), bytes.slice(offset, offset + length))
      borrowed?.release()
    }
    await assert.rejects(read(reader, bytes.length - 1, 2), RangeError)
    await assert.rejects(read(reader, -1, 2), RangeError)
    assert.equal(reader.borrow(bytes.length - 1, 2), undefined)
  }
})

test('borrow answers in the same turn what is in memory or zero, never waits and never fetches', async () => {
  const bytes = image(8, [4, 5, 6])
  const source = new MemoryChunkSource(bytes, { chunkSize: CHUNK })
  const cache = new ChunkCache({ maxBytes: 1e6 })
  await using reader = cachedImage(source, { cache, readAhead: OFF })
  assert.equal(reader.borrow(0, 10), undefined)
  const zeros = reader.borrow(4 * CHUNK + 7, 2 * CHUNK)!
  assert.equal(zeros.views.length, 1, 'neighbouring zero chunks are one view')
  assert.equal(zeros.views[0]!.buffer, cache.zeros.buffer)
  assert.equal(source.chunksFetched, 0)
  await read(reader, 3 * CHUNK, 1)
  const mixed = reader.borrow(3 * CHUNK + 1, 3 * CHUNK)!
  same(joinViews(mixed.views), bytes.slice(3 * CHUNK + 1, 6 * CHUNK + 1))
  assert.equal(source.chunksFetched, 1)
})

test('what was lent once is lent again without a look at the tree, until it is evicted', async () => {
  const bytes = image(8)
  const source = new MemoryChunkSource(bytes, { chunkSize: CHUNK })
  const cache = new ChunkCache({ maxBytes: 3 * (CHUNK + 320) })
  await using reader = cachedImage(source, { cache, readAhead: OFF })
  await read(reader, 2 * CHUNK, 1)
  reader.borrow(2 * CHUNK, 1)
  let looks = 0
  const { locateNow } = source
  source.locateNow = (first, count) => {
    looks++
    return locateNow.call(source, first, count)
  }
  for (const [offset, length] of [
    [2 * CHUNK, CHUNK],
    [2 * CHUNK + 7, 9],
  ] as const)
    same(joinViews(reader.borrow(offset, length)!.views), bytes.slice(offset, offset + length))
  assert.equal(looks, 0)
  for (const chunk of [3, 4, 5]) await read(reader, chunk * CHUNK, 1)
  assert.equal(reader.borrow(2 * CHUNK, 1), undefined)
  same(await read(reader, 2 * CHUNK, CHUNK), bytes.slice(2 * CHUNK, 3 * CHUNK))
})

test('two reads that miss together fetch once, also on different disks with the same content', async () => {
  const bytes = image(4)
  const cache = new ChunkCache({ maxBytes: 1e6 })
  const source = new MemoryChunkSource(bytes, { chunkSize: CHUNK, cold: true })
  const twin = new MemoryChunkSource(bytes, { chunkSize: CHUNK })
  const open = gate(source)
  await using one = cachedImage(source, { cache, readAhead: OFF })
  await using two = cachedImage(twin, { cache, readAhead: OFF })
  const reads = [read(one, 0, CHUNK), read(one, 10, 2 * CHUNK), read(one, 0, 1)]
  await settle()
  reads.push(read(two, 0, 2 * CHUNK))
  await settle()
  open()
  const results = await Promise.all(reads)
  same(results[1]!, bytes.slice(10, 10 + 2 * CHUNK))
  same(results[3]!, bytes.slice(0, 2 * CHUNK))
  assert.equal(source.chunksFetched, 3, 'chunks 0, 1 and 2, once each')
  assert.equal(twin.chunksFetched, 0)
})

test('the chunks that one request misses go to the source in one call, repeated content once', async () => {
  const bytes = image(16)
  bytes.copyWithin(5 * CHUNK, 0, CHUNK)
  const source = new MemoryChunkSource(bytes, { chunkSize: CHUNK })
  await using reader = cachedImage(source, { cache: new ChunkCache({ maxBytes: 1e6 }), readAhead: OFF })
  await read(reader, 3 * CHUNK, CHUNK)
  same(await read(reader, 0, 10 * CHUNK), bytes.slice(0, 10 * CHUNK))
  assert.deepEqual(
    source.fetches.map(refs => refs.map(ref => ref.slot)),
    [[3], [0, 1, 2, 4, 6, 7, 8, 9]],
  )
  assert.deepEqual(
    { ...reader.stats(), bytesFetched: 0, bytesFromDisk: 0 },
    {
      bytesRead: 11 * CHUNK,
      cacheHits: 1,
      cacheMisses: 10,
      chunksFetched: 9,
      bytesFetched: 0,
      bytesFromDisk: 0,
      chunksReadAhead: 0,
    },
  )
})

test('one reader that gives up leaves those who joined it alone; when all have, the fetch is aborted', async () => {
  const bytes = image(4)
  const source = new MemoryChunkSource(bytes, { chunkSize: CHUNK })
  let open = gate(source)
  await using reader = cachedImage(source, { cache: new ChunkCache({ maxBytes: 1e6 }), readAhead: OFF })
  const first = new AbortController()
  const second = new AbortController()
  const abandoned = read(reader, 0, CHUNK, first.signal)
  const kept = read(reader, 0, CHUNK)
  first.abort(new Error('first left'))
  await assert.rejects(abandoned, /first left/)
  open()
  same(await kept, bytes.slice(0, CHUNK))
  assert.equal(source.chunksFetched, 1)

  open = gate(source)
  const lonely = read(reader, CHUNK, CHUNK, second.signal)
  second.abort(new Error('second left'))
  await assert.rejects(lonely, /second left/)
  const again = read(reader, CHUNK, CHUNK)
  assert.equal(source.fetches.length, 3, 'the aborted chunk was claimed anew')
  open()
  same(await again, bytes.slice(CHUNK, 2 * CHUNK))
  await assert.rejects(read(reader, 0, 1, AbortSignal.abort(new Error('before'))), /before/)
})

test('a reader that has given up is never written to again', async () => {
  const source = new MemoryChunkSource(image(4), { chunkSize: CHUNK })
  const open = gate(source)
  await using reader = cachedImage(source, { cache: new ChunkCache({ maxBytes: 1e6 }), readAhead: OFF })
  const controller = new AbortController()
  const target = new Uint8Array(CHUNK)
  const gone = reader.readInto(target, 0, { signal: controller.signal })
  const stays = read(reader, 0, CHUNK)
  controller.abort(new Error('gone'))
  await assert.rejects(gone)
  open()
  await stays
  assert.ok(target.every(byte => byte === 0))
})

test('a chunk that fails harms only the reads that want it, and is asked for anew by the next', async () => {
  const bytes = image(8)
  const source = new MemoryChunkSource(bytes, { chunkSize: CHUNK })
  let broken = true
  source.beforeDeliver = async (_ref, index) => {
    await nextTurn()
    if (index === 2 && broken) throw new LifeboatError('corrupt-object', 'chunk 2 is damaged')
    if (index > 2) await settle()
  }
  await using reader = cachedImage(source, { cache: new ChunkCache({ maxBytes: 1e6 }), readAhead: OFF })
  const wide = read(reader, 0, 8 * CHUNK)
  const joined = read(reader, 5 * CHUNK, CHUNK)
  const harmed = read(reader, 2 * CHUNK, CHUNK)
  await assert.rejects(wide, { code: 'corrupt-object' })
  await assert.rejects(harmed, { code: 'corrupt-object' })
  same(await joined, bytes.slice(5 * CHUNK, 6 * CHUNK))
  broken = false
  same(await read(reader, 0, 8 * CHUNK), bytes)
})

test('a sequential reader is read ahead of in doubling windows, and waits once', async () => {
  const source = new MemoryChunkSource(image(400), { chunkSize: CHUNK })
  const cache = new ChunkCache({ maxBytes: 4e6 })
  await using reader = cachedImage(source, { cache })
  const sizes: number[] = []
  for (let at = 0; at < 250 * CHUNK; at += KiB) {
    const before = source.fetches.length
    const views = reader.borrow(at, KiB)
    if (!views) await read(reader, at, KiB)
    await settle()
    for (const refs of source.fetches.slice(before)) sizes.push(refs.length)
  }
  const withNeighbours = 1 + limits.neighbourChunks
  assert.deepEqual(sizes.slice(0, 7), [withNeighbours, 2, 4, 8, 16, 32, 64])
  assert.ok(Math.max(...sizes) <= 64)
  const { cacheMisses, chunksFetched } = reader.stats()
  assert.equal(cacheMisses, 1, 'after the first request of a stream nothing is waited for')
  assert.equal(new Set(source.fetches.flat()).size, chunksFetched, 'nothing was fetched twice')
})

test('what is missed brings its neighbours along in one call; at random places only until that has cost its credit', async () => {
  const source = new MemoryChunkSource(image(4000), { chunkSize: CHUNK })
  await using reader = cachedImage(source, { cache: new ChunkCache({ maxBytes: 64e6 }) })
  const { neighbourChunks: some, neighbourCredit: credit } = limits
  const reads = Math.ceil(credit / some) + 10
  // Backwards and far apart: nobody comes back for what lies behind.
  for (let n = 0; n < reads; n++) await read(reader, (3900 - 50 * n) * CHUNK, KiB)
  assert.equal(source.fetches.length, reads)
  assert.deepEqual(
    source.fetches[0]!.map(({ slot }) => slot),
    Array.from({ length: 1 + some }, (_, n) => 3900 + n),
  )
  assert.equal(source.chunksFetched, reads + some * Math.floor(credit / some))
  assert.equal(reader.stats().chunksReadAhead, some * Math.floor(credit / some))
  // Whoever does come back, two chunks on so that it is no stream, has them again.
  for (const n of [2, 1]) await read(reader, (3900 - 50 * (reads - n) + 2) * CHUNK, KiB)
  assert.deepEqual(
    source.fetches.slice(reads).map(refs => refs.length),
    [1 + some, 1 + some],
  )
})

test('nobody waits for neighbours, and their failure is not his who missed the first', async () => {
  const bytes = image(20)
  const source = new MemoryChunkSource(bytes, { chunkSize: CHUNK })
  const held = Promise.withResolvers<void>()
  source.beforeDeliver = async (_ref, index) => {
    if (index === 5) return
    await held.promise
    throw new LifeboatError('corrupt-object', 'a damaged neighbour')
  }
  await using reader = cachedImage(source, { cache: new ChunkCache({ maxBytes: 1e6 }) })
  same(await read(reader, 5 * CHUNK, CHUNK), bytes.slice(5 * CHUNK, 6 * CHUNK))
  held.resolve()
  await settle()
  source.beforeDeliver = async () => {}
  same(await read(reader, 6 * CHUNK, CHUNK), bytes.slice(6 * CHUNK, 7 * CHUNK))
})

test('bytes read ahead and not yet there are bounded, and so is a window beside a small cache', async () => {
  const source = new MemoryChunkSource(image(400), { chunkSize: CHUNK })
  const open = gate(source)
  await using reader = cachedImage(source, {
    cache: new ChunkCache({ maxBytes: 64e6 }),
    readAhead: { bytesInFlight: 10 * CHUNK },
  })
  const reads: Promise<Uint8Array>[] = []
  for (let at = 0; at < 40; at++) reads.push(read(reader, at * CHUNK, CHUNK))
  assert.ok(reader.stats().chunksReadAhead <= 10)
  open()
  await Promise.all(reads)

  const small = new MemoryChunkSource(image(400), { chunkSize: CHUNK })
  await using tight = cachedImage(small, { cache: new ChunkCache({ maxBytes: 40 * CHUNK }) })
  for (let at = 0; at < 100; at++) await read(tight, at * CHUNK, CHUNK)
  assert.ok(Math.max(...small.fetches.map(refs => refs.length)) <= 10)
  const none = new MemoryChunkSource(image(20), { chunkSize: CHUNK })
  await using without = cachedImage(none, { cache: new ChunkCache({ maxBytes: 0 }) })
  for (let at = 0; at < 20; at++) await read(without, at * CHUNK, CHUNK)
  assert.equal(none.chunksFetched, 20)
})

test('closing an image ends what it has under way and waits for it', async () => {
  const source = new MemoryChunkSource(image(100), { chunkSize: CHUNK })
  gate(source)
  const cache = new ChunkCache({ maxBytes: 1e6 })
  const reader = cachedImage(source, { cache })
  const reads = [0, 1, 2].map(at => read(reader, at * CHUNK, CHUNK))
  const outcomes = Promise.allSettled(reads)
  await reader[Symbol.asyncDispose]()
  for (const outcome of await outcomes) assert.equal(outcome.status, 'rejected')
  await assert.rejects(read(reader, 0, 1), { code: 'interrupted' })
  assert.equal(reader.borrow(0, 1), undefined)
  const fresh = new MemoryChunkSource(image(100), { chunkSize: CHUNK })
  await using next = cachedImage(fresh, { cache })
  assert.equal((await read(next, 0, 10)).length, 10)
})

test('extents follow the tree exactly', async () => {
  const source = new MemoryChunkSource(image(12, [0, 1, 5, 6, 11], 100), { chunkSize: CHUNK, cold: true })
  await using reader = cachedImage(source, { cache: new ChunkCache({ maxBytes: 1e6 }) })
  const extents = await Array.fromAsync(reader.extents({ offset: 100, length: source.size - 100 }))
  assert.deepEqual(extents, [
    { offset: 100, length: 2 * CHUNK - 100, kind: 'zero' },
    { offset: 2 * CHUNK, length: 3 * CHUNK, kind: 'data' },
    { offset: 5 * CHUNK, length: 2 * CHUNK, kind: 'zero' },
    { offset: 7 * CHUNK, length: 4 * CHUNK, kind: 'data' },
    { offset: 11 * CHUNK, length: CHUNK - 100, kind: 'zero' },
  ])
  await assert.rejects(Array.fromAsync(reader.extents({ offset: source.size, length: 1 })), RangeError)
})

test('a chunk that is a small view of a large buffer is copied, so that it does not pin it', () => {
  const cache = new ChunkCache({ maxBytes: 1e6 })
  const large = new Uint8Array(1e6)
  assert.equal(cache.set('a', large.subarray(0, CHUNK)).buffer.byteLength, CHUNK)
  const own = new Uint8Array(CHUNK)
  assert.equal(cache.set('b', own), own)
})

test('whatever is read, evicted, borrowed and aborted at once, bytes are the image and the bound holds', async () => {
  const command = fc.record({
    at: fc.nat(40 * CHUNK - 1),
    length: fc.integer({ min: 0, max: 5 * CHUNK }),
    disk: fc.nat(1),
    kind: fc.constantFrom('read', 'read', 'borrow', 'abort'),
    pause: fc.boolean(),
  })
  const maxBytes = 12 * CHUNK
  await fc.assert(
    fc.asyncProperty(fc.array(command, { maxLength: 60 }), fc.boolean(), async (commands, cold) => {
      const bytes = image(40, [3, 4, 20, 39], 77)
      const other = bytes.slice()
      other.copyWithin(10 * CHUNK, 30 * CHUNK, 34 * CHUNK)
      other.fill(0, 0, CHUNK)
      const contents = [bytes, other]
      const cache = new ChunkCache({ maxBytes })
      const sources = contents.map(content => new MemoryChunkSource(content, { chunkSize: CHUNK, cold }))
      let turns = 0
      for (const source of sources)
        source.beforeDeliver = async () => {
          for (let i = turns++ % 3; i > 0; i--) await nextTurn()
        }
      const readers = sources.map(source => cachedImage(source, { cache }))
      const held: { views: readonly Uint8Array[]; expected: Uint8Array }[] = []
      const running: Promise<void>[] = []
      for (const { at, length: asked, disk, kind, pause } of commands) {
        const length = Math.max(0, Math.min(asked, bytes.length - at))
        if (at > bytes.length) continue
        const expected = contents[disk]!.slice(at, at + length)
        const reader = readers[disk]!
        if (kind === 'borrow') {
          const borrowed = reader.borrow(at, length)
          if (borrowed) held.push({ views: borrowed.views, expected })
        } else if (kind === 'read') running.push(read(reader, at, length).then(got => same(got, expected)))
        else {
          const controller = new AbortController()
          running.push(
            read(reader, at, length, controller.signal).then(
              () => {},
              error => assert.match(String(error), /left/),
            ),
          )
          controller.abort(new Error('left'))
        }
        if (pause) await nextTurn()
        assert.ok(cache.bytes <= maxBytes)
      }
      await Promise.all(running)
      for (const { views, expected } of held) assert.equal(Buffer.compare(joinViews(views), expected), 0)
      for (const reader of readers) await reader[Symbol.asyncDispose]()
      assert.ok(
        cache.zeros.subarray(0, 10 * CHUNK).every(byte => byte === 0),
        'nobody wrote into the shared zeros',
      )
    }),
    { numRuns: 150 },
  )
})

test('prefetch has a range at hand without giving it: later reads are hits, and what is kept or under way is not asked for again', async () => {
  const bytes = image(16, [3])
  for (const cold of [false, true]) {
    const source = new MemoryChunkSource(bytes, { chunkSize: CHUNK, cold })
    await using reader = cachedImage(source, { cache: new ChunkCache({ maxBytes: 1e6 }), readAhead: OFF })
    same(await read(reader, 2 * CHUNK, CHUNK), bytes.subarray(2 * CHUNK, 3 * CHUNK))
    const range = { offset: CHUNK + 1, length: 4 * CHUNK }
    await Promise.all([reader.prefetch(range), reader.prefetch(range)])
    assert.equal(source.chunksFetched, 1 + 3, 'chunks 1, 4 and 5: 2 is kept, 3 is zeros')
    same(await read(reader, CHUNK, 5 * CHUNK), bytes.subarray(CHUNK, 6 * CHUNK))
    assert.equal(source.chunksFetched, 4)
    await assert.rejects(reader.prefetch({ offset: 15 * CHUNK, length: CHUNK + 1 }), RangeError)
    source.beforeDeliver = async () => Promise.reject(new LifeboatError('corrupt-object', 'bad'))
    await assert.rejects(reader.prefetch({ offset: 8 * CHUNK, length: 1 }), { code: 'corrupt-object' })
    await assert.rejects(
      reader.prefetch({ offset: 9 * CHUNK, length: 1 }, { signal: AbortSignal.abort(new Error('enough')) }),
      /enough/,
    )
  }
})
