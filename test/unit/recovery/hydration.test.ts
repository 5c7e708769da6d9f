/** A point that is copied to this host beside its readers: whole, after kills and power cuts, and never a wrong byte. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { OverlayFiles } from '../../../src/block/overlay-files.ts'
import { cachedImage } from '../../../src/cache/cached-image.ts'
import { ChunkCache } from '../../../src/cache/chunk-cache.ts'
import { type Clock, systemClock } from '../../../src/core/clock.ts'
import { isLifeboatError, LifeboatError } from '../../../src/core/errors.ts'
import { Hydration, type HydrationOptions } from '../../../src/recovery/hydration.ts'
import type { ChunkRef, ChunkSource, PointSummary, RecoveryPoint } from '../../../src/repository/repository.ts'
import { PowerCutFiles } from '../../doubles/power-cut-files.ts'
import { drawing } from '../../doubles/power-cut-inode.ts'
import { noise, repositoryFixture } from '../../doubles/repository-fixture.ts'

const CHUNK = 4096
/** A page of the table tells of 256 chunks: one and a part. */
const CHUNKS = 300
const SIZE = CHUNKS * CHUNK - 1000

async function until(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await systemClock.sleep(2)
}

interface Gate {
  isAway: boolean
  /** A content that is damaged in the store. */
  damaged: Uint8Array | undefined
  fetches: number
  locates: number
}

/** The point as a store shows it that can go away. */
function gated(point: RecoveryPoint, gate: Gate): RecoveryPoint {
  const check = () => {
    if (gate.isAway) throw new LifeboatError('store-unreachable', 'the store is away', { retry: 'transient' })
  }
  const disk = (name: string): ChunkSource => {
    const source = point.disk(name)
    return {
      size: source.size,
      chunkSize: source.chunkSize,
      locateNow: () => undefined,
      async locate(first, count, options) {
        gate.locates++
        check()
        return source.locate(first, count, options)
      },
      async fetch(refs, deliver, options) {
        gate.fetches++
        check()
        const isGood = ({ id }: ChunkRef) => !gate.damaged || Buffer.compare(id, gate.damaged) !== 0
        await source.fetch(refs.filter(isGood), deliver, options)
        if (!refs.every(isGood)) throw new LifeboatError('corrupt-object', 'a chunk is damaged')
      },
    }
  }
  return {
    id: point.id,
    key: point.key,
    manifest: point.manifest,
    pinned: true,
    keepPin: () => {},
    disk,
    [Symbol.asyncDispose]: async () => {},
  }
}

async function disks(seed: string) {
  const fixture = await repositoryFixture({ chunkSize: CHUNK, seed })
  const models = new Map(['vda', 'vdb'].map(name => [name, Buffer.alloc(SIZE)] as const))
  for (const [name, model] of models) {
    // A hole, and contents that are at several places.
    Buffer.from(noise(`${seed} ${name}`, SIZE)).copy(model)
    model.fill(0, 100 * CHUNK, 180 * CHUNK)
    model.copy(model, 200 * CHUNK, 0, 40 * CHUNK)
  }
  const write = (base?: PointSummary) =>
    fixture.writePoint({
      ...(base && { base: base.id }),
      disks: [...models].map(([name, model]) => ({ name, size: SIZE, writes: writesOf(model, base !== undefined) })),
    })
  const gate: Gate = { isAway: false, damaged: undefined, fetches: 0, locates: 0 }
  const open = async (summary: PointSummary) =>
    gated(await fixture.repository.openPoint(summary, { pin: 'none' }), gate)
  return { fixture, models, gate, write, open }
}

function writesOf(model: Buffer, withZeros: boolean): [number, Uint8Array][] {
  const writes: [number, Uint8Array][] = []
  for (let at = 0; at < SIZE; at += CHUNK) {
    const chunk = new Uint8Array(model.subarray(at, Math.min(SIZE, at + CHUNK)))
    if (withZeros || chunk.some(byte => byte !== 0)) writes.push([at, chunk])
  }
  return writes
}

const hydration = (
  { fixture }: Awaited<ReturnType<typeof disks>>,
  files: OverlayFiles,
  more: Partial<HydrationOptions> = {},
) =>
  new Hydration({
    folder: '/session',
    files,
    repository: fixture.repository,
    clock: systemClock,
    reserveBytes: 1,
    freeBytes: async () => 1e9,
    isBusy: () => false,
    tell: () => {},
    ...more,
  })

