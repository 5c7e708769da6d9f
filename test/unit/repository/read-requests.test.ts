import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { GiB, KiB, limits, MiB } from '../../../src/core/limits.ts'
import { twinPipeline } from '../../../src/native/twin.ts'
import { diffDisks } from '../../../src/repository/diff.ts'
import { pointImage } from '../../../src/repository/image.ts'
import { openTree } from '../../../src/repository/recovery-point.ts'
import type { ChunkRef } from '../../../src/repository/repository.ts'
import { metered } from '../../../src/storage/metered.ts'
import type { ObjectStore } from '../../../src/storage/object-store.ts'
import { noise, repositoryFixture } from '../../doubles/repository-fixture.ts'
import { syntheticChunk, syntheticPoint } from '../../doubles/synthetic-repository.ts'

const TiB = 1024 * GiB
const chunkSize = 64 * KiB

const requests = (meter: ReturnType<typeof metered>['meter']) => {
  const { get, put, list, delete: deletes, head } = meter.figures()
  return { get: get.requests, put: put.requests, list: list.requests, delete: deletes.requests, head: head.requests }
}

async function costs(size: number) {
  const { store, repository, open } = await repositoryFixture({ chunkSize })
  const summary = await syntheticPoint(repository, { size })
  const { store: counted, meter } = metered(store)
  const reader = await open(counted)
  await using point = await reader.openPoint(summary, { pin: 'restore' })
  const opened = requests(meter)
  const image = pointImage(point.disk('vda'))
  const target = new Uint8Array(4096)
  await image.readInto(target, 0)
  assert.deepEqual(target, syntheticChunk(chunkSize).subarray(0, 4096))
  const first = requests(meter).get - opened.get
  await image.readInto(target, 64 * KiB + 5)
  const second = requests(meter).get - opened.get - first
  await image.readInto(target, size - 4096)
  return { opened, first, second }
}

test('opening a point costs the same requests for a disk of 1 GiB and of 10 TiB, and its first read at most two more', async () => {
  const [small, large] = [await costs(GiB), await costs(10 * TiB)]
  // config, key slot, domain keys, manifest; the pin, the mark that is absent, the fences that are none.
  assert.deepEqual(small.opened, { get: 5, put: 1, list: 1, delete: 0, head: 0 })
  assert.deepEqual(large.opened, small.opened)
  assert.equal(small.first, 2)
  assert.ok(large.first <= small.first + 2, `${large.first} requests`)
  assert.deepEqual([small.second, large.second], [1, 1])
})

test('extents of 10 TiB are told from the tree without reading a chunk, absent subtrees at no cost', async () => {
  const { store, repository, open } = await repositoryFixture({ chunkSize })
  const summary = await syntheticPoint(repository, { size: 10 * TiB, density: 12 })
  const { store: counted, meter } = metered(store)
  await using point = await (await open(counted)).openPoint(summary, { pin: 'none' })
  const image = pointImage(point.disk('vda'))
  const before = requests(meter).get
  let [data, at, kinds] = [0, 0, '']
  for await (const { offset, length, kind } of image.extents({ offset: 0, length: 3 * GiB })) {
    assert.equal(offset, at)
    at += length
    if (kind === 'data') data += length
    if (kinds.length < 4) kinds += kind[0]
  }
  assert.equal(at, 3 * GiB)
  assert.equal(kinds, 'dzdz')
  // One chunk in each leaf.
  assert.equal(data, (3 * GiB) / 64)
  assert.ok(requests(meter).get - before < 60, `${requests(meter).get - before} requests`)
  // The second of 40 top nodes is absent: a quarter of a TiB in one step.
  const hole = { offset: 256 * GiB, length: 256 * GiB }
  assert.deepEqual(await Array.fromAsync(image.extents(hole)), [{ ...hole, kind: 'zero' }])
})

