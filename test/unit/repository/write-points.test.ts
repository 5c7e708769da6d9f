import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import type { LifeboatError } from '../../../src/core/errors.ts'
import { KiB, limits, MiB } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import type { Range } from '../../../src/core/range.ts'
import { findRot, parseTrailer } from '../../../src/repository/pack-codec.ts'
import { memoryStore } from '../../../src/storage/memory.ts'
import { intercepted } from '../../doubles/intercepted-store.ts'
import {
  backup,
  beginBackup,
  commitBackup,
  keysOf,
  newMemoryRepository,
  openMemoryRepository,
  pointNumber,
  readBack,
  storedBytes,
  writeDisk,
} from '../../doubles/memory-repository.ts'

const C = 4096

/** A fifth zeros, half compresses well. */
function sampleImage(seed: string, chunks: number, chunkSize = C): Uint8Array {
  const image = new Uint8Array(chunks * chunkSize)
  const random = seededRandom(seed)
  for (let chunk = 0; chunk < chunks; chunk++) {
    const [kind = 0] = random(1)
    if (kind < 50) continue
    const part = random(kind < 150 ? 64 : chunkSize)
    for (let at = 0; at < chunkSize; at += part.length) image.set(part, chunk * chunkSize + at)
  }
  return image
}

/** 64 KiB of noise over and over, with a number in every 4 KiB: as incompressible as the real thing, much cheaper. */
function noise(seed: string, bytes: number): Uint8Array {
  const image = new Uint8Array(bytes)
  const piece = seededRandom(seed)(Math.min(bytes, 64 * KiB))
  const view = new DataView(image.buffer)
  for (let at = 0; at < bytes; at += piece.length) image.set(piece.subarray(0, Math.min(piece.length, bytes - at)), at)
  for (let at = 0; at + 4 <= bytes; at += C) view.setUint32(at, at / C)
  return image
}

const same = (a: Uint8Array, b: Uint8Array) => assert.ok(Buffer.compare(a, b) === 0, 'the images differ')

test('a full backup is read back byte by byte, with an odd last chunk and several disks', async () => {
  const store = await newMemoryRepository()
  const repository = await openMemoryRepository(store, { seed: 'a' })
  const vda = sampleImage('vda', 300).subarray(0, 300 * C - 1000)
  const vdb = sampleImage('vdb', 70)
  const empty = new Uint8Array(0)
  const zeros = new Uint8Array(50 * C)
  const disks = Object.entries({ vda, vdb, empty, zeros }).map(([name, image]) => ({ name, image }))
  const manifest = await backup(repository, { number: 1, disks })
  for (const { name, image } of disks) same(await readBack(repository, pointNumber(1), name), image)
  assert.equal(manifest.sequence, 1)
  assert.equal(manifest.previous, undefined)
  assert.deepEqual(keysOf(store, 'leases/'), [])
  assert.deepEqual(keysOf(store, 'fences/'), [])
  // Disks share packs: the smallest backup is pack, meta pack, index, manifest and the lease.
  assert.equal(keysOf(store, 'packs/').length, 1)
  assert.equal(keysOf(store, 'meta/').length, 1)
  assert.equal(keysOf(store, 'index/').length, 1)
})

test('statistics say what they are documented to say', async () => {
  const store = await newMemoryRepository()
  const repository = await openMemoryRepository(store, { seed: 'stats' })
  const image = noise('stats', 40 * C - 96)
  image.fill(0, 10 * C, 20 * C)
  image.copyWithin(5 * C, 4 * C, 5 * C)
  const full = (await backup(repository, { number: 1, disks: [{ name: 'vda', image }] })).disks[0]!
  assert.equal(full.bytesRead, image.length)
  assert.equal(full.bytesChanged, 30 * C - 96, 'all non-zero chunks')
  assert.equal(full.bytesNew, 29 * C - 96, 'one of them is there twice')
  const objects = storedBytes(store, 'packs/') + storedBytes(store, 'meta/')
  assert.ok(full.bytesStored <= objects && full.bytesStored > objects - 400, 'records and rows, without fixed parts')

  const next = image.slice()
  next.set(noise('new', C), 0) // new
  next.copyWithin(C, 30 * C, 31 * C) // changed to what is stored elsewhere
  next.fill(0, 2 * C, 4 * C) // became zeros
  const changed = [
    { offset: 0, length: 8 * C },
    { offset: 12 * C, length: 2 * C },
  ]
  const disks = [{ name: 'vda', image: next, base: pointNumber(1), changed }]
  const increment = (await backup(repository, { number: 2, disks })).disks[0]!
  assert.equal(increment.bytesRead, 10 * C)
  assert.equal(increment.bytesChanged, 4 * C)
  assert.ok(increment.bytesNew <= 2 * C && increment.bytesNew >= C)
  assert.equal(increment.base, pointNumber(1))
  same(await readBack(repository, pointNumber(2), 'vda'), next)
})

