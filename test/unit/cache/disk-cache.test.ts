import assert from 'node:assert/strict'
import { mkdtempSync } from 'node:fs'
import { chmod, open, readdir, readFile, rm, stat, unlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { describe, test } from 'node:test'
import { type DiskCache, type DiskCacheOptions, openDiskCache } from '../../../src/cache/disk-cache.ts'
import { nodeCacheFiles } from '../../../src/cache/disk-cache-files.ts'
import { limits } from '../../../src/core/limits.ts'
import { seededRandom, systemRandom } from '../../../src/core/random.ts'
import { smallDisk } from '../../doubles/command-line.ts'
import { recordNumber, storedNumber } from '../../doubles/kept-record.ts'
import { type ManualClock, manualClock } from '../../doubles/manual-clock.ts'

const MiB = 1024 * 1024

function scratch() {
  const dir = mkdtempSync(path.join(tmpdir(), 'lifeboat-cache-'))
  return { dir, [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }) }
}

async function cacheIn(dir: string, options: Partial<DiskCacheOptions> = {}): Promise<DiskCache> {
  const clock = options.clock ?? manualClock()
  const cache = await openDiskCache({ folder: dir, maxBytes: 16 * MiB, clock, random: systemRandom, ...options })
  assert.ok(cache, 'the folder can be used')
  await cache.refresh()
  return cache
}

/** 'right', 'absent' or 'wrong'. */
async function look(cache: DiskCache, number: number): Promise<'right' | 'absent' | 'wrong'> {
  const [found] = await cache.read([recordNumber(number)])
  if (!found) return 'absent'
  return Buffer.compare(found, storedNumber(number)) === 0 ? 'right' : 'wrong'
}

async function census(cache: DiskCache, count: number) {
  const seen = { right: 0, absent: 0, wrong: 0 }
  for (let number = 0; number < count; number++) seen[await look(cache, number)]++
  return seen
}

async function fill(cache: DiskCache, from: number, to: number) {
  for (let number = from; number < to; number++) {
    cache.keep(recordNumber(number), storedNumber(number))
    if (number % 20 === 0) await cache.settled()
  }
  await cache.settled()
}

const segmentsOf = async (dir: string) => (await readdir(dir)).filter(name => name.endsWith('.segment')).sort()

async function bytesOf(dir: string): Promise<number> {
  const sizes = await Promise.all((await segmentsOf(dir)).map(name => stat(path.join(dir, name))))
  return sizes.reduce((sum, { size }) => sum + size, 0)
}

test('what was kept is read, by this process, by one that was there before, and by the next', async () => {
  await using place = scratch()
  const clock = manualClock()
  await using neighbour = await cacheIn(place.dir, { clock })
  {
    await using cache = await cacheIn(place.dir, { clock })
    assert.deepEqual([cache.has(recordNumber(1)), await look(cache, 1)], [false, 'absent'])
    await fill(cache, 0, 200)
    assert.deepEqual(await census(cache, 200), { right: 200, absent: 0, wrong: 0 })
    assert.equal(cache.figures().kept, 200)
    await clock.advance(limits.diskCacheRefreshMs + 1)
    assert.equal(neighbour.has(recordNumber(1)), false, 'nothing waits for a look at the folder')
    await neighbour.refresh()
    assert.deepEqual(await census(neighbour, 200), { right: 200, absent: 0, wrong: 0 })
    await fill(cache, 200, 210)
    await neighbour.refresh()
    assert.equal(await look(neighbour, 205), 'right', 'a segment that goes on is followed')
  }
  await using next = await cacheIn(place.dir)
  assert.deepEqual(await census(next, 210), { right: 210, absent: 0, wrong: 0 })
})

test('opening reads the index only', async () => {
  await using place = scratch()
  {
    await using cache = await cacheIn(place.dir)
    await fill(cache, 0, 400)
  }
  let bytesRead = 0
  const files = {
    ...nodeCacheFiles,
    open: async (name: string) => {
      const file = await nodeCacheFiles.open(name)
      return {
        ...file,
        readAt: (target: Uint8Array, position: number) => {
          bytesRead += target.length
          return file.readAt(target, position)
        },
      }
    },
  }
  await using cache = await cacheIn(place.dir, { files })
  const total = await bytesOf(place.dir)
  console.log(`${total} bytes of segments, ${bytesRead} read to open, ${cache.figures().indexBytes} of index`)
  assert.ok(bytesRead < total / 50)
  assert.equal(await look(cache, 399), 'right')
})