/** A store whose reads of packs wait until they are let go. */
function gated(store: ObjectStore) {
  const waiting: { key: string; release: () => void }[] = []
  const gets: string[] = []
  let isOpen = false
  return {
    gets,
    waiting,
    release() {
      isOpen = true
      for (const { release } of waiting.splice(0)) release()
    },
    store: {
      ...store,
      async get(key, range, options) {
        if (/^(packs|meta)\//.test(key)) {
          gets.push(key)
          if (!isOpen)
            await new Promise<void>(resolve => {
              waiting.push({ key, release: resolve })
              options?.signal?.addEventListener('abort', () => resolve())
            })
          options?.signal?.throwIfAborted()
        }
        return store.get(key, range, options)
      },
    } satisfies ObjectStore,
  }
}

const settle = async () => {
  for (let turn = 0; turn < 20; turn++) await new Promise(resolve => setImmediate(resolve))
}

async function oneDisk() {
  const fixture = await repositoryFixture()
  const content = noise('content', 300 * 4096)
  const summary = await fixture.writePoint({ disks: [{ name: 'vda', size: 300 * 4096, writes: [[0, content]] }] })
  return { ...fixture, content, summary }
}

test('of a few records in one request the first is delivered while the others are decoded; many are decoded together', async () => {
  const { store, open, summary, content } = await oneDisk()
  const rest = Promise.withResolvers<void>()
  const jobs: number[] = []
  const { openChunks } = twinPipeline
  const pipeline = {
    ...twinPipeline,
    async openChunks(...[records]: Parameters<typeof openChunks>) {
      jobs.push(records.length)
      if (jobs.length > 1) await rest.promise
      await openChunks.call(twinPipeline, records)
    },
  }
  await using point = await (await open(store, pipeline)).openPoint(summary, { pin: 'none' })
  const disk = point.disk('vda')
  const refs = (await disk.locate(10, 40)).filter(ref => ref !== undefined)
  const got = new Map<ChunkRef, Uint8Array>()
  const few = disk.fetch(refs.slice(0, 4), (ref, bytes) => got.set(ref, bytes))
  while (jobs.length < 4) await settle()
  await settle()
  assert.deepEqual([...got.keys()], refs.slice(0, 1))
  rest.resolve()
  await few
  assert.equal(got.size, 4)
  for (const [n, ref] of refs.slice(0, 4).entries())
    assert.deepEqual(got.get(ref), content.subarray((10 + n) * 4096, (11 + n) * 4096))
  await disk.fetch(refs, () => {})
  assert.deepEqual(jobs, [1, 1, 1, 1, refs.length])
})

test('readers that miss the same node or the same chunk at once cause one request', async () => {
  const { store, open, summary, content } = await oneDisk()
  const gate = gated(store)
  await using point = await (await open(gate.store)).openPoint(summary, { pin: 'none' })
  const disk = point.disk('vda')
  const located = [disk.locate(3, 1), disk.locate(3, 2), disk.locate(70, 1)]
  await settle()
  // The prefetch of the start of the disk, which brings the next three leaves along.
  assert.equal(gate.gets.length, 1)
  gate.release()
  const [[ref]] = (await Promise.all(located)) as [[ChunkRef], unknown, unknown]
  assert.equal(gate.gets.length, 1)
  assert.deepEqual(disk.locateNow(0, 256)?.length, 256)

  const again = gated(store)
  await using second = await (await open(again.store)).openPoint(summary, { pin: 'none' })
  const got: Uint8Array[] = []
  const deliver = (_: ChunkRef, bytes: Uint8Array) => got.push(bytes)
  const fetches = [0, 1, 2].map(() => second.disk('vda').fetch([ref, { ...ref }], deliver))
  await settle()
  assert.equal(again.gets.filter(key => key.startsWith('packs/')).length, 1)
  again.release()
  await Promise.all(fetches)
  assert.equal(again.gets.filter(key => key.startsWith('packs/')).length, 1)
  assert.equal(got.length, 6)
  for (const bytes of got) assert.deepEqual(bytes, content.subarray(3 * 4096, 4 * 4096))
  // Each receiver owns what it got.
  assert.equal(new Set(got.map(bytes => bytes.buffer)).size, 6)
})

