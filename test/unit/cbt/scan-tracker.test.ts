import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import type { BlockReader } from '../../../src/block/block-device.ts'
import { dirtyRanges } from '../../../src/cbt/ranges.ts'
import { openScanState, SCAN_BLOCK, SECRET_BYTES, writeScanState } from '../../../src/cbt/scan-state.ts'
import { changedBlocks, ScanningReader } from '../../../src/cbt/scan-tracker.ts'
import type { PointId } from '../../../src/core/ids.ts'
import { seededRandom } from '../../../src/core/random.ts'
import type { Range } from '../../../src/core/range.ts'

let dir: string
before(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'lifeboat-scan-'))
})
after(() => rm(dir, { recursive: true, force: true }))

const random = seededRandom('scan')
const secret = random(SECRET_BYTES)

/** Counts what is read; zeros are told in whole blocks. */
function image(bytes: Uint8Array): BlockReader & { read: number } {
  return {
    size: bytes.length,
    blockSize: 4096,
    read: 0,
    async readInto(target, offset) {
      this.read += target.length
      target.set(bytes.subarray(offset, offset + target.length))
    },
    async *extents({ offset, length }: Range) {
      for (let at = offset; at < offset + length; at += SCAN_BLOCK) {
        const end = Math.min(offset + length, at + SCAN_BLOCK)
        yield { offset: at, length: end - at, kind: bytes.subarray(at, end).some(byte => byte !== 0) ? 'data' : 'zero' }
      }
    },
    async [Symbol.asyncDispose]() {},
  }
}

async function digestsOf(bytes: Uint8Array): Promise<Uint8Array> {
  const reader = new ScanningReader(image(bytes), secret)
  await reader.scan()
  return reader.digests
}

/** As they come from a file: whole digests, not all at once. */
async function* inPieces(digests: Uint8Array, bytes = 70 * 16): AsyncIterable<Uint8Array> {
  for (let at = 0; at < digests.length; at += bytes) yield digests.slice(at, at + bytes)
}

test('exactly the blocks that differ are changed, also the short last one and those that became holes', async () => {
  const size = 9 * 1024 * 1024 + 100
  const before = random(size)
  const after = before.slice()
  after[3 * SCAN_BLOCK]! ^= 1
  after[8 * SCAN_BLOCK - 1]! ^= 1
  after.fill(0, 100 * SCAN_BLOCK, 102 * SCAN_BLOCK)
  after[size - 1]! ^= 1
  assert.deepEqual(await changedBlocks(inPieces(await digestsOf(before)), await digestsOf(after), size), [
    { offset: 3 * SCAN_BLOCK, length: SCAN_BLOCK },
    { offset: 7 * SCAN_BLOCK, length: SCAN_BLOCK },
    { offset: 100 * SCAN_BLOCK, length: 2 * SCAN_BLOCK },
    { offset: 144 * SCAN_BLOCK, length: 100 },
  ])
})

test('a block of zeros has one digest, whether it is a hole, was read, or became zeros after it was read', async () => {
  const bytes = random(4 * SCAN_BLOCK + 100)
  bytes.fill(0, SCAN_BLOCK, 2 * SCAN_BLOCK)
  bytes.fill(0, 4 * SCAN_BLOCK)
  const expected = await digestsOf(bytes)
  const later = image(bytes)
  const reader = new ScanningReader(later, secret)
  bytes.fill(7, SCAN_BLOCK, 2 * SCAN_BLOCK)
  const target = new Uint8Array(bytes.length)
  await reader.readInto(target, 0)
  assert.notDeepEqual(reader.digests, expected)
  bytes.fill(0, SCAN_BLOCK, 2 * SCAN_BLOCK)
  await reader.readInto(target, 0)
  assert.deepEqual(reader.digests, expected)
  assert.deepEqual([...expected.subarray(16, 32)], Array(16).fill(0))
  assert.ok(
    expected.subarray(64).some(byte => byte !== 0),
    'a short last block has its own digest',
  )
})

test('what the backup has read is not read again, and its digests are those of the bytes that it got', async () => {
  const bytes = random(40 * SCAN_BLOCK)
  const source = image(bytes)
  const reader = new ScanningReader(source, secret)
  const target = new Uint8Array(11 * SCAN_BLOCK)
  await reader.readInto(target, 5 * SCAN_BLOCK - 1)
  const old = bytes.slice()
  bytes[6 * SCAN_BLOCK]! ^= 1
  await reader.scan()
  assert.equal(source.read, 11 * SCAN_BLOCK + 30 * SCAN_BLOCK)
  assert.deepEqual(reader.digests, await digestsOf(old))
})