test('all segments together stay below the bound, and the least recently used go first', async () => {
  await using place = scratch()
  const clock = manualClock(new Date().toISOString())
  const maxBytes = 4 * MiB
  await using cache = await cacheIn(place.dir, { clock, maxBytes })
  await fill(cache, 0, 20)
  let largest = 0
  for (let number = 20; number < 1_000; number += 20) {
    // The first ones are used all the time; what else came then is not.
    await clock.advance(limits.diskCacheTouchMs + 1)
    assert.equal(await look(cache, 3), 'right', `after ${number} others`)
    await fill(cache, number, number + 20)
    largest = Math.max(largest, await bytesOf(place.dir))
  }
  const { segmentsEvicted } = cache.figures()
  console.log(`${segmentsEvicted} segments evicted, ${largest} bytes at the most of ${maxBytes}`)
  assert.ok(segmentsEvicted > 20 && largest <= maxBytes)
  assert.equal(await look(cache, 300), 'absent')
  assert.equal(await look(cache, 995), 'right')
})

test('the index in memory follows what is kept, not what ever was', async () => {
  await using place = scratch()
  await using cache = await cacheIn(place.dir, { maxBytes: 2 * MiB })
  await fill(cache, 0, 100)
  const before = cache.figures().indexBytes
  await fill(cache, 100, 1_200)
  assert.ok(cache.figures().segmentsEvicted > 40)
  assert.ok(cache.figures().indexBytes <= before * 2, `${cache.figures().indexBytes} after ${before}`)
})

