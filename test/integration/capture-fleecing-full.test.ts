/** A guest that really writes fills the fleecing disk, a tmpfs of 1 MiB: the backup breaks, the guest never does. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { isLifeboatError } from '../../src/core/errors.ts'
import { systemRandom } from '../../src/core/random.ts'
import { qemuHypervisor } from '../../src/hypervisor/qemu/qemu-hypervisor.ts'
import { bootSector } from '../doubles/boot-sector.ts'
import { createDisk, MiB, qemuMissing, startQemu, type TestQemu } from '../doubles/qemu.ts'
import { openShelf } from '../doubles/shelf.ts'

const DISK = { id: 'vda', format: 'raw', size: 16 * MiB } as const
const FIRST = 2048
const END = 2048 + 12 * 2048
const sector = bootSector(FIRST, END)

const skip = qemuMissing() || (process.getuid?.() !== 0 && 'mounting a tmpfs needs root')

/** The guest's last write reached the file: its first bytes are the boot sector's code. */
function hasFinished(qemu: TestQemu): boolean {
  const at = (END - 64) * 512
  return readFileSync(qemu.file('vda'))
    .subarray(at, at + 7)
    .equals(sector.subarray(0, 7))
}

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (let attempt = 0; attempt < 600; attempt++) {
    if (await holds()) return
    await systemClock.sleep(100)
  }
  assert.fail(`${what} did not happen within a minute`)
}

for (const method of ['copy-before-write', 'blockdev-backup'] as const)
  test(`${method}: a full fleecing disk breaks the backup and never the guest`, { skip }, async () => {
    const dir = execFileSync('mktemp', ['-d', '/tmp/lifeboat-full-XXXXXX'], { encoding: 'utf8' }).trim()
    const fleecingDir = path.join(dir, 'f')
    mkdirSync(fleecingDir)
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', fleecingDir])
    try {
      const file = createDisk(dir, DISK)
      const contents = readFileSync(file)
      sector.copy(contents)
      writeFileSync(file, contents)
      await using qemu = await startQemu({ disks: [DISK], dir })
      const hypervisor = qemuHypervisor({
        qmp: qemu.qmp,
        method,
        clock: systemClock,
        random: systemRandom,
        fleecingFreeMin: 0,
      })
      const shelf = await openShelf(path.join(dir, 'shelf'))
      const errors: string[] = []
      qemu.control.onEvent(({ event, data }) => {
        if (event === 'BLOCK_IO_ERROR') errors.push(String(data.action))
      })
      const backup = shelf.backup({
        hypervisor,
        fleecingDir,
        async meanwhile(capture) {
          // From here on the guest writes 12 MiB, of which 1 MiB can be kept.
          await qemu.control.execute('cont')
          await until('the guest finishing its writes', () => hasFinished(qemu))
          if (method === 'blockdev-backup') await capture.broken
        },
      })
      await assert.rejects(backup, error => isLifeboatError(error, 'fleecing-full'))
      assert.equal(await qemu.status(), 'running')
      assert.ok(
        errors.every(action => action === 'stop'),
        `the guest was told of ${errors}`,
      )
      assert.equal(errors.length > 0, method === 'blockdev-backup', 'only the fallback stops the guest for a moment')
      assert.deepEqual(await qemu.residue(), [])
      assert.deepEqual(await qemu.bitmaps(), {})
    } finally {
      execFileSync('umount', [fleecingDir])
      execFileSync('rm', ['-rf', dir])
    }
  })