/** Of a process that is killed: from then on nothing of it happens any more. */
function mortal() {
  const life = { isOver: false }
  const sleep: Clock['sleep'] = (ms, options) =>
    life.isOver ? new Promise(() => {}) : systemClock.sleep(ms / 100, options)
  return { life, clock: { ...systemClock, sleep } }
}

/** Fresh caches: what is in memory proves nothing of the copy. */
async function readAll(from: Hydration, name: string): Promise<Buffer> {
  await using image = cachedImage(from.source(name), { cache: new ChunkCache({ maxBytes: 0 }) })
  const bytes = Buffer.alloc(SIZE)
  await image.readInto(bytes, 0)
  return bytes
}

test('what is hydrated is read without the store, by this process and the next, and takes no space for zeros', async () => {
  const d = await disks('whole')
  const point = await d.write()
  const power = new PowerCutFiles(drawing(1))
  const files = power.files()
  {
    await using copy = hydration(d, files)
    await copy.turnTo(await d.open(point), ['vda', 'vdb'])
    assert.deepEqual(copy.figures(), { hydratedBytes: 0, hydrateBytes: 2 * SIZE })
    copy.begin()
    await until(() => copy.isDone)
    assert.deepEqual(copy.figures(), { hydratedBytes: 2 * SIZE, hydrateBytes: 2 * SIZE })
    d.gate.isAway = true
    for (const [name, model] of d.models) assert.ok((await readAll(copy, name)).equals(model), name)
  }
  power.cutPower()
  await using again = hydration(d, power.files())
  await again.turnTo(await d.open(point), ['vda', 'vdb'])
  assert.ok(again.isDone, 'known from its mark alone')
  const asked = d.gate.fetches + d.gate.locates
  for (const [name, model] of d.models) assert.ok((await readAll(again, name)).equals(model), name)
  await using image = cachedImage(again.source('vda'), { cache: new ChunkCache({ maxBytes: 1e6 }) })
  const zeros: number[] = []
  for await (const { offset, length, kind } of image.extents({ offset: 0, length: SIZE }))
    if (kind === 'zero') for (let at = offset; at < offset + length; at += CHUNK) zeros.push(at / CHUNK)
  assert.deepEqual([zeros[0], zeros.length], [100, 80])
  assert.equal(d.gate.fetches + d.gate.locates, asked, 'the store was not asked for anything')
  const held = power.contents('/session/hydrated/disk0.data').subarray(100 * CHUNK, 180 * CHUNK)
  assert.ok(held.every(byte => byte === 0))
})

test('what a guest reads is copied on the way, and the store is not asked for it again', async () => {
  const d = await disks('on the way')
  const point = await d.write()
  await using copy = hydration(d, new PowerCutFiles(drawing(2)).files())
  await copy.turnTo(await d.open(point), ['vda'])
  assert.ok((await readAll(copy, 'vda')).equals(d.models.get('vda')!))
  await systemClock.sleep(100)
  const { fetches } = d.gate
  copy.begin()
  await until(() => copy.isDone)
  // Contents that lie at two places were copied to one of them.
  assert.ok(d.gate.fetches - fetches <= 2, `${d.gate.fetches - fetches} fetches`)
  d.gate.isAway = true
  assert.ok((await readAll(copy, 'vda')).equals(d.models.get('vda')!))
})

test('another point takes over what it shares with the one before; only the rest is fetched', async () => {
  const d = await disks('next')
  const first = await d.write()
  const power = new PowerCutFiles(drawing(3))
  await using copy = hydration(d, power.files())
  await copy.turnTo(await d.open(first), ['vda', 'vdb'])
  copy.begin()
  await until(() => copy.isDone)
  const old = copy.source('vda')
  const vda = d.models.get('vda')!
  const before = Buffer.from(vda)
  Buffer.from(noise('changed', 3 * CHUNK)).copy(vda, 50 * CHUNK)
  vda.fill(0, 260 * CHUNK, 270 * CHUNK)
  Buffer.from(noise('filled', CHUNK)).copy(vda, 120 * CHUNK)
  const second = await d.write(first)
  const chunks: number[] = []
  const point = await d.open(second)
  const counted: RecoveryPoint = {
    ...point,
    disk: name => {
      const source = point.disk(name)
      const fetch: ChunkSource['fetch'] = (refs, deliver, options) => {
        chunks.push(refs.length)
        return source.fetch(refs, deliver, options)
      }
      return {
        size: source.size,
        chunkSize: source.chunkSize,
        locateNow: () => undefined,
        locate: source.locate,
        fetch,
      }
    },
  }
  await copy.turnTo(counted, ['vda', 'vdb'])
  assert.ok(!copy.isDone)
  await until(() => copy.isDone)
  assert.equal(
    chunks.reduce((sum, count) => sum + count, 0),
    4,
  )
  await using late = cachedImage(old, { cache: new ChunkCache({ maxBytes: 0 }) })
  const seen = Buffer.alloc(SIZE)
  await late.readInto(seen, 0)
  assert.ok(seen.equals(before), 'who still reads the old point sees the old point')
  assert.ok((await readAll(copy, 'vda')).equals(vda))
  d.gate.isAway = true
  for (const [name, model] of d.models)
    assert.ok((await readAll(copy, name)).equals(model), `${name} without the store`)
})

