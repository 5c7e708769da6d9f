/** R24: a chain of twenty increments by QEMU's bitmaps, under random writes; every point of it is restored and compared. */
import assert from 'node:assert/strict'
import { readFile, rm } from 'node:fs/promises'
import { test } from 'node:test'
import { commandLine } from '../doubles/command-line.ts'
import { KiB, MiB, qemuMissing, startQemu } from '../doubles/qemu.ts'
import { choices } from '../doubles/register-check.ts'

const INCREMENTS = 20
const DISKS = [
  { id: 'vda', format: 'qcow2', size: 16 * MiB },
  { id: 'vdb', format: 'raw', size: 8 * MiB },
] as const

test('twenty increments in a row miss no byte: each point is restored and is the disk of its instant', {
  skip: qemuMissing(),
}, async t => {
  await using cli = commandLine()
  await using qemu = await startQemu({ disks: DISKS, running: true })
  const seed = Number(process.env.LIFEBOAT_TEST_SEED ?? 20261123)
  const random = choices(seed)
  const lifeboat = async (...words: string[]) => {
    const { code, stderr, json } = await cli.json(['--repo', cli.at('repository'), ...words])
    assert.equal(code, 0, stderr)
    return json
  }
  await lifeboat('init', '--no-encryption')
  const points: { id: string; kind: string; instant: Record<string, Buffer> }[] = []
  let written = 0
  for (let round = 0; round <= INCREMENTS; round++) {
    for (const { id, size } of DISKS)
      for (let writes = random(6); writes > 0; writes--) {
        const length = Math.min(size, 512 * (1 + random(random(4) === 0 ? 600 : 16)))
        const offset = 512 * random((size - length) / 512 + 1)
        await qemu.write(id, 1 + random(250), offset, length)
        written += length
      }
    const instant = { vda: qemu.contents('vda'), vdb: qemu.contents('vdb') }
    const made = (await lifeboat('backup', 'vm', '--qmp', qemu.qmp)) as { point: string; kind: string }
    points.push({ id: made.point, kind: made.kind, instant })
  }
  assert.deepEqual(
    points.map(({ kind }) => kind),
    ['full', ...Array.from({ length: INCREMENTS }, () => 'incremental')],
  )
  let missed = 0
  for (const { id, instant } of points)
    for (const [disk, expected] of Object.entries(instant)) {
      const output = cli.at('restored')
      await lifeboat('restore', `vm@${id}/${disk}`, '--output', output)
      const found = await readFile(output)
      assert.equal(found.length, expected.length)
      for (let at = 0; at < found.length; at += 4 * KiB)
        if (!found.subarray(at, at + 4 * KiB).equals(expected.subarray(at, at + 4 * KiB))) missed += 4 * KiB
      await rm(output)
    }
  t.diagnostic(
    `seed ${seed}: ${written} bytes written, ${points.length} points of 2 disks restored, ${missed} bytes missed`,
  )
  assert.equal(missed, 0)
})