test('a reader that gives up does not take along those who joined it', async () => {
  const { store, open, summary, content } = await oneDisk()
  const gate = gated(store)
  await using point = await (await open(gate.store)).openPoint(summary, { pin: 'none' })
  const disk = point.disk('vda')
  gate.release()
  const [ref] = (await disk.locate(5, 1)) as [ChunkRef]

  const closed = gated(store)
  await using other = await (await open(closed.store)).openPoint(summary, { pin: 'none' })
  const leaving = new AbortController()
  const delivered: string[] = []
  const left = other.disk('vda').fetch([ref], () => delivered.push('left'), { signal: leaving.signal })
  const stays = other.disk('vda').fetch([ref], (_, bytes) => {
    delivered.push('stays')
    assert.deepEqual(bytes, content.subarray(5 * 4096, 6 * 4096))
  })
  await settle()
  leaving.abort(new Error('gave up'))
  closed.release()
  await assert.rejects(left, /gave up/)
  await stays
  assert.deepEqual(delivered, ['stays'])

  // The other way round: who joined gives up, and hears nothing more.
  const third = gated(store)
  await using last = await (await open(third.store)).openPoint(summary, { pin: 'none' })
  const joiner = new AbortController()
  const owner = last.disk('vda').fetch([ref], () => delivered.push('owner'))
  const joined = last.disk('vda').fetch([ref], () => delivered.push('joined'), { signal: joiner.signal })
  await settle()
  joiner.abort(new Error('gave up'))
  await assert.rejects(joined, /gave up/)
  third.release()
  await owner
  assert.deepEqual(delivered, ['stays', 'owner'])
})

test('closing a point ends the reads that it has under way', async () => {
  const { store, open, summary } = await oneDisk()
  const gate = gated(store)
  const point = await (await open(gate.store)).openPoint(summary, { pin: 'none' })
  const located = point.disk('vda').locate(0, 1)
  const refused = assert.rejects(located, error => isLifeboatError(error, 'interrupted'))
  await settle()
  const closing = point[Symbol.asyncDispose]()
  gate.release()
  await Promise.all([refused, closing])
})

test('a sequential read of a pack takes few large requests, and at most sixteen at once', async () => {
  const { store, open, repository, writePoint } = await repositoryFixture({ chunkSize })
  const content = noise('large', 24 * MiB)
  const summary = await writePoint({ disks: [{ name: 'vda', size: content.length, writes: [[0, content]] }] })
  let [running, most] = [0, 0]
  const ranges: number[] = []
  const watched: ObjectStore = {
    ...store,
    async get(key, range, options) {
      if (key.startsWith('packs/')) ranges.push(range?.length ?? 0)
      most = Math.max(most, ++running)
      try {
        await new Promise(resolve => setImmediate(resolve))
        return await store.get(key, range, options)
      } finally {
        running--
      }
    },
  }
  await using point = await (await open(watched)).openPoint(summary, { pin: 'none' })
  const image = pointImage(point.disk('vda'))
  const target = new Uint8Array(content.length)
  await image.readInto(target, 0)
  assert.equal(Buffer.compare(target, content), 0)
  assert.ok(ranges.length <= 10, `${ranges.length} requests`)
  assert.ok(Math.max(...ranges) <= limits.getBytesMax)

  ranges.length = 0
  const scattered = Array.from({ length: 180 }, (_, n) =>
    image.readInto(target.subarray(n * 10, n * 10 + 10), n * 2 * chunkSize),
  )
  await Promise.all(scattered)
  assert.ok(most <= limits.getsInFlight, `${most} at once`)
  assert.equal(repository.chunkSize, chunkSize)
})