test('killed or without power at any moment, what is read is right, and in the end all is there', async () => {
  const d = await disks('cuts')
  const point = await d.write()
  const model = d.models.get('vda')!
  const seen = { rounds: 0, cuts: 0, kills: 0, doneAfterCut: 0, resumedBytes: 0 }
  for (let seed = 0; seed < 12; seed++) {
    const draw = drawing(seed)
    const power = new PowerCutFiles(draw)
    d.gate.isAway = false
    for (let lives = 0; lives < 3; lives++) {
      const { life: own, clock } = mortal()
      const copy = hydration(d, power.files(), { clock })
      await copy.turnTo(await d.open(point), ['vda'])
      seen.resumedBytes += Number(copy.figures().hydratedBytes)
      if (copy.isDone) seen.doneAfterCut++
      copy.begin()
      if (draw() < 0.3) await until(() => copy.isDone)
      else for (let turns = Math.floor(draw() * 1000); turns > 0; turns--) await new Promise(setImmediate)
      own.isOver = true
      if (draw() < 0.5) {
        power.cutPower()
        seen.cuts++
      } else {
        power.kill()
        seen.kills++
      }
    }
    const { life, clock } = mortal()
    const last = hydration(d, power.files(), { clock })
    await last.turnTo(await d.open(point), ['vda'])
    assert.ok((await readAll(last, 'vda')).equals(model), `seed ${seed}`)
    last.begin()
    await until(() => last.isDone)
    life.isOver = true
    power.cutPower()
    const durable = hydration(d, power.files())
    await durable.turnTo(await d.open(point), ['vda'])
    d.gate.isAway = true
    assert.ok((await readAll(durable, 'vda')).equals(model), `seed ${seed}, after a power cut, store away`)
    seen.rounds++
  }
  console.log(`hydration under kills and power cuts: ${JSON.stringify(seen)}`)
  assert.ok(seen.doneAfterCut > 0 && seen.resumedBytes > 0)
})

test('damage is fetched again while the store is there, and an error when it is not; never a wrong byte', async () => {
  const d = await disks('damage')
  const point = await d.write()
  const power = new PowerCutFiles(drawing(5))
  {
    await using copy = hydration(d, power.files())
    await copy.turnTo(await d.open(point), ['vda', 'vdb'])
    copy.begin()
    await until(() => copy.isDone)
  }
  const vda = d.models.get('vda')!
  const harms: Record<string, (files: PowerCutFiles) => void> = {
    'a flipped bit of data': files => {
      files.contents('/session/hydrated/disk0.data')[20 * CHUNK + 7]! ^= 4
    },
    'data that turned to zeros': files => void files.contents('/session/hydrated/disk0.data').fill(0),
    'a flipped bit of the table': files => {
      files.contents('/session/hydrated/disk0.table')[20 * 40 + 3]! ^= 1
    },
    'a table that turned to zeros': files => void files.contents('/session/hydrated/disk0.table').fill(0),
    'files that were cut off': files => {
      for (const name of ['data', 'table'])
        files.replace(
          `/session/hydrated/disk0.${name}`,
          Buffer.from(files.contents(`/session/hydrated/disk0.${name}`).subarray(0, 5000)),
        )
    },
  }
  for (const [harm, apply] of Object.entries(harms)) {
    const away = power.copy()
    apply(away)
    {
      await using copy = hydration(d, away.files())
      d.gate.isAway = true
      await copy.turnTo(await d.open(point), ['vda', 'vdb'])
      const error = await readAll(copy, 'vda').then(
        () => undefined,
        error => error,
      )
      assert.ok(isLifeboatError(error), `${harm}: ${error}`)
      assert.ok(error.code === 'local-copy-damaged' || error.code === 'store-unreachable', `${harm}: ${error}`)
      assert.ok((await readAll(copy, 'vdb')).equals(d.models.get('vdb')!), `${harm} of another disk`)
      d.gate.isAway = false
      assert.ok((await readAll(copy, 'vda')).equals(vda), `${harm}: from the store`)
      console.log(`${harm}: ${error.message}`)
      copy.begin()
      await until(() => copy.isDone)
      // A page that lost its word is copied once more; chunks whose data was damaged were put right by their read.
      await systemClock.sleep(50)
      d.gate.isAway = true
      assert.ok((await readAll(copy, 'vda')).equals(vda), `${harm}: put right`)
    }
  }
})