describe('R12: damage', () => {
  const COUNT = 40

  /** All in one segment. */
  async function filled(dir: string) {
    await using cache = await cacheIn(dir, { maxBytes: 64 * MiB })
    await fill(cache, 0, COUNT)
    const [name = ''] = await segmentsOf(dir)
    return path.join(dir, name)
  }

  test('64 bits flipped one at a time, and 1,000 at random: no wrong byte', async () => {
    await using place = scratch()
    const file = await filled(place.dir)
    const original = await readFile(file)
    const [first, last] = [0, COUNT - 1].map(n => original.subarray(64 + n * 32, 64 + (n + 1) * 32)) as [Buffer, Buffer]
    const dataStart = first.readUInt32LE(16)
    const dataEnd = last.readUInt32LE(16) + 32 + last.readUInt32LE(20)
    const random = seededRandom('flips')
    const below = (count: number) => Buffer.from(random(4)).readUInt32BE(0) % count
    let detected = 0
    let lost = 0
    const check = async (where: string) => {
      await using cache = await cacheIn(place.dir)
      const seen = await census(cache, COUNT)
      assert.equal(seen.wrong, 0, where)
      if (seen.absent > 0) detected++
      lost += seen.absent
    }
    for (let n = 0; n < 64; n++) {
      const bytes = Buffer.from(original)
      // Every fourth in the header and the index, the others anywhere in the records.
      const at = n % 4 === 0 ? below(64 + COUNT * 32) : dataStart + below(dataEnd - dataStart)
      bytes[at]! ^= 1 << (n % 8)
      await writeFile(file, bytes)
      await check(`byte ${at}`)
    }
    const bytes = Buffer.from(original)
    for (let n = 0; n < 1_000; n++) bytes[dataStart + below(dataEnd - dataStart)]! ^= 1 << below(8)
    await writeFile(file, bytes)
    await check('1,000 bits')
    console.log(`injected 65 damaged segments, detected ${detected}, records dropped ${lost}, wrong bytes 0`)
    assert.equal(detected, 65)
  })

  test('cut off anywhere, records swapped, segments exchanged, foreign files: no wrong byte', async () => {
    await using place = scratch()
    const file = await filled(place.dir)
    const original = await readFile(file)
    const dataStart = original.readUInt32LE(64 + 16)
    const index = (n: number) => original.subarray(64 + n * 32, 64 + (n + 1) * 32)
    const swappedEntries = Buffer.from(original)
    swappedEntries.set(index(5), 64 + 6 * 32)
    swappedEntries.set(index(6), 64 + 5 * 32)
    const offsets = [index(5).readUInt32LE(16), index(6).readUInt32LE(16)] as const
    const swappedRecords = Buffer.from(original)
    swappedRecords.set(original.subarray(offsets[1], offsets[1] + 250), offsets[0])
    swappedRecords.set(original.subarray(offsets[0], offsets[0] + 250), offsets[1])
    const cases: [string, Buffer][] = [
      ['entries in another order', swappedEntries],
      ['records in each other’s place', swappedRecords],
      ['another magic', Buffer.concat([Buffer.alloc(16, 1), original.subarray(16)])],
      ['twice as long', Buffer.concat([original, original])],
      ...[0, 1, 63, 64, 65, 100, 5_000, dataStart + 90_000, original.length - 1].map((length): [string, Buffer] => [
        `cut off at ${length}`,
        original.subarray(0, length),
      ]),
    ]
    for (const [what, bytes] of cases) {
      await writeFile(file, bytes)
      await using cache = await cacheIn(place.dir)
      const seen = await census(cache, COUNT)
      console.log(`injected: ${what}; observed: ${JSON.stringify(seen)}`)
      assert.equal(seen.wrong, 0, what)
      assert.equal(seen.absent === 0, what === 'entries in another order', what)
    }
    await writeFile(path.join(place.dir, 'other.segment'), original)
    await writeFile(path.join(place.dir, 'notes.txt'), 'not ours')
    await using cache = await cacheIn(place.dir)
    assert.deepEqual(await census(cache, COUNT), { right: COUNT, absent: 0, wrong: 0 })
    await fill(cache, COUNT, 1_200)
    assert.equal(await readFile(path.join(place.dir, 'notes.txt'), 'utf8'), 'not ours', 'files of others stay')
  })

  test('what was damaged is dropped, counted and kept anew', async () => {
    await using place = scratch()
    const file = await filled(place.dir)
    await using cache = await cacheIn(place.dir)
    const handle = await open(file, 'r+')
    const { size } = await handle.stat()
    const from = (await readFile(file)).readUInt32LE(64 + 16) + 50_000
    await handle.write(Buffer.alloc(size - from, 0x55), 0, size - from, from)
    await handle.close()
    assert.equal((await census(cache, COUNT)).wrong, 0)
    const { damaged } = cache.figures()
    assert.ok(damaged >= 1, `${damaged} found damaged`)
    assert.deepEqual(await segmentsOf(place.dir), [], 'a segment with damage goes as a whole')
    assert.equal(cache.has(recordNumber(30)), false)
    await fill(cache, 0, COUNT)
    assert.deepEqual(await census(cache, COUNT), { right: COUNT, absent: 0, wrong: 0 })
    cache.refuse(recordNumber(30))
    assert.equal(cache.has(recordNumber(30)), false, 'what does not authenticate is not asked for again')
  })
})

