import assert from 'node:assert/strict'
import { mkdtemp, open, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fileDevice } from '../../../src/block/file.ts'
import { memoryDevice } from '../../../src/block/memory.ts'
import { MiB } from '../../../src/core/limits.ts'
import { punchHole } from '../../../src/native/sparse-file.ts'
import { patternBytes } from '../../doubles/pattern.ts'

const folder = await mkdtemp(join(tmpdir(), 'lifeboat-file-device-'))
after(() => rm(folder, { recursive: true, force: true }))
const path = join(folder, 'disk.raw')

test('a sparse file: bytes, holes, writes, zeroes and trims; the end is kept', async () => {
  const content = patternBytes(2 * MiB + 100)
  await writeFile(path, '')
  await truncate(path, 6 * MiB + 100)
  const file = await open(path, 'r+')
  await file.write(content, 0, content.length, 4 * MiB)
  await file.close()
  const expected = Buffer.concat([Buffer.alloc(4 * MiB), content])
  await using device = await fileDevice(path, { readOnly: false })
  const model = memoryDevice(expected)
  assert.equal(device.size, expected.length)
  const zeroBytes = async (offset: number, length: number) => {
    let at = offset
    let zeros = 0
    for await (const extent of device.extents({ offset, length })) {
      assert.equal(extent.offset, at)
      at += extent.length
      if (extent.kind === 'zero') {
        zeros += extent.length
        assert.ok(expected.subarray(extent.offset, at).every(byte => byte === 0))
      }
    }
    assert.equal(at, offset + length)
    return zeros
  }
  assert.equal(await zeroBytes(0, device.size), 4 * MiB)
  assert.equal(await zeroBytes(3 * MiB + 5, 2 * MiB), MiB - 5)
  assert.equal(await zeroBytes(5, 0), 0)
  for (const target of [device, model]) {
    await target.write(patternBytes(70_000, 3), 123)
    await target.write(patternBytes(100, 8), device.size - 100, { fua: true })
    await target.zero({ offset: 4 * MiB + 77, length: 300_000 }, { fua: true })
    await target.trim({ offset: 5 * MiB, length: 4096 })
    await target.flush()
  }
  const read = Buffer.alloc(device.size)
  await device.readInto(read, 0)
  assert.ok(read.equals(expected))
  assert.ok((await readFile(path)).equals(expected))
  assert.ok((await zeroBytes(4 * MiB, 2 * MiB)) > 200_000)
})

test('zeroes are said to be fast where the filesystem makes holes, and only to those who may write', async () => {
  await writeFile(path, patternBytes(10_000))
  const { blocks } = await stat(path)
  {
    await using writable = await fileDevice(path, { readOnly: false })
    const probe = await open(path, 'r+')
    const isSo = await punchHole(probe, 0, 4096)
    await probe.close()
    assert.equal(writable.zeroesFast, isSo)
  }
  const { size, blocks: after } = await stat(path)
  assert.deepEqual([size, after <= blocks], [10_000, true], 'the question leaves the file as it is')
  await using readOnly = await fileDevice(path, { readOnly: true })
  assert.equal(readOnly.zeroesFast, false)
})

test('what lies outside, a read-only device, a file that shrank and a missing one are errors', async () => {
  await writeFile(path, patternBytes(10_000))
  await using device = await fileDevice(path, { readOnly: true })
  for (const offset of [-1, 9_999, 2 ** 53]) await assert.rejects(device.readInto(Buffer.alloc(2), offset), RangeError)
  await assert.rejects(device.write(Buffer.alloc(1), 0), { code: 'store-denied' })
  await assert.rejects(device.zero({ offset: 0, length: 1 }), { code: 'store-denied' })
  await device.flush()
  await truncate(path, 5_000)
  await assert.rejects(device.readInto(Buffer.alloc(10_000), 0), { code: 'internal' })
  await assert.rejects(fileDevice(join(folder, 'absent'), { readOnly: true }), { code: 'usage' })
  await assert.rejects(fileDevice(folder, { readOnly: true }), { code: 'usage' })
})
