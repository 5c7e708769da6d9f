/** Reading beside a cache that lies, and what is asked of the store: neighbours together, many at once, each thing once. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { cachedImage } from '../../../src/cache/cached-image.ts'
import { ChunkCache } from '../../../src/cache/chunk-cache.ts'
import { limits } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { twinPipeline } from '../../../src/native/twin.ts'
import { openRepository } from '../../../src/repository/open.ts'
import type { RecordCache, RecordName } from '../../../src/repository/record-cache.ts'
import type { ObjectStore } from '../../../src/storage/object-store.ts'
import { elapsing, manualClock } from '../../doubles/manual-clock.ts'
import { noise, type RepositoryFixture, repositoryFixture } from '../../doubles/repository-fixture.ts'
import { timedStore } from '../../doubles/timed-store.ts'

const CHUNK = 4096
const SIZE = 512 * CHUNK

const textOf = ({ repository, kind, pack, slot }: RecordName) => `${repository} ${kind} ${pack} ${slot}`

/** Keeps everything, and gives what `give` makes of it. */
class MapCache implements RecordCache {
  readonly kept = new Map<string, Uint8Array>()
  give: (stored: Uint8Array, name: string) => Uint8Array | undefined = stored => stored
  reads = 0
  refused = 0

  has(name: RecordName) {
    return this.kept.has(textOf(name))
  }
  async read(names: readonly RecordName[]) {
    this.reads += names.length
    return names.map(name => {
      const stored = this.kept.get(textOf(name))
      return stored && this.give(stored, textOf(name))
    })
  }
  keep(name: RecordName, stored: Uint8Array) {
    this.kept.set(textOf(name), stored.slice())
  }
  refuse(name: RecordName) {
    this.refused++
    this.kept.delete(textOf(name))
  }
}

async function written() {
  const fixture = await repositoryFixture()
  const bytes = noise('disk', SIZE)
  const point = await fixture.writePoint({ disks: [{ name: 'vda', size: SIZE, writes: [[0, bytes]] }] })
  return { fixture, bytes, point }
}

async function diskThrough(
  { fixture, point }: { fixture: RepositoryFixture; point: Awaited<ReturnType<RepositoryFixture['writePoint']>> },
  store: ObjectStore,
  recordCache?: RecordCache,
) {
  const { credential, random } = fixture
  const common = { credential, random, clock: manualClock(), host: 'test', pipeline: twinPipeline }
  const repository = await openRepository({ ...common, store, recordCache })
  const opened = await repository.openPoint(point, { pin: 'none' })
  return opened.disk('vda')
}