describe('R14: a disk that is full or fails', () => {
  test('on a full tmpfs of 16 MiB no read fails, and it is said once', async context => {
    await using place = scratch()
    const disk = smallDisk(place.dir, 16 * MiB)
    if (!disk) return context.skip('mounting needs root')
    await using _disk = disk
    await chmod(place.dir, 0o700)
    const clock = manualClock(new Date().toISOString())
    const said: string[] = []
    await using cache = await cacheIn(place.dir, { clock, maxBytes: 64 * MiB, onTrouble: text => said.push(text) })
    await fill(cache, 0, 2_000)
    const first = await census(cache, 2_000)
    const filler = await open(path.join(place.dir, 'filler'), 'w')
    let written = 0
    let failed = 0
    for (let number = 2_000; number < 2_400; number++) {
      if (number % 20 === 0) {
        await clock.advance(limits.diskCacheRestMs + 1)
        // What the cache gives up, somebody else takes.
        try {
          for (;;) written += (await filler.write(Buffer.alloc(64 * 1024, 1))).bytesWritten
        } catch {}
      }
      await fill(cache, number, number + 1)
      await cache.read([recordNumber(number)]).catch(() => failed++)
    }
    await filler.close()
    const figures = cache.figures()
    assert.equal((await census(cache, 2_400)).wrong, 0)
    assert.ok(figures.writeFailures > 0 && figures.leftOut > 0, 'the disk was never full')
    assert.ok(said.length === 1 && /disk/.test(said[0] ?? ''), `${said}`)
    await unlink(path.join(place.dir, 'filler'))
    await clock.advance(limits.diskCacheRestMs + 1)
    await fill(cache, 3_000, 3_100)
    assert.equal(await look(cache, 3_099), 'right', 'it goes on when there is room again')
    console.log(
      `16 MiB disk: ${first.right} of 2,000 kept; then ${written} bytes of others on it: ` +
        `${figures.leftOut} left out, ${figures.writeFailures} writes failed, ${figures.segmentsEvicted} segments gave way, failed reads ${failed}`,
    )
    assert.equal(failed, 0)
  })

  test('no space in mid-write, failed reads and writes: absent, never wrong, never an error', async () => {
    await using place = scratch()
    const clock = manualClock(new Date().toISOString())
    const random = seededRandom('faults')
    const fired = { ENOSPC: 0, 'EIO at write': 0, 'EIO at read': 0, short: 0 }
    const hit = (what: keyof typeof fired) => {
      const isHit = random(1)[0]! < 24
      if (isHit) fired[what]++
      return isHit
    }
    const failure = (code: string) => Object.assign(new Error(code), { code })
    const wrap = (file: Awaited<ReturnType<typeof nodeCacheFiles.open>>): typeof file => ({
      ...file,
      async readAt(target, position) {
        if (hit('EIO at read')) throw failure('EIO')
        const read = await file.readAt(target, position)
        return hit('short') ? read >> 1 : read
      },
      async writeAt(bytes, position) {
        if (hit('ENOSPC')) {
          await file.writeAt(bytes.subarray(0, bytes.length >> 1), position)
          throw failure('ENOSPC')
        }
        if (hit('EIO at write')) throw failure('EIO')
        await file.writeAt(bytes, position)
      },
    })
    const files = {
      ...nodeCacheFiles,
      create: async (name: string, size: number) => wrap(await nodeCacheFiles.create(name, size)),
      open: async (name: string) => wrap(await nodeCacheFiles.open(name)),
    }
    const seen = { right: 0, absent: 0, wrong: 0 }
    await using cache = await cacheIn(place.dir, { clock, files, maxBytes: 4 * MiB })
    for (let round = 0; round < 40; round++) {
      await clock.advance(limits.diskCacheRestMs + 1)
      await fill(cache, round * 20, round * 20 + 20)
      for (let number = 0; number < 40; number++) seen[await look(cache, Math.max(0, round * 20 - number))]++
    }
    console.log(`injected ${JSON.stringify(fired)}; observed ${JSON.stringify(seen)}`)
    assert.ok(
      Object.values(fired).every(count => count > 0),
      'every fault fired',
    )
    assert.equal(seen.wrong, 0)
    assert.ok(seen.right > 200)
  })

  test('a cache gives way on a disk that fills up, down to its reserve', async () => {
    await using place = scratch()
    const clock = manualClock(new Date().toISOString())
    let freeBytes = 100 * 2 ** 30
    const files = { ...nodeCacheFiles, space: async () => ({ freeBytes, totalBytes: 2 ** 40 }) }
    await using cache = await cacheIn(place.dir, { clock, files })
    await fill(cache, 0, 200)
    freeBytes = limits.diskCacheFreeMax - 1
    await clock.advance(limits.diskCacheAttendMs + 1)
    for (let turn = 0; turn < 1_000 && (await segmentsOf(place.dir)).length > 0; turn++)
      await new Promise(resolve => setTimeout(resolve, 5))
    assert.deepEqual(await segmentsOf(place.dir), [])
    await fill(cache, 0, 10)
    assert.equal(await look(cache, 5), 'absent')
    freeBytes = 100 * 2 ** 30
    await clock.advance(limits.diskCacheRestMs + 1)
    await fill(cache, 0, 10)
    assert.equal(await look(cache, 5), 'right')
  })

  test('a folder that others may write to is not used, and that is said', async () => {
    await using place = scratch()
    await chmod(place.dir, 0o777)
    const said: string[] = []
    const options = { folder: place.dir, maxBytes: MiB, clock: manualClock() as ManualClock, random: systemRandom }
    assert.equal(await openDiskCache({ ...options, onTrouble: text => said.push(text) }), undefined)
    assert.match(said.join(), /others may write/)
  })
})