test('the difference of two points reads only nodes that differ, whatever the size of the disk', async () => {
  const { store, repository, open, writePoint } = await repositoryFixture({ chunkSize })
  const size = 10 * TiB
  const at = (chunk: number): [number, Uint8Array] => [chunk * chunkSize, noise(`c${chunk}`, chunkSize)]
  const full = await writePoint({ disks: [{ name: 'vda', size, writes: [at(0), at(1_000_000), at(100_000_000)] }] })
  const next = await writePoint({
    base: full.id,
    disks: [{ name: 'vda', size, writes: [[1_000_000 * chunkSize, noise('other', chunkSize)], at(1_000_001)] }],
  })
  const { store: counted, meter } = metered(store)
  const { reading } = await open(counted)
  const trees = async () =>
    Promise.all(
      [full, next].map(async point => {
        const manifest = await repository.manifest(point)
        return openTree(reading, manifest, manifest.disks[0]!)
      }),
    )
  const [a, b] = await trees()
  const diff = await diffDisks(a!, b!)
  assert.deepEqual(diff, {
    extents: [{ offset: 1_000_000 * chunkSize, length: 2 * chunkSize }],
    bytesChanged: 2 * chunkSize,
  })
  // A node of each of three levels in each tree; config and keys before that.
  assert.equal(requests(meter).get, 3 + 6)
  assert.deepEqual(await diffDisks(a!, a!), { extents: [], bytesChanged: 0 })
})

test('disks of different sizes are compared chunk by chunk of their ids', async () => {
  const { repository, writePoint } = await repositoryFixture()
  const content = noise('x', 70 * 4096)
  const disk = (size: number, writes: [number, Uint8Array][]) => [{ name: 'vda', size, writes }]
  const small = await writePoint({ disks: disk(70 * 4096, [[0, content]]) })
  // Past the top level of the small one: 4,097 leaves.
  const large = await writePoint({
    disks: disk(4097 * 64 * 4096, [
      [0, content],
      [4096 * 64 * 4096, noise('y', 4096)],
    ]),
  })
  const treeOf = async (point: typeof small) => {
    const manifest = await repository.manifest(point)
    return openTree(repository.reading, manifest, manifest.disks[0]!)
  }
  const [a, b] = [await treeOf(small), await treeOf(large)]
  const extents = [{ offset: 4096 * 64 * 4096, length: 4096 }]
  assert.deepEqual(await diffDisks(a, b), { extents, bytesChanged: 4096 })
  assert.deepEqual(await diffDisks(b, a), { extents, bytesChanged: 4096 })
})

test('the ids of nodes and of one chunk in 64 are recomputed, and what lies under another`s id is refused', async () => {
  const { open, store, summary } = await oneDisk()
  const { twinPipeline } = await import('../../../src/native/twin.ts')
  let digests = 0
  const { openRepository } = await import('../../../src/repository/open.ts')
  const { fixtureSecret } = await import('../../doubles/repository-fixture.ts')
  const { systemClock } = await import('../../../src/core/clock.ts')
  const openWith = (dice: number, tamper?: 'chunks' | 'nodes') =>
    openRepository({
      store,
      credential: { kind: 'file', secret: fixtureSecret },
      clock: systemClock,
      host: 'h',
      random: length => new Uint8Array(length).fill(dice),
      pipeline: {
        ...twinPipeline,
        digestChunks(...call) {
          digests++
          return twinPipeline.digestChunks(...call)
        },
        async openChunks(records) {
          await twinPipeline.openChunks(records)
          // As if another content had been sealed under this id by somebody who holds the keys.
          if (tamper === 'chunks') for (const { target } of records) target[0]! ^= 1
        },
        async openNodes(records) {
          const contents = await twinPipeline.openNodes(records)
          // A bit of a content id, behind header, bitmap and one pack.
          if (tamper === 'nodes') for (const content of contents) content[12 + 8 + 16 + 5]! ^= 1
          return contents
        },
      },
    })
  const read = async (repository: Awaited<ReturnType<typeof open>>) => {
    await using point = await repository.openPoint(summary, { pin: 'none' })
    const disk = point.disk('vda')
    const refs = await disk.locate(0, 10)
    await disk.fetch(
      refs.filter(ref => ref !== undefined),
      () => {},
    )
  }
  await read(await openWith(1))
  assert.equal(digests, 0)
  await read(await openWith(64))
  assert.equal(digests, 10)
  await assert.rejects(read(await openWith(64, 'chunks')), error => isLifeboatError(error, 'corrupt-object'))
  // Those of nodes always are.
  await assert.rejects(
    read(await openWith(1, 'nodes')),
    error => isLifeboatError(error, 'corrupt-object') && /^meta\//.test(String(error.details.object)),
  )
})
