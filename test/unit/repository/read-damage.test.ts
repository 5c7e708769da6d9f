import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isIntegrityError, isLifeboatError, LifeboatError } from '../../../src/core/errors.ts'
import { pointImage } from '../../../src/repository/image.ts'
import type { OpenedRepository } from '../../../src/repository/open.ts'
import type { PointSummary } from '../../../src/repository/repository.ts'
import { verifyPoints } from '../../../src/repository/verify.ts'
import type { ObjectStore } from '../../../src/storage/object-store.ts'
import { intercepted } from '../../doubles/intercepted-store.ts'
import { bytesOf, flipBit, keysOf, noise, repositoryFixture } from '../../doubles/repository-fixture.ts'
import { rewritePack } from '../../doubles/rewritten-pack.ts'

const chunk = 4096
/** Four leaves, a hole, and an end inside a chunk. */
const size = 256 * chunk + 100

async function twoPoints() {
  const fixture = await repositoryFixture()
  const first = noise('first', 100 * chunk)
  const second = noise('second', 10 * chunk)
  const tail = noise('tail', 100)
  const disks = [
    {
      name: 'vda',
      size,
      writes: [
        [0, first],
        [256 * chunk, tail],
      ] as const,
    },
  ]
  const full = await fixture.writePoint({ disks })
  const before = { packs: keysOf(fixture.store, 'packs/'), meta: keysOf(fixture.store, 'meta/') }
  const increment = await fixture.writePoint({
    base: full.id,
    disks: [{ name: 'vda', size, writes: [[20 * chunk, second]] }],
  })
  const content = new Uint8Array(size)
  content.set(first)
  content.set(tail, 256 * chunk)
  const changed = content.slice()
  changed.set(second, 20 * chunk)
  const only = (folder: 'packs' | 'meta') =>
    keysOf(fixture.store, `${folder}/`).find(key => !before[folder].includes(key))!
  return {
    ...fixture,
    full: { summary: full, content, pack: before.packs[0]!, meta: before.meta[0]! },
    increment: { summary: increment, content: changed, pack: only('packs'), meta: only('meta') },
  }
}

async function readAll(repository: OpenedRepository, summary: PointSummary): Promise<Uint8Array> {
  await using point = await repository.openPoint(summary, { pin: 'restore' })
  const image = pointImage(point.disk('vda'))
  const target = new Uint8Array(image.size)
  await image.readInto(target, 0)
  return target
}

test('a flipped bit in a record is found, named, and harms only the points that need the record', async () => {
  const { store, open, full, increment } = await twoPoints()
  // Slot 25 of the first pack is chunk 25, which the increment replaced.
  flipBit(store, full.pack, 25 * (chunk + 20) + 500)
  const repository = await open()
  assert.deepEqual(await readAll(repository, increment.summary), increment.content)
  await assert.rejects(readAll(repository, full.summary), error => {
    assert.ok(isLifeboatError(error, 'corrupt-object'))
    assert.equal(error.details.object, full.pack)
    assert.equal(error.details.slot, 25)
    assert.equal(error.details.point, full.summary.id)
    assert.equal(error.details.disk, 'vda')
    return true
  })
  const { problems } = await verifyPoints(repository, { points: [full.summary, increment.summary] })
  assert.equal(problems.length, 1)
  const [problem] = problems
  assert.equal(problem?.object, full.pack)
  assert.equal(problem?.kind, 'corrupt')
  assert.deepEqual(problem?.points, [full.summary.id])
  const ranges = [{ offset: 25 * chunk, length: chunk }]
  assert.deepEqual(problem?.disks, [{ point: full.summary.id, disk: 'vda', ranges }])
})