test('holes are not read', async () => {
  const bytes = new Uint8Array(20 * SCAN_BLOCK)
  bytes[7 * SCAN_BLOCK + 5] = 1
  const source = image(bytes)
  await new ScanningReader(source, secret).scan()
  assert.equal(source.read, SCAN_BLOCK)
})

test('a state comes back as written; one that is absent, cut or flipped is none', async () => {
  const file = path.join(dir, 'deep', 'state')
  assert.equal(await openScanState(file), undefined)
  const state = { point: '0123456789abcdef' as PointId, size: 3 * SCAN_BLOCK - 5, secret, digests: random(48) }
  await writeScanState(file, state)
  await using read = await openScanState(file)
  assert.equal(read?.point, state.point)
  assert.equal(read?.size, state.size)
  assert.deepEqual(read?.secret, state.secret)
  // Twice, and after the file was replaced by another.
  await writeScanState(file, { ...state, digests: random(48) })
  for (let time = 0; time < 2; time++) {
    const pieces = await Array.fromAsync(read?.digests() ?? [], piece => piece.slice())
    assert.ok(Buffer.concat(pieces).equals(state.digests))
  }
  const whole = await readFile(file)
  for (let at = 0; at < whole.length; at += 7) {
    const flipped = Buffer.from(whole)
    flipped[at]! ^= 0x10
    await writeFile(file, flipped)
    assert.equal(await openScanState(file), undefined, `flipped at ${at}`)
    await writeFile(file, whole.subarray(0, at))
    assert.equal(await openScanState(file), undefined, `cut at ${at}`)
  }
})

test('a state of many pieces is proven and compared as it streams by', async () => {
  const file = path.join(dir, 'large')
  const blocks = 3 * 65_536 + 5
  const digests = random(blocks * 16)
  const size = blocks * SCAN_BLOCK - 1
  await writeScanState(file, { point: '0123456789abcdef' as PointId, size, secret, digests })
  await using before = await openScanState(file)
  assert.ok(before)
  const after = digests.slice()
  const changed = [0, 65_535, 65_536, 131_000, blocks - 1]
  for (const block of changed) after[block * 16 + 15]! ^= 1
  const ranges = await changedBlocks(before.digests(), after, size)
  assert.deepEqual(ranges, [
    { offset: 0, length: SCAN_BLOCK },
    { offset: 65_535 * SCAN_BLOCK, length: 2 * SCAN_BLOCK },
    { offset: 131_000 * SCAN_BLOCK, length: SCAN_BLOCK },
    { offset: (blocks - 1) * SCAN_BLOCK, length: SCAN_BLOCK - 1 },
  ])
})

test('dirty extents become ranges; too many of them become fewer that cover as much', async () => {
  const extents = async function* (count: number) {
    for (let index = 0; index < count; index++)
      yield { offset: index * SCAN_BLOCK, length: SCAN_BLOCK, flags: index % 3 === 0 ? 0 : 1 }
  }
  const first = (count: number) => ({ offset: 0, length: count * SCAN_BLOCK })
  assert.deepEqual(await dirtyRanges(extents(6), first(6)), [
    { offset: SCAN_BLOCK, length: 2 * SCAN_BLOCK },
    { offset: 4 * SCAN_BLOCK, length: 2 * SCAN_BLOCK },
  ])
  const few = await dirtyRanges(extents(3000), first(3000), 100)
  assert.ok(few && few.length <= 100)
  for await (const { offset, length, flags } of extents(3000))
    if (flags) assert.ok(few.some(range => range.offset <= offset && offset + length <= range.offset + range.length))
})

test('extents that leave something out, stand still, go backwards or end elsewhere are no answer', async () => {
  const range = { offset: 100, length: 100 }
  const answer = (...extents: [number, number, number][]) =>
    dirtyRanges(
      (async function* () {
        for (const [offset, length, flags] of extents) yield { offset, length, flags }
      })(),
      range,
    )
  assert.deepEqual(await answer([100, 50, 0], [150, 50, 1]), [{ offset: 150, length: 50 }])
  for (const extents of [
    [],
    [[100, 99, 0]],
    [[100, 101, 0]],
    [[101, 99, 1]],
    [
      [100, 50, 1],
      [151, 49, 0],
    ],
    [
      [100, 50, 1],
      [140, 60, 0],
    ],
    [
      [150, 50, 1],
      [100, 50, 0],
    ],
    [
      [100, 0, 1],
      [100, 100, 0],
    ],
    [
      [100, -50, 1],
      [50, 150, 0],
    ],
  ] as [number, number, number][][])
    assert.equal(await answer(...extents), undefined, JSON.stringify(extents))
})