test('an increment writes what changed: nothing for nothing, one leaf for each scattered chunk', async () => {
  const store = await newMemoryRepository()
  const repository = await openMemoryRepository(store, { seed: 'inc' })
  // 16,384 chunks that repeat: a whole tree, almost no data.
  const chunks = 16_384
  const image = new Uint8Array(chunks * C)
  const part = noise('part', 7 * C)
  for (let chunk = 0; chunk < chunks; chunk++)
    image.set(part.subarray((chunk % 7) * C, ((chunk % 7) + 1) * C), chunk * C)
  await backup(repository, { number: 1, disks: [{ name: 'vda', image }] })
  assert.ok(storedBytes(store, 'packs/') < 8 * C)
  const whole = storedBytes(store, 'meta/')

  const before = [...store.snapshot().keys()]
  const unchanged = { name: 'vda', image, base: pointNumber(1), changed: [{ offset: 5 * C, length: 300 * C }] }
  const nothing = (await backup(repository, { number: 2, disks: [unchanged] })).disks[0]!
  assert.deepEqual(
    [...store.snapshot().keys()].filter(key => !before.includes(key)).map(key => key.split('/')[0]),
    ['points'],
  )
  assert.equal(nothing.bytesStored + nothing.bytesNew + nothing.bytesChanged, 0)

  const changed: Range[] = []
  for (let n = 0; n < 16; n++) {
    const chunk = n * 1000 + 3
    image.set(noise(`change ${n}`, C), chunk * C)
    changed.push({ offset: chunk * C, length: C })
  }
  const scattered = (
    await backup(repository, { number: 3, disks: [{ name: 'vda', image, base: pointNumber(2), changed }] })
  ).disks[0]!
  const metadata = storedBytes(store, 'meta/') - whole
  assert.equal(scattered.bytesChanged, 16 * C)
  assert.equal(scattered.bytesNew, 16 * C)
  // A leaf of 64 entries takes 2.1 KiB of ids and few runs; 0.1 % of the chunks are 6.3 % of the leaves.
  assert.ok(metadata > 16 * 2100 && metadata < 16 * 2700, `${metadata} bytes of metadata`)
  same((await readBack(repository, pointNumber(3), 'vda')).subarray(0, 4000 * C), image.subarray(0, 4000 * C))
})

test('the audit compares with the base without writing', async () => {
  const store = await newMemoryRepository()
  const repository = await openMemoryRepository(store, { seed: 'audit' })
  const image = sampleImage('audit', 100).subarray(0, 100 * C - 5)
  image.fill(0, 3 * C, 4 * C)
  await backup(repository, { number: 1, disks: [{ name: 'vda', image }] })
  await using writer = await beginBackup(repository, { number: 2, disks: [], bases: [pointNumber(1)] })
  const disk = await writer.disk({ name: 'vda', size: image.length, base: pointNumber(1), description: {} })
  assert.equal(disk.baseSize, image.length)
  assert.equal(await disk.matchesBase(2 * C, image.slice(2 * C, 6 * C)), true)
  assert.equal(await disk.matchesBase(99 * C, image.slice(99 * C)), true)
  assert.equal(await disk.matchesBase(3 * C, noise('other', C)), false)
  assert.equal(
    await disk.matchesBase(0, new Uint8Array(C)),
    image.subarray(0, C).every(byte => byte === 0),
  )
  const stats = await disk.finish({ bytesRead: 0 })
  assert.equal(stats.bytesAudited, 4 * C + (C - 5) + C + C)
  assert.equal((await commitBackup(writer)).disks[0]!.bytesAudited, stats.bytesAudited)
})

test('the same seed gives the same objects, whatever the timing of the store', async () => {
  const results = []
  for (const jitter of [undefined, 'x']) {
    const store = await newMemoryRepository({ chunkSize: 64 * KiB })
    const delays = seededRandom(jitter ?? '')
    const timed = intercepted(store, {
      async before({ verb }) {
        if (jitter === undefined) return
        for (let turns = delays(1)[0]! % (verb === 'put' ? 40 : 5); turns > 0; turns--) await turn()
      },
    })
    const repository = await openMemoryRepository(timed, { seed: 'repeat' })
    const vda = noise('big', 40 * MiB)
    vda.copyWithin(24 * MiB, 0, 4 * MiB)
    const vdb = sampleImage('small', 40, 64 * KiB)
    await backup(repository, {
      number: 1,
      disks: [
        { name: 'vda', image: vda },
        { name: 'vdb', image: vdb },
      ],
    })
    vda.set(noise('more', MiB), 9 * MiB)
    const changed = [{ offset: 8 * MiB, length: 3 * MiB }]
    await backup(repository, { number: 2, disks: [{ name: 'vda', image: vda, base: pointNumber(1), changed }] })
    results.push(store.snapshot())
  }
  const [first, ...others] = results
  assert.ok([...first!.keys()].filter(key => key.startsWith('packs/')).length >= 4)
  for (const other of others) {
    assert.deepEqual([...other.keys()].sort(), [...first!.keys()].sort())
    for (const [key, { bytes }] of first!) assert.ok(Buffer.compare(bytes, other.get(key)!.bytes) === 0, key)
  }
})