test('each object truncated, missing, flipped or replaced by another fails closed with its name, and other points still read', async () => {
  const { store, open, full, increment } = await twoPoints()
  const damages: Record<string, (bytes: Uint8Array, key: string) => Uint8Array | undefined> = {
    missing: () => undefined,
    empty: () => new Uint8Array(0),
    truncated: bytes => bytes.slice(0, 30),
    flipped: bytes => bytes.map((byte, at) => (at === 25 ? byte ^ 1 : byte)),
    'another object': (_, key) => bytesOf(store, key === full.pack ? full.meta : full.pack),
  }
  for (const key of [increment.pack, increment.meta, increment.summary.key])
    for (const [name, damage] of Object.entries(damages)) {
      const good = bytesOf(store, key)
      store.tamper(key, damage(good, key))
      const repository = await open()
      await assert.rejects(readAll(repository, increment.summary), error => {
        const gone = key === increment.summary.key && name === 'missing'
        assert.ok(gone ? isLifeboatError(error, 'no-such-point') : isIntegrityError(error), `${name} ${key}: ${error}`)
        assert.equal(error instanceof LifeboatError && error.details.object, key)
        return true
      })
      assert.deepEqual(await readAll(repository, full.summary), full.content, `${name} ${key}`)
      const { problems } = await verifyPoints(repository, { points: [full.summary, increment.summary] })
      assert.deepEqual(
        problems.map(({ object, points }) => ({ object, points })),
        [{ object: key, points: [increment.summary.id] }],
      )
      store.tamper(key, good)
    }
  const { problems } = await verifyPoints(await open(), { points: [full.summary, increment.summary] })
  assert.deepEqual(problems, [])
})

test('a damaged object that both points share is one problem with both, and with the ranges of each', async () => {
  const { store, open, full, increment } = await twoPoints()
  store.tamper(full.pack, undefined)
  const { problems } = await verifyPoints(await open(), { points: [full.summary, increment.summary] })
  assert.equal(problems.length, 1)
  assert.equal(problems[0]?.kind, 'missing')
  const tail = { offset: 256 * chunk, length: 100 }
  assert.deepEqual(problems[0]?.disks, [
    { point: full.summary.id, disk: 'vda', ranges: [{ offset: 0, length: 100 * chunk }, tail] },
    {
      point: increment.summary.id,
      disk: 'vda',
      ranges: [{ offset: 0, length: 20 * chunk }, { offset: 30 * chunk, length: 70 * chunk }, tail],
    },
  ])
})

test('a lost tree node harms the range below it, and the rest of the disk is still checked', async () => {
  const { store, open, full } = await twoPoints()
  // The first record of the first meta pack is the leaf of the first 64 chunks.
  flipBit(store, full.meta, 100)
  const { problems, checked } = await verifyPoints(await open(), { points: [full.summary] })
  assert.deepEqual(problems[0]?.disks, [
    { point: full.summary.id, disk: 'vda', ranges: [{ offset: 0, length: 64 * chunk }] },
  ])
  assert.equal(problems[0]?.object, full.meta)
  // Two leaves with 36 chunks and 1.
  assert.equal(checked, 2 + 37)
})

test('verify reads each shared record once', async () => {
  const { repository, full, increment } = await twoPoints()
  const all = await verifyPoints(repository, { points: [full.summary, increment.summary] })
  const one = await verifyPoints(repository, { points: [full.summary] })
  assert.equal(one.checked, 3 + 101)
  // One changed leaf and ten chunks more.
  assert.equal(all.checked, one.checked + 1 + 10)
  const sampled = await verifyPoints(repository, { points: [full.summary], samplePercent: 0 })
  assert.equal(sampled.checked, 3)
})

test('what could not be asked for is reported as such, never as missing and never as fine', async () => {
  const { store, open, full } = await twoPoints()
  const failing: ObjectStore = {
    ...store,
    get: (key, ...rest) =>
      key === full.pack
        ? Promise.reject(new LifeboatError('store-unreachable', 'no answer', { retry: 'transient' }))
        : store.get(key, ...rest),
  }
  const repository = await open(failing)
  await assert.rejects(readAll(repository, full.summary), error => isLifeboatError(error, 'store-unreachable'))
  const { problems } = await verifyPoints(repository, { points: [full.summary] })
  assert.deepEqual(
    problems.map(({ kind, object }) => ({ kind, object })),
    [{ kind: 'unchecked', object: full.pack }],
  )
})