test('a disk that is nearly full stops the copy and not the guest, and it goes on when there is space', async () => {
  const d = await disks('space')
  const point = await d.write()
  let free = 100
  const told: string[] = []
  await using copy = hydration(d, new PowerCutFiles(drawing(6)).files(), {
    reserveBytes: 1000,
    freeBytes: async () => free,
    tell: message => told.push(message),
    clock: { ...systemClock, sleep: (ms, options) => systemClock.sleep(ms / 20, options) },
  })
  await copy.turnTo(await d.open(point), ['vda'])
  copy.begin()
  await until(() => told.length > 0)
  assert.match(told[0]!, /waits for space/)
  assert.ok((await readAll(copy, 'vda')).equals(d.models.get('vda')!))
  assert.equal(copy.figures().hydratedBytes, 0)
  free = 1e9
  await until(() => copy.isDone)
  assert.match(told.join('\n'), /there is space again/)
})

test('a store that is away for a while delays the copy, which says so', async () => {
  const d = await disks('trouble')
  const point = await d.write()
  const told: string[] = []
  await using copy = hydration(d, new PowerCutFiles(drawing(7)).files(), {
    tell: message => told.push(message),
    clock: { ...systemClock, sleep: (ms, options) => systemClock.sleep(ms / 200, options) },
  })
  d.gate.isAway = true
  await copy.turnTo(await d.open(point), ['vda'])
  copy.begin()
  await until(() => told.length > 0)
  assert.match(told[0]!, /waits: the store is away/)
  d.gate.isAway = false
  await until(() => copy.isDone)
})

test('a chunk that is damaged in the store keeps its page from being whole, and nothing else', async () => {
  const d = await disks('rot')
  const point = await d.open(await d.write())
  const told: string[] = []
  await using copy = hydration(d, new PowerCutFiles(drawing(9)).files(), {
    tell: message => told.push(message),
    clock: { ...systemClock, sleep: (ms, options) => systemClock.sleep(ms / 200, options) },
  })
  const [bad] = await point.disk('vda').locate(270, 1)
  d.gate.damaged = bad!.id
  await copy.turnTo(point, ['vda'])
  copy.begin()
  await until(() => told.length > 0)
  assert.match(told[0]!, /waits: a chunk is damaged/)
  assert.deepEqual(copy.figures(), { hydratedBytes: 256 * CHUNK, hydrateBytes: SIZE })
  await assert.rejects(readAll(copy, 'vda'), /damaged/)
  d.gate.damaged = undefined
  await until(() => copy.isDone)
  assert.ok((await readAll(copy, 'vda')).equals(d.models.get('vda')!))
})

test('the copy keeps to its rate, and asks for one GET at a time while a guest waits', async () => {
  const d = await disks('rate')
  const point = await d.write()
  const slept: number[] = []
  let nowMs = 0
  await using copy = hydration(d, new PowerCutFiles(drawing(8)).files(), {
    bytesPerSecond: 100_000,
    isBusy: () => true,
    clock: {
      ...systemClock,
      monotonicMs: () => nowMs,
      sleep: async (ms, options) => {
        if (ms !== 1000 && ms !== 10_000) {
          slept.push(ms)
          nowMs += ms
        }
        await systemClock.sleep(1, options)
      },
    },
  })
  await copy.turnTo(await d.open(point), ['vda', 'vdb'])
  copy.begin()
  await until(() => copy.isDone)
  assert.ok(nowMs > 5_000, `${2 * SIZE} bytes took ${nowMs} ms`)
})