test('a slow store holds the writer back: at most three packs and two windows are in memory', async () => {
  const store = await newMemoryRepository({ chunkSize: 64 * KiB })
  let stored = 0
  let accepted = 0
  let mostAhead = 0
  let uploads = 0
  let mostUploads = 0
  const slow = intercepted(store, {
    async before({ verb, key }) {
      if (verb !== 'put' || !key.startsWith('packs/')) return
      mostUploads = Math.max(mostUploads, ++uploads)
      // Until nothing more is accepted: a writer without a bound would take all of it meanwhile.
      for (let seen = -1; seen !== accepted; await sleep(150)) seen = accepted
    },
    after({ verb, key }) {
      if (verb !== 'put' || !key.startsWith('packs/')) return
      uploads--
      stored += limits.packTargetBytes
    },
  })
  const repository = await openMemoryRepository(slow, { seed: 'slow' })
  await using writer = await beginBackup(repository, { number: 1, disks: [] })
  const size = 96 * MiB
  const disk = await writer.disk({ name: 'vda', size, description: {} })
  for (let offset = 0; offset < size; offset += MiB) {
    await disk.write(offset, noise(`slow ${offset}`, MiB))
    accepted += MiB
    mostAhead = Math.max(mostAhead, accepted - stored)
  }
  await disk.finish({ bytesRead: size })
  await commitBackup(writer)
  assert.ok(mostUploads >= 2, 'uploads overlap')
  assert.ok(mostUploads <= limits.packBuffers)
  const bound = limits.packBuffers * (limits.packTargetBytes + MiB) + 2 * limits.writeWindowBytes + 2 * MiB
  assert.ok(mostAhead <= bound, `${mostAhead} bytes ahead of the store`)
})

test('contents that another VM has stored are not stored again', async () => {
  const store = await newMemoryRepository({ chunkSize: 64 * KiB })
  const repository = await openMemoryRepository(store, { seed: 'dedup' })
  const image = noise('template', 60 * MiB)
  await backup(repository, { vm: 'one', number: 1, disks: [{ name: 'vda', image }] })
  const clone = image.slice()
  clone.set(noise('own', 2 * MiB), 30 * MiB)
  const reopened = await openMemoryRepository(store, { seed: 'dedup 2' })
  const stats = (await backup(reopened, { vm: 'two', number: 2, disks: [{ name: 'vda', image: clone }] })).disks[0]!
  assert.equal(stats.bytesChanged, clone.length)
  assert.ok(stats.bytesNew >= 2 * MiB)
  assert.ok(
    stats.bytesNew - 2 * MiB <= 0.015 * image.length,
    `${(stats.bytesNew - 2 * MiB) / image.length} of the duplicates were missed`,
  )
  same(await readBack(reopened, pointNumber(2), 'vda'), clone)
})

test('contents that this very backup stored are not stored again, in the same pack or an earlier one', async () => {
  const store = await newMemoryRepository({ chunkSize: 64 * KiB })
  const repository = await openMemoryRepository(store, { seed: 'self' })
  const half = noise('half', 40 * MiB)
  const image = new Uint8Array(80 * MiB)
  image.set(half, 0)
  image.set(half, 40 * MiB)
  const { bytesNew } = (await backup(repository, { number: 1, disks: [{ name: 'vda', image }] })).disks[0]!
  assert.ok(bytesNew - half.length <= 0.015 * half.length, `${(bytesNew - half.length) / half.length} were missed`)
  same(await readBack(repository, pointNumber(1), 'vda'), image)
})

