import assert from 'node:assert/strict'
import { mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { MiB } from '../../../src/core/limits.ts'
import { allocate, punchHole, seekData, seekHole } from '../../../src/native/sparse-file.ts'

test('holes are found, made and filled, and the size never changes', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'lifeboat-sparse-'))
  const file = await open(join(folder, 'disk.raw'), 'w+')
  try {
    await file.truncate(16 * MiB)
    assert.equal(await seekData(file, 0), undefined)
    assert.equal(await seekHole(file, 0), 0)

    await file.write(new Uint8Array(2 * MiB).fill(7), 0, 2 * MiB, 4 * MiB)
    assert.equal(await seekData(file, 0), 4 * MiB)
    assert.equal(await seekHole(file, 4 * MiB), 6 * MiB)
    assert.equal(await seekData(file, 6 * MiB), undefined)
    assert.equal(await seekData(file, 16 * MiB), undefined)
    assert.equal(await seekHole(file, 16 * MiB), undefined)

    assert.equal(await punchHole(file, 4 * MiB, MiB), true)
    assert.equal(await seekData(file, 0), 5 * MiB)
    const { buffer } = await file.read(new Uint8Array(2 * MiB), 0, 2 * MiB, 4 * MiB)
    assert.deepEqual([buffer[0], buffer[MiB - 1], buffer[MiB]], [0, 0, 7])

    const before = (await file.stat()).blocks
    assert.equal(await allocate(file, 8 * MiB, 4 * MiB), true)
    const after = await file.stat()
    assert.ok(after.blocks - before >= (4 * MiB) / 512)
    assert.equal(after.size, 16 * MiB)
    assert.equal(await punchHole(file, 0, 0), true)
  } finally {
    await file.close()
    await rm(folder, { recursive: true })
  }
})

test('a file that cannot be asked is an error with a hint, not a hole', async () => {
  const nothing = { fd: 1_000_000 }
  await assert.rejects(seekData(nothing, 0), { code: 'internal', message: /EBADF/ })
  await assert.rejects(seekHole(nothing, 0), { code: 'internal' })
  await assert.rejects(punchHole(nothing, 0, 4096), { code: 'internal' })
  await assert.rejects(seekData(nothing, -1), RangeError)
})

test('no space is disk-full', async t => {
  const folder = await mkdtemp(join(tmpdir(), 'lifeboat-full-'))
  const file = await open(join(folder, 'disk.raw'), 'w+')
  t.after(async () => {
    await file.close()
    await rm(folder, { recursive: true })
  })
  await assert.rejects(allocate(file, 0, 2 ** 43), { code: 'disk-full' })
  assert.equal((await file.stat()).size, 0)
})