function counted(store: ObjectStore) {
  const gets: { key: string; length: number }[] = []
  const counting: ObjectStore = {
    ...store,
    get(key, range, options) {
      if (/^(packs|meta)\//.test(key) && range) gets.push({ key, length: range.length })
      return store.get(key, range, options)
    },
  }
  return { counting, gets }
}

test('what the cache has is not asked of the store; where it lies the store is asked, and every byte is right', async () => {
  const world = await written()
  const cache = new MapCache()
  const readWith = async (give: MapCache['give']) => {
    cache.give = give
    const { counting, gets } = counted(world.fixture.store)
    const image = cachedImage(await diskThrough(world, counting, cache), { cache: new ChunkCache({ maxBytes: 1e7 }) })
    const target = new Uint8Array(SIZE)
    await image.readInto(target, 0)
    assert.equal(Buffer.compare(target, world.bytes), 0)
    return { gets: gets.length, fromDisk: image.stats().bytesFromDisk }
  }
  const first = await readWith(stored => stored)
  assert.ok(first.gets > 0 && first.fromDisk === 0 && cache.kept.size >= 512)
  const again = await readWith(stored => stored)
  assert.equal(again.gets, 0)
  assert.ok(again.fromDisk >= SIZE)
  const names = [...cache.kept.keys()]
  const other = (name: string) => cache.kept.get(names[(names.indexOf(name) + 1) % names.length]!)
  const lies: [string, MapCache['give']][] = [
    ['a flipped bit', stored => stored.map((byte, at) => (at === 40 ? byte ^ 1 : byte))],
    ['cut short', stored => stored.subarray(0, stored.length >> 1)],
    ['nothing', () => undefined],
    ['empty', () => new Uint8Array(0)],
    ["another record's bytes", (_stored, name) => other(name)],
  ]
  for (const [what, lie] of lies) {
    let lied = 0
    cache.refused = 0
    const { gets } = await readWith((stored, name) => {
      const isLie = seededRandom(`${what} ${name}`)(1)[0]! < 64
      if (isLie) lied++
      return isLie ? lie(stored, name) : stored
    })
    console.log(`injected ${lied} times ${what}: ${cache.refused} refused, ${gets} GETs, wrong bytes 0`)
    assert.ok(lied > 50 && gets > 0)
    assert.ok(what === 'nothing' ? cache.refused === 0 : cache.refused >= lied - 1)
  }
})

test('a cache that throws is one that has nothing', async () => {
  const world = await written()
  const cache = new MapCache()
  const image = async () =>
    cachedImage(await diskThrough(world, world.fixture.store, cache), { cache: new ChunkCache({ maxBytes: 1e7 }) })
  await (await image()).readInto(new Uint8Array(SIZE), 0)
  cache.read = () => Promise.reject(new Error('broken'))
  const target = new Uint8Array(SIZE)
  await (await image()).readInto(target, 0)
  assert.equal(Buffer.compare(target, world.bytes), 0)
})

test('neighbours come in one ranged GET, a chunk that several want in one, and scattered ones many at a time', async () => {
  const world = await written()
  const clock = manualClock()
  let inFlight = 0
  let most = 0
  let isLive = false
  const slow = timedStore(world.fixture.store, {
    clock,
    timing: () => ({ firstByteMs: isLive ? 10 : 0, bytesPerSecond: Number.POSITIVE_INFINITY }),
  })
  const { counting, gets } = counted({
    ...slow,
    async get(key, range, options) {
      most = Math.max(most, ++inFlight)
      try {
        return await slow.get(key, range, options)
      } finally {
        inFlight--
      }
    },
  })
  const source = await elapsing(clock, diskThrough(world, counting))
  const image = () => cachedImage(source, { cache: new ChunkCache({ maxBytes: 1e7 }), readAhead: { maxWindow: 0 } })
  await elapsing(clock, source.locate(0, 512))
  isLive = true
  gets.length = 0
  await elapsing(clock, image().readInto(new Uint8Array(256 * CHUNK), 0))
  assert.equal(gets.length, 1, '256 chunks that lie together')

  gets.length = 0
  const one = image()
  const same = Array.from({ length: 20 }, () => one.readInto(new Uint8Array(100), 5 * CHUNK + 17))
  await elapsing(clock, Promise.all(same))
  assert.equal(gets.length, 1, 'twenty readers of one chunk')

  gets.length = 0
  most = 0
  const startedMs = clock.monotonicMs()
  const scattered = image()
  // Further apart than what is read along.
  const reads = Array.from({ length: 25 }, (_, n) => scattered.readInto(new Uint8Array(512), n * 20 * CHUNK))
  await elapsing(clock, Promise.all(reads))
  assert.deepEqual([gets.length, most], [25, limits.getsInFlight])
  assert.equal(clock.monotonicMs() - startedMs, 20, 'two round trips')
})

test('read-ahead follows a sequential reader in windows doubled to 64 chunks, after the neighbours of the first, the next one when half of the last is read', async () => {
  const world = await written()
  const { counting, gets } = counted(world.fixture.store)
  const source = await diskThrough(world, counting)
  await source.locate(0, 512)
  gets.length = 0
  const image = cachedImage(source, { cache: new ChunkCache({ maxBytes: 1e7 }) })
  const windows: number[] = []
  let seen = image.stats().chunksReadAhead
  for (let at = 0; at < SIZE; at += CHUNK) {
    await image.readInto(new Uint8Array(CHUNK), at)
    const now = image.stats().chunksReadAhead
    if (now > seen) windows.push(now - seen)
    seen = now
    for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate)
  }
  console.log(`windows ${windows}; ${gets.length} GETs for 512 chunks`)
  assert.deepEqual(windows.slice(0, 7), [3, 2, 4, 8, 16, 32, 64])
  assert.ok(gets.length <= 16)
})