test('what cannot be a disk or comes out of order is refused without harm', async () => {
  const store = await newMemoryRepository()
  const repository = await openMemoryRepository(store, { seed: 'order' })
  await using writer = await beginBackup(repository, { number: 1, disks: [] })
  const disk = await writer.disk({ name: 'vda', size: 10 * C + 5, description: {} })
  await disk.write(4 * C, noise('x', 2 * C))
  await assert.rejects(() => disk.write(5 * C, noise('x', C)), RangeError)
  await assert.rejects(() => disk.write(7 * C + 1, noise('x', C)), RangeError)
  await assert.rejects(() => disk.write(7 * C, noise('x', C - 1)), RangeError)
  await assert.rejects(() => disk.write(10 * C, noise('x', C)), RangeError)
  await assert.rejects(() => disk.zero({ offset: 11 * C, length: C }), RangeError)
  await assert.rejects(
    () => writer.disk({ name: 'vdb', size: 2 ** 60, description: {} }),
    (error: LifeboatError) => error.code === 'absurd-object',
  )
  await assert.rejects(() => writer.disk({ name: 'vdb', size: C, base: pointNumber(9), description: {} }), RangeError)
  await disk.write(10 * C, noise('y', 5))
  await disk.finish({ bytesRead: 0 })
  await commitBackup(writer)
  same((await readBack(repository, pointNumber(1), 'vda')).subarray(4 * C, 6 * C), noise('x', 2 * C))
})

test('a failing store ends the backup with its own error and no point', async () => {
  const store = await newMemoryRepository({ chunkSize: 64 * KiB })
  const clean = store.snapshot()
  for (const folder of ['packs/', 'meta/', 'index/']) {
    const broken = memoryStore({ entries: clean })
    const full = intercepted(broken, {
      before({ verb, key }) {
        if (verb === 'put' && key.startsWith(folder)) throw Object.assign(new Error(`no room for ${folder}`))
      },
    })
    const repository = await openMemoryRepository(full, { seed: folder })
    const image = noise('fails', 20 * MiB)
    await assert.rejects(() => backup(repository, { number: 1, disks: [{ name: 'vda', image }] }), /no room for/)
    assert.deepEqual(keysOf(broken, 'points/'), [])
    assert.deepEqual(keysOf(broken, 'leases/'), [])
    assert.deepEqual(keysOf(broken, 'fences/'), [], 'no manifest was sent, so there is nothing to void')
  }
})

test('an aborted write gives up at once, though the store hangs', async () => {
  const store = await newMemoryRepository({ chunkSize: 64 * KiB })
  const hanging = intercepted(store, {
    async before({ verb, key }, options) {
      if (verb !== 'put' || !key.startsWith('packs/')) return
      options?.signal?.throwIfAborted()
      await new Promise((_, reject) => options?.signal?.addEventListener('abort', () => reject(options.signal?.reason)))
    },
  })
  const repository = await openMemoryRepository(hanging, { seed: 'abort' })
  const control = new AbortController()
  await assert.rejects(async () => {
    await using writer = await beginBackup(repository, { number: 1, disks: [] })
    const disk = await writer.disk({ name: 'vda', size: 200 * MiB, description: {} })
    const timer = setInterval(() => control.abort(new Error('Ctrl-C')), 700)
    try {
      for (let offset = 0; offset < 200 * MiB; offset += MiB)
        await disk.write(offset, noise(`hang ${offset}`, MiB), { signal: control.signal })
    } finally {
      clearInterval(timer)
    }
  }, /Ctrl-C/)
  assert.deepEqual(keysOf(store, 'points/'), [])
  assert.deepEqual(keysOf(store, 'leases/'), [])
})

test('a base on a disk that the base does not have is a full backup of that disk', async () => {
  const store = await newMemoryRepository()
  const repository = await openMemoryRepository(store, { seed: 'added' })
  await backup(repository, { number: 1, disks: [{ name: 'vda', image: sampleImage('vda', 20) }] })
  await using writer = await beginBackup(repository, { number: 2, disks: [], bases: [pointNumber(1)] })
  const image = sampleImage('vdb', 30)
  await writeDisk(repository, writer, { name: 'vdb', image, base: pointNumber(1) })
  await commitBackup(writer)
  same(await readBack(repository, pointNumber(2), 'vdb'), image)
})

test('a pack is what the format says: checksums, trailer and footer fit its bytes', async () => {
  const store = await newMemoryRepository()
  const repository = await openMemoryRepository(store, { seed: 'layout' })
  // Bodies that end within, at and shortly before a MiB, so that the footer lies across it.
  for (const [n, chunks] of [10, 254, 255, 256, 257, 700].entries())
    await backup(repository, {
      vm: `vm${n}`,
      number: n + 1,
      disks: [{ name: 'vda', image: seededRandom(`${n}`)(chunks * C) }],
    })
  const packs = [...keysOf(store, 'packs/'), ...keysOf(store, 'meta/')]
  assert.equal(packs.length, 12)
  for (const key of packs) {
    const { bytes } = store.snapshot().get(key)!
    const trailer = parseTrailer(bytes.slice(-64), bytes.length, key)
    assert.equal(key.endsWith(trailer.pack), true)
    const checkedEnd = trailer.bodyLength + trailer.footerLength
    const checksums = bytes.slice(checkedEnd, checkedEnd + trailer.checksumsLength)
    assert.deepEqual(findRot([bytes.subarray(0, checkedEnd)], checksums, trailer, key), [])
  }
})
