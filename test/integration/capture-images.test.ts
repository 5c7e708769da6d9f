/** Disks of a stopped machine: raw files by scan, qcow2 files by their own bitmaps, also across starts of the machine. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { mkdtemp, open, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, before, beforeEach, describe, test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { isLifeboatError } from '../../src/core/errors.ts'
import { systemRandom } from '../../src/core/random.ts'
import { type Image, imageHypervisor } from '../../src/hypervisor/images.ts'
import { qemuHypervisor } from '../../src/hypervisor/qemu/qemu-hypervisor.ts'
import { KiB, MiB, qemuMissing, startQemu } from '../doubles/qemu.ts'
import { openShelf, type Shelf } from '../doubles/shelf.ts'

const skip = qemuMissing()
let dir: string
before(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'lifeboat-images-'))
})
after(() => rm(dir, { recursive: true, force: true }))

let shelf: Shelf
let run = 0
beforeEach(async () => {
  run++
  shelf = await openShelf(path.join(dir, `shelf${run}`))
})

const at = (name: string) => path.join(dir, `${run}-${name}`)
const hypervisorOf = (images: readonly Image[], log?: (message: string) => void) =>
  imageHypervisor({ vm: 'stopped', images, stateDir: at('state'), clock: systemClock, random: systemRandom, log })

async function scribble(file: string, pattern: number, offset: number, length: number): Promise<void> {
  await using handle = await open(file, 'r+')
  await handle.write(Buffer.alloc(length, pattern), 0, length, offset)
}
const qemuIo = (file: string, command: string) =>
  execFileSync('qemu-io', ['-f', 'qcow2', '-c', command, file], { stdio: 'ignore' })
const contentsOf = (file: string): Buffer => {
  execFileSync('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', file, `${file}.raw`])
  return execFileSync('cat', [`${file}.raw`], { maxBuffer: 64 * MiB })
}
const bitmapsOf = (file: string): string[] => {
  const info = JSON.parse(execFileSync('qemu-img', ['info', '--output=json', file], { encoding: 'utf8' }))
  return (info['format-specific'].data.bitmaps ?? []).map(
    (entry: { name: string; flags: string[] }) => `${entry.name} ${entry.flags}`,
  )
}

describe('raw images', () => {
  test('a scan finds exactly the blocks that changed; without its state, or after a resize, all is read', async () => {
    const file = at('disk.raw')
    await writeFile(file, Buffer.alloc(0))
    await truncate(file, 8 * MiB + 512)
    await scribble(file, 1, 1 * MiB, 1 * MiB)
    const backup = { hypervisor: hypervisorOf([{ name: 'vda', path: file, format: 'raw' }]), fleecingDir: dir }

    const first = await shelf.backup(backup)
    assert.deepEqual(first.disks[0]?.changes, { kind: 'full', reason: 'first-backup' })
    await scribble(file, 2, 1 * MiB + 70 * KiB, 512)
    await scribble(file, 3, 8 * MiB, 512)
    const second = await shelf.backup(backup)
    assert.deepEqual(second.disks[0]?.changes, {
      kind: 'incremental',
      ranges: [
        { offset: 1 * MiB + 64 * KiB, length: 64 * KiB },
        { offset: 8 * MiB, length: 512 },
      ],
    })
    assert.ok((await shelf.disk(second.point, 'vda')).equals(await readFile(file)))

    await truncate(file, 9 * MiB)
    const third = await shelf.backup(backup)
    assert.deepEqual(third.disks[0]?.changes, { kind: 'full', reason: 'disk-resized' })
    await rm(at('state'), { recursive: true })
    const fourth = await shelf.backup(backup)
    assert.deepEqual(fourth.disks[0]?.changes, { kind: 'full', reason: 'bitmap-missing' })
    assert.ok((await shelf.disk(fourth.point, 'vda')).equals(await readFile(file)))
  })

  test('a backup that is given up, and an image that is written to meanwhile, never lose a change', async () => {
    const file = at('disk.raw')
    await writeFile(file, Buffer.alloc(4 * MiB, 7))
    const said: string[] = []
    const hypervisor = hypervisorOf([{ name: 'vda', path: file, format: 'raw' }], message => said.push(message))
    const backup = { hypervisor, fleecingDir: dir }
    await shelf.backup(backup)
    await scribble(file, 8, 0, 512)
    const giveUp = async () => {
      throw new Error('given up')
    }
    await assert.rejects(shelf.backup({ ...backup, meanwhile: giveUp }), /given up/)
    const second = await shelf.backup(backup)
    assert.deepEqual(second.disks[0]?.changes, { kind: 'incremental', ranges: [{ offset: 0, length: 64 * KiB }] })

    await shelf.backup({ ...backup, meanwhile: () => scribble(file, 9, 1 * MiB, 512) })
    assert.match(said.join(), /written to during the backup/)
    const last = await shelf.backup(backup)
    assert.ok((await shelf.disk(last.point, 'vda')).equals(await readFile(file)))
  })

  test('an image that does not exist, and two backups at once', async () => {
    const absent = hypervisorOf([{ name: 'vda', path: at('absent'), format: 'raw' }])
    await assert.rejects(shelf.backup({ hypervisor: absent, fleecingDir: dir }), error => isLifeboatError(error))
    const file = at('disk.raw')
    await writeFile(file, Buffer.alloc(1 * MiB))
    const backup = { hypervisor: hypervisorOf([{ name: 'vda', path: file, format: 'raw' }]), fleecingDir: dir }
    const again = () => assert.rejects(shelf.backup(backup), error => isLifeboatError(error, 'vm-busy'))
    await shelf.backup({ ...backup, meanwhile: again })
    assert.deepEqual(
      readdirSync(at('state')).filter(name => name.endsWith('.lock')),
      [],
    )
    await assert.rejects(shelf.backup({ ...backup, disks: ['vdz'] }), error => isLifeboatError(error, 'no-such-disk'))
  })
})

test('a raw image that a running machine holds is refused', { skip }, async () => {
  await using qemu = await startQemu({ disks: [{ id: 'vda', format: 'raw', size: 1 * MiB }] })
  const hypervisor = hypervisorOf([{ name: 'vda', path: qemu.file('vda'), format: 'raw' }])
  await assert.rejects(shelf.backup({ hypervisor, fleecingDir: dir }), error => isLifeboatError(error, 'vm-busy'))
})

describe('qcow2 images', { skip }, () => {
  test('its own bitmap tells what changed, over stops, starts and backups of the running machine', async () => {
    const disk = { id: 'vda', format: 'qcow2', size: 8 * MiB } as const
    const home = await mkdtemp(path.join(dir, 'vm-'))
    const file = path.join(home, 'vda.qcow2')
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', file, String(disk.size)])
    qemuIo(file, 'write -P 1 0 1M')
    const stopped = { hypervisor: hypervisorOf([{ name: 'vda', path: file, format: 'qcow2' }]), fleecingDir: dir }

    const first = await shelf.backup(stopped)
    assert.deepEqual(first.disks[0]?.changes, { kind: 'full', reason: 'first-backup' })
    assert.equal(bitmapsOf(file).length, 1)
    qemuIo(file, 'write -P 2 2M 64k')
    const second = await shelf.backup(stopped)
    assert.deepEqual(second.disks[0]?.changes, { kind: 'incremental', ranges: [{ offset: 2 * MiB, length: 64 * KiB }] })
    assert.ok((await shelf.disk(second.point, 'vda')).equals(contentsOf(file)))
    {
      await using qemu = await startQemu({ disks: [disk], dir: home })
      const running = qemuHypervisor({ qmp: qemu.qmp, clock: systemClock, random: systemRandom, fleecingFreeMin: 0 })
      await assert.rejects(
        shelf.backup(stopped),
        error => isLifeboatError(error, 'vm-busy') && /--qmp/.test(error.details.hint ?? ''),
      )
      await qemu.write('vda', 3, 4 * MiB, 64 * KiB)
      const live = await shelf.backup({ hypervisor: running, fleecingDir: path.join(home, 'f') })
      assert.deepEqual(live.disks[0]?.changes, { kind: 'incremental', ranges: [{ offset: 4 * MiB, length: 64 * KiB }] })
      await qemu.write('vda', 4, 6 * MiB, 64 * KiB)
      await qemu.quit()
    }
    const giveUp = async () => {
      throw new Error('given up')
    }
    await assert.rejects(shelf.backup({ ...stopped, meanwhile: giveUp }), /given up/)
    qemuIo(file, 'write -P 5 7M 64k')
    const last = await shelf.backup(stopped)
    assert.deepEqual(last.disks[0]?.changes, {
      kind: 'incremental',
      ranges: [6, 7].map(offset => ({ offset: offset * MiB, length: 64 * KiB })),
    })
    assert.ok((await shelf.disk(last.point, 'vda')).equals(contentsOf(file)))
    assert.equal(bitmapsOf(file).length, 1)
    assert.match(bitmapsOf(file)[0] ?? '', new RegExp(`${last.point} auto`))
  })

  test('a qcow2 file of version 2 cannot keep bitmaps and is scanned', async () => {
    const file = at('old.qcow2')
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', file, String(4 * MiB)])
    const backup = { hypervisor: hypervisorOf([{ name: 'vda', path: file, format: 'qcow2' }]), fleecingDir: dir }
    await shelf.backup(backup)
    qemuIo(file, 'write -P 2 1M 64k')
    const second = await shelf.backup(backup)
    assert.deepEqual(second.disks[0]?.changes, { kind: 'incremental', ranges: [{ offset: 1 * MiB, length: 64 * KiB }] })
    assert.ok((await shelf.disk(second.point, 'vda')).equals(contentsOf(file)))
    assert.ok(!existsSync(`${file}.lock`))
  })
})
