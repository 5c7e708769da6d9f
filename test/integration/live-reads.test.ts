/** Exports by the command line over an S3 store: what the caches spare, what damage on the local disk does, and an outage in mid-read. */
import assert from 'node:assert/strict'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { MiB } from '../../src/core/limits.ts'
import type { NbdClient } from '../../src/nbd/client.ts'
import { commandLine } from '../doubles/command-line.ts'
import { type ExportedPoint, exportedPoint } from '../doubles/exported-point.ts'

const SIZE = 8 * MiB

const readAll = (content: Buffer) => async (guest: NbdClient) => {
  const bytes = Buffer.alloc(64 * 1024)
  for (let offset = 0; offset < SIZE; offset += bytes.length) {
    await guest.readInto(bytes, offset)
    assert.ok(bytes.equals(content.subarray(offset, offset + bytes.length)), `at ${offset}`)
  }
}

const packsAsked = ({ fake }: ExportedPoint) =>
  fake.requests.filter(({ operation, key }) => operation === 'GetObject' && /\/packs\//.test(key)).length

test('what one export has fetched, the next one reads from the local disk; it lies there encrypted, and damage is fetched again', async () => {
  await using point = await exportedPoint(SIZE)
  const { t, content } = point
  const first = await point.serve('--disk-cache-size 64MiB', readAll(content))
  assert.ok(first.gets > 2 && first.gets < SIZE / 65_536 / 2, `${first.gets} GETs for ${SIZE / 65_536} chunks`)
  const second = await point.serve('--disk-cache-size 64MiB --cache-size 1MiB', readAll(content))
  assert.equal(second.gets, 0, 'nothing is asked of the store again')
  const none = await point.serve('--disk-cache-size 0', readAll(content))
  assert.ok(none.gets > 2)

  const folder = path.join(t.at('cache'), 'records-1')
  const segments = (await readdir(folder)).map(name => path.join(folder, name))
  let held = 0
  for (const segment of segments) {
    const bytes = await readFile(segment)
    for (let at = 0; at < SIZE; at += 10 * 65_536)
      assert.equal(bytes.indexOf(content.subarray(at + 100, at + 132)), -1, 'no plaintext on the local disk')
    held += bytes.length
    for (let at = 5_000; at < bytes.length; at += 20_000) bytes[at]! ^= 0x10
    await writeFile(segment, bytes)
  }
  const afterDamage = await point.serve('--disk-cache-size 64MiB', readAll(content))
  process.stdout.write(
    `${first.gets} GETs at first, ${second.gets} from ${held} bytes of cache, ${afterDamage.gets} after a bit in every 20 kB was flipped\n`,
  )
  assert.ok(afterDamage.gets > 0)
  // What the damaged segment had and gave before its damage was met is missing once more.
  const next = await point.serve('--disk-cache-size 64MiB', readAll(content))
  assert.ok(next.gets <= 2, `${next.gets} GETs`)
  assert.equal(
    (await point.serve('--disk-cache-size 64MiB', readAll(content))).gets,
    0,
    'what was fetched again is kept again',
  )
})

test('answers that come a byte a second are asked for again, and the client sees nothing but the bytes', async () => {
  await using point = await exportedPoint(SIZE)
  const fault = { kind: 'trickle', of: 'body', everyMs: 1_000 } as const
  const { gets } = await point.serve('--disk-cache-size 0', async guest => {
    point.fake.faults.add({ operation: 'GetObject', key: /\/packs\//, nth: 2, times: 2, fault })
    await readAll(point.content)(guest)
  })
  const { fired } = point.fake.faults
  process.stdout.write(
    `${fired.length} of ${gets} GETs brought a byte a second; all ${SIZE} bytes were read, and right\n`,
  )
  assert.equal(fired.length, 2)
})

test('--cache-size bounds the memory of all disks of a process together', async () => {
  await using point = await exportedPoint(SIZE, ['vda', 'vdb', 'vdc'])
  /** GETs of a second pass over all disks. */
  const secondPass = async (cacheSize: string) => {
    let before = 0
    await point.serve(`--disk-cache-size 0 --cache-size ${cacheSize}`, async (...guests) => {
      for (const [n, guest] of guests.entries()) await readAll(point.contents[n]!)(guest)
      before = packsAsked(point)
      for (const [n, guest] of guests.entries()) await readAll(point.contents[n]!)(guest)
    })
    return packsAsked(point) - before
  }
  const [ofAll, ofOne] = [await secondPass('32MiB'), await secondPass('12MiB')]
  process.stdout.write(`read again, 3 x 8 MiB take ${ofAll} GETs with 32 MiB of cache, ${ofOne} with 12 MiB\n`)
  assert.equal(ofAll, 0)
  assert.ok(ofOne > 6, 'each disk alone would fit')
})

test('a cache folder that cannot be used is told once and fails no read', async () => {
  await using point = await exportedPoint(SIZE)
  await writeFile(point.t.at('cache'), 'a file where the folder should be')
  const { gets, stderr } = await point.serve('--disk-cache-size 64MiB', readAll(point.content))
  assert.ok(gets > 2)
  assert.match(stderr, /no cache on disk/)
})

test('a size of the cache that cannot be is refused', async () => {
  await using t = commandLine()
  const { code, error } = await t.json(`--repo ${t.dir} export vm@latest --socket ${t.at('s')} --disk-cache-size 3KiB`)
  assert.deepEqual([code, error.code], [2, 'usage'])
})