test('damage on the way that a second look does not show is no failure', async () => {
  const { store, open, full } = await twoPoints()
  const seen = new Set<string>()
  const flaky: ObjectStore = {
    ...store,
    async get(key, range, options) {
      const bytes = await store.get(key, range, options)
      if (/^(packs|meta)/.test(key) && !seen.has(`${key}${range?.offset}`)) bytes[10]! ^= 1
      seen.add(`${key}${range?.offset}`)
      return bytes
    },
  }
  assert.deepEqual(await readAll(await open(flaky), full.summary), full.content)
})

test('records are found in rewritten objects after the original was deleted, and again after those were rewritten', async () => {
  const fixture = await twoPoints()
  const { store, open, full, increment } = fixture
  const even = Array.from({ length: 101 }, (_, n) => n).filter(slot => slot % 2 === 0)
  const odd = Array.from({ length: 101 }, (_, n) => n).filter(slot => slot % 2 === 1)
  const data = await rewritePack(fixture, full.pack, '00000000000000aa', even)
  await rewritePack(fixture, full.pack, '00000000000000ab', odd)
  const meta = await rewritePack(fixture, full.meta, '00000000000000ac')
  const [packBytes, metaBytes] = [bytesOf(store, full.pack), bytesOf(store, full.meta)]
  store.tamper(full.pack, undefined)
  store.tamper(full.meta, undefined)
  const repository = await open()
  assert.deepEqual(await readAll(repository, full.summary), full.content)
  assert.deepEqual(await readAll(repository, increment.summary), increment.content)
  assert.deepEqual((await verifyPoints(repository, { points: [full.summary] })).problems, [])

  // The reader remembers the rewritten objects; now one of them is replaced by the next run.
  store.tamper(full.pack, packBytes)
  await rewritePack(fixture, full.pack, '00000000000000ad', even)
  store.tamper(full.pack, undefined)
  store.tamper(data, undefined)
  assert.deepEqual(await readAll(repository, full.summary), full.content)

  // A copy whose footer is damaged is named, rather than called missing, and looked at again at the next read.
  const copy = bytesOf(store, meta)
  store.tamper(
    meta,
    copy.map((byte, at) => (at === copy.length - 200 ? byte ^ 1 : byte)),
  )
  const reader = await open()
  await assert.rejects(readAll(reader, full.summary), error => isIntegrityError(error) && error.details.object === meta)
  store.tamper(meta, copy)
  assert.deepEqual(await readAll(reader, full.summary), full.content)
  store.tamper(meta, undefined)
  await assert.rejects(
    readAll(await open(), full.summary),
    error => isLifeboatError(error, 'missing-object') && error.details.object === full.meta,
  )
  store.tamper(full.meta, metaBytes)
  assert.deepEqual(await readAll(await open(), full.summary), full.content)
})

test('a rewritten object that is replaced under a smaller name, between its listing and its footer, is found all the same', async () => {
  const fixture = await twoPoints()
  const { store, open, full } = fixture
  const old = await rewritePack(fixture, full.pack, '00000000000000ff')
  const replacement = await rewritePack(fixture, full.pack, '00000000000000aa')
  const bytes = bytesOf(store, replacement)
  store.tamper(replacement, undefined)
  store.tamper(full.pack, undefined)
  let replaced = 0
  const compacting = intercepted(store, {
    before({ verb, key }) {
      if (verb !== 'get' || key !== old || replaced++ > 0) return
      store.tamper(replacement, bytes)
      store.tamper(old, undefined)
    },
  })
  assert.deepEqual(await readAll(await open(compacting), full.summary), full.content)
  assert.ok(replaced > 0, 'the compaction came between')
})

test('a damaged record is read from a rewritten object that has a good copy', async () => {
  const fixture = await twoPoints()
  const { store, open, full } = fixture
  await rewritePack(fixture, full.pack, '00000000000000aa', [25])
  flipBit(store, full.pack, 25 * (chunk + 20) + 500)
  assert.deepEqual(await readAll(await open(), full.summary), full.content)
  flipBit(store, full.pack, 26 * (chunk + 20) + 500)
  await assert.rejects(
    readAll(await open(), full.summary),
    error => isIntegrityError(error) && error.details.slot === 26,
  )
})
