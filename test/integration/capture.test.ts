/** The capture of a running QEMU, on a real one. Writes of the guest are put into its devices. */
import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { after, before, describe, test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { isLifeboatError, LifeboatError } from '../../src/core/errors.ts'
import { systemRandom } from '../../src/core/random.ts'
import { bitmapName, pointOfBitmap } from '../../src/hypervisor/bitmap-name.ts'
import { type QemuSettings, qemuHypervisor } from '../../src/hypervisor/qemu/qemu-hypervisor.ts'
import { connectQmp } from '../../src/hypervisor/qemu/qmp.ts'
import { KiB, MiB, qemuMissing, startQemu, type TestQemu } from '../doubles/qemu.ts'
import { newPoint, openShelf, REPOSITORY, type Shelf } from '../doubles/shelf.ts'

const skip = qemuMissing()
const METHODS = ['copy-before-write', 'blockdev-backup'] as const
const DISKS = [
  { id: 'vda', format: 'qcow2', size: 16 * MiB },
  { id: 'vdb', format: 'raw', size: 8 * MiB },
] as const

const hypervisorOf = (qemu: TestQemu, settings: Partial<QemuSettings> = {}) =>
  qemuHypervisor({ qmp: qemu.qmp, clock: systemClock, random: systemRandom, fleecingFreeMin: 0, ...settings })
const fleecingOf = (qemu: TestQemu) => path.join(qemu.dir, 'f')
const shelfOf = (qemu: TestQemu) => openShelf(path.join(qemu.dir, 'shelf'))

/** Nothing of ours is left in QEMU or beside it, and each disk has at most one bitmap of this repository. */
async function assertClean(qemu: TestQemu): Promise<void> {
  assert.deepEqual(await qemu.residue(), [])
  assert.deepEqual(existsSync(fleecingOf(qemu)) ? readdirSync(fleecingOf(qemu)) : [], [])
  for (const [node, names] of Object.entries(await qemu.bitmaps())) {
    const ours = names.filter(name => pointOfBitmap(name, REPOSITORY))
    assert.ok(ours.length <= 1, `${node} has ${ours}`)
  }
}

async function assertHolds(shelf: Shelf, point: Parameters<Shelf['disk']>[0], expected: Record<string, Buffer>) {
  for (const [name, contents] of Object.entries(expected))
    assert.ok((await shelf.disk(point, name)).equals(contents), `${name} of ${point} is not what it was at the instant`)
}

const contentsOf = (qemu: TestQemu) => ({ vda: qemu.contents('vda'), vdb: qemu.contents('vdb') })

describe('capture of a running guest', { skip }, () => {
  for (const method of METHODS)
    test(`${method}: five increments are exact while the guest overwrites what is being read`, async () => {
      await using qemu = await startQemu({ disks: DISKS, running: true })
      const shelf = await shelfOf(qemu)
      const backup = { hypervisor: hypervisorOf(qemu, { method }), fleecingDir: fleecingOf(qemu) }
      await qemu.write('vda', 1, 0, 1 * MiB)
      await qemu.write('vdb', 2, 1 * MiB, 64 * KiB)

      for (let round = 0; round < 6; round++) {
        if (round > 0) {
          await qemu.write('vda', 10 + round, 2 * MiB, 3 * 64 * KiB)
          await qemu.write('vda', 20 + round, 8 * MiB + 4 * KiB, 4 * KiB)
          await qemu.write('vdb', 30 + round, round * 64 * KiB, 512)
        }
        const instant = contentsOf(qemu)
        const { point, disks } = await shelf.backup({
          ...backup,
          async meanwhile(capture) {
            assert.equal(await qemu.status(), 'running')
            await qemu.write('vda', 99, 2 * MiB, 64 * KiB)
            await qemu.write('vda', 98, 12 * MiB, 64 * KiB)
            await qemu.write('vdb', 97, 0, 1 * MiB)
            const clean = Buffer.alloc(64 * KiB)
            await capture.disks[0]!.image.readInto(clean, 12 * MiB)
            assert.ok(clean.equals(instant.vda.subarray(12 * MiB, 12 * MiB + 64 * KiB)), 'a clean area reads as it was')
          },
        })
        await assertHolds(shelf, point, instant)
        await assertClean(qemu)
        assert.equal(await qemu.status(), 'running')
        if (round === 0) {
          assert.deepEqual(
            disks.map(disk => disk.changes),
            [
              { kind: 'full', reason: 'first-backup' },
              { kind: 'full', reason: 'first-backup' },
            ],
          )
        } else {
          // What was written since, and what was overwritten during the last backup: nothing else.
          assert.deepEqual(disks[0]!.changes, {
            kind: 'incremental',
            ranges: [
              { offset: 2 * MiB, length: 3 * 64 * KiB },
              { offset: 8 * MiB, length: 64 * KiB },
              { offset: 12 * MiB, length: 64 * KiB },
            ],
          })
          assert.equal(disks[1]!.changes.kind, 'incremental')
        }
      }
    })

  test('bitmaps of other programs and repositories are left alone, also recording ones', async () => {
    await using qemu = await startQemu({ disks: DISKS })
    const shelf = await shelfOf(qemu)
    const foreign = ['libvirt-checkpoint', bitmapName('f'.repeat(32) as typeof REPOSITORY, newPoint())]
    for (const name of foreign)
      await qemu.control.execute('block-dirty-bitmap-add', { node: 'vda-node', name, persistent: true })
    for (let round = 0; round < 3; round++)
      await shelf.backup({ hypervisor: hypervisorOf(qemu), fleecingDir: fleecingOf(qemu) })
    const names = (await qemu.bitmaps())['vda-node'] ?? []
    assert.deepEqual(names.filter(name => foreign.includes(name)).sort(), [...foreign].sort())
    assert.equal(names.length, 3)
  })

  test('a bitmap of ours whose point the repository does not hold is foreign: a full read, and then increments again', async () => {
    await using qemu = await startQemu({ disks: DISKS })
    const shelf = await shelfOf(qemu)
    const backup = { hypervisor: hypervisorOf(qemu), fleecingDir: fleecingOf(qemu) }
    const strange = bitmapName(REPOSITORY, newPoint())
    await qemu.control.execute('block-dirty-bitmap-add', { node: 'vda-node', name: strange, persistent: true })
    await qemu.write('vda', 5, 0, 1 * MiB)
    const first = await shelf.backup(backup)
    assert.deepEqual(first.disks[0]!.changes, { kind: 'full', reason: 'bitmap-foreign' })
    assert.equal((await shelf.backup(backup)).disks[0]!.changes.kind, 'incremental')
    await assertClean(qemu)
  })

  test('a backup that is given up merges the bitmaps back: the next one sees the writes before and after', async () => {
    await using qemu = await startQemu({ disks: DISKS, running: true })
    const shelf = await shelfOf(qemu)
    const backup = { hypervisor: hypervisorOf(qemu), fleecingDir: fleecingOf(qemu) }
    await shelf.backup(backup)
    await qemu.write('vda', 1, 1 * MiB, 64 * KiB)
    const giveUp = async () => {
      await qemu.write('vda', 2, 4 * MiB, 64 * KiB)
      throw new Error('given up')
    }
    await assert.rejects(shelf.backup({ ...backup, meanwhile: giveUp }), /given up/)
    await assertClean(qemu)
    await qemu.write('vda', 3, 6 * MiB, 64 * KiB)
    const { point, disks } = await shelf.backup(backup)
    assert.deepEqual(disks[0]!.changes, {
      kind: 'incremental',
      ranges: [1, 4, 6].map(at => ({ offset: at * MiB, length: 64 * KiB })),
    })
    await assertHolds(shelf, point, contentsOf(qemu))
  })

  test('full on request, and a point that was forgotten', async () => {
    await using qemu = await startQemu({ disks: DISKS })
    const shelf = await shelfOf(qemu)
    const backup = { hypervisor: hypervisorOf(qemu), fleecingDir: fleecingOf(qemu) }
    await shelf.backup(backup)
    const second = await shelf.backup({ ...backup, kind: 'full' })
    assert.deepEqual(second.disks[0]!.changes, { kind: 'full', reason: 'requested' })
    assert.equal((await shelf.backup(backup)).disks[0]!.base, second.point)
    const orphan = await shelf.backup({ ...backup, bases: [] })
    assert.deepEqual(orphan.disks[0]!.changes, { kind: 'full', reason: 'bitmap-foreign' })
  })

  test('quit keeps the bitmap of a qcow2 disk, kill -9 makes it inconsistent; a raw disk loses it either way', async () => {
    await using first = await startQemu({ disks: DISKS })
    const { dir } = first
    const shelf = await shelfOf(first)
    const backupOf = (qemu: TestQemu) => ({ hypervisor: hypervisorOf(qemu), fleecingDir: fleecingOf(qemu) })
    await shelf.backup(backupOf(first))
    await first.write('vda', 7, 3 * MiB, 64 * KiB)
    await first.write('vdb', 8, 3 * MiB, 64 * KiB)
    await first.quit()
    {
      await using second = await startQemu({ disks: DISKS, dir })
      const { point, disks } = await shelf.backup(backupOf(second))
      assert.deepEqual(disks[0]!.changes, { kind: 'incremental', ranges: [{ offset: 3 * MiB, length: 64 * KiB }] })
      assert.deepEqual(disks[1]!.changes, { kind: 'full', reason: 'bitmap-missing' })
      await assertHolds(shelf, point, contentsOf(second))
      await second.quit()
    }
    {
      await using third = await startQemu({ disks: DISKS, dir })
      await third.write('vda', 9, 5 * MiB, 64 * KiB)
      await third.flush('vda')
      await third.kill()
    }
    await using fourth = await startQemu({ disks: DISKS, dir })
    const { point, disks } = await shelf.backup(backupOf(fourth))
    assert.deepEqual(disks[0]!.changes, { kind: 'full', reason: 'bitmap-inconsistent' })
    await assertClean(fourth)
    await assertHolds(shelf, point, contentsOf(fourth))
    assert.equal((await shelf.backup(backupOf(fourth))).disks[0]!.changes.kind, 'incremental')
  })

  test('a resized and an added disk are read in full, each with its reason; the others stay increments', async () => {
    await using qemu = await startQemu({ disks: DISKS })
    const shelf = await shelfOf(qemu)
    const backup = { hypervisor: hypervisorOf(qemu), fleecingDir: fleecingOf(qemu) }
    await shelf.backup(backup)
    await qemu.control.execute('block_resize', { 'node-name': 'vdb-node', size: 12 * MiB })
    qemu.resized('vdb', 12 * MiB)
    await qemu.write('vdb', 6, 11 * MiB, 64 * KiB)
    await qemu.control.execute('blockdev-add', {
      'node-name': 'new-node',
      driver: 'null-co',
      size: 1 * MiB,
      'read-zeroes': true,
    })
    await qemu.control.execute('device_add', { driver: 'virtio-blk-pci', id: 'vdc', drive: 'new-node' })
    const { point, disks } = await shelf.backup(backup)
    const reasons = Object.fromEntries(
      disks.map(({ description, changes }) => [
        description.name,
        changes.kind === 'full' ? changes.reason : 'incremental',
      ]),
    )
    assert.deepEqual(reasons, { vda: 'incremental', vdb: 'disk-resized', vdc: 'disk-added' })
    await assertHolds(shelf, point, contentsOf(qemu))
    await assertClean(qemu)
  })

  test('where the wiring refuses the filter, the copying job takes its place', async () => {
    await using qemu = await startQemu({ disks: DISKS, running: true })
    const shelf = await shelfOf(qemu)
    let sets = 0
    const trace = (moment: string, command: string) => {
      // The second disk's drive cannot be changed; the first one's filter is in place by then.
      if (moment === 'after' && command === 'qom-set' && ++sets === 2)
        throw new LifeboatError('qmp-failed', 'refused', { details: { command, class: 'GenericError' } })
    }
    const said: string[] = []
    const hypervisor = hypervisorOf(qemu, { trace, log: message => said.push(message) })
    await qemu.write('vda', 1, 0, 1 * MiB)
    const instant = contentsOf(qemu)
    const meanwhile = async () => {
      await qemu.write('vda', 2, 0, 1 * MiB)
      assert.ok((await qemu.residue()).includes('lifeboat-0-job'))
    }
    const { point } = await shelf.backup({ hypervisor, fleecingDir: fleecingOf(qemu), meanwhile })
    await assertHolds(shelf, point, instant)
    assert.match(said.join(), /taking blockdev-backup/)
    await assertClean(qemu)
  })

  test('a paused guest stays paused, and -drive wiring with an iothread is captured like any other', async () => {
    await using qemu = await startQemu({
      disks: DISKS,
      args: dir => [
        ...[
          '-object',
          'iothread,id=io0',
          '-drive',
          `file=${dir}/vda.qcow2,if=none,id=none,format=qcow2,file.locking=off`,
        ],
        ...['-blockdev', 'driver=null-co,node-name=io-node,size=1048576,read-zeroes=on'],
        ...['-device', 'virtio-blk-pci,drive=io-node,id=vdio,iothread=io0,serial=S-1,bootindex=3'],
        ...['-drive', 'if=virtio,driver=null-co,size=1M,read-zeroes=on'],
      ],
    })
    const shelf = await shelfOf(qemu)
    const { disks } = await shelf.backup({ hypervisor: hypervisorOf(qemu), fleecingDir: fleecingOf(qemu) })
    assert.equal(await qemu.status(), 'prelaunch')
    assert.deepEqual(disks.map(({ description }) => description.name).sort(), ['vda', 'vdb', 'vdio', 'virtio0'])
    assert.deepEqual(disks.find(({ description }) => description.name === 'vdio')?.description, {
      name: 'vdio',
      size: 1 * MiB,
      format: 'null-co',
      bus: 'virtio-blk',
      bootIndex: 3,
      serial: 'S-1',
    })
    await assertClean(qemu)
  })

  test('what is no disk to protect is left out by name; UEFI variables and the machine are described', async () => {
    const code = '/usr/share/OVMF/OVMF_CODE_4M.fd'
    const vars = '/usr/share/OVMF/OVMF_VARS_4M.fd'
    const uefi = existsSync(code)
    await using qemu = await startQemu({
      disks: DISKS,
      args: () => [
        ...['-device', 'ide-cd,id=cd0', '-device', 'virtio-net-pci,id=n0,mac=52:54:00:00:00:07'],
        ...[
          '-blockdev',
          'driver=null-co,node-name=ro-node,size=1048576,read-only=on',
          '-device',
          'virtio-blk-pci,drive=ro-node,id=ro',
        ],
        ...(uefi
          ? [
              '-drive',
              `if=pflash,format=raw,readonly=on,file=${code}`,
              '-drive',
              `if=pflash,format=raw,file=${vars},snapshot=on`,
            ]
          : []),
      ],
    })
    const shelf = await shelfOf(qemu)
    const { capture } = await shelf.backup({
      hypervisor: hypervisorOf(qemu),
      fleecingDir: fleecingOf(qemu),
      disks: ['vda'],
    })
    assert.deepEqual(
      [...capture.omitted].sort((a, b) => a.name.localeCompare(b.name)),
      [
        { name: 'cd0', reason: 'no-medium' },
        { name: 'ro', reason: 'read-only' },
        { name: 'vdb', reason: 'not-selected' },
      ],
    )
    const { vm } = capture
    assert.equal(vm.name, 'testling')
    assert.match(vm.machine ?? '', /^pc-i440fx-/)
    assert.equal(vm.memoryBytes, 64 * MiB)
    assert.equal(vm.cpus, 1)
    assert.equal(vm.cpuModel, 'qemu64')
    assert.deepEqual(vm.nics, [{ model: 'virtio-net-pci', mac: '52:54:00:00:00:07' }])
    assert.equal(vm.firmware?.kind, uefi ? 'uefi' : 'bios')
    if (uefi) {
      assert.equal(vm.firmware?.codePath, code)
      assert.ok(
        Buffer.from(vm.firmware?.variables ?? []).equals(
          await import('node:fs/promises').then(fs => fs.readFile(vars)),
        ),
      )
    }
    await assert.rejects(
      shelf.backup({ hypervisor: hypervisorOf(qemu), fleecingDir: fleecingOf(qemu), disks: ['ro'] }),
      error => isLifeboatError(error, 'no-such-disk') && /read-only/.test(error.message),
    )
    await assertClean(qemu)
  })
})

describe('a capture that cannot be, or breaks', { skip }, () => {
  let qemu: TestQemu
  before(async () => {
    const args = (dir: string) => ['-qmp', `unix:${dir}/u.sock,server=on,wait=off`]
    qemu = await startQemu({ disks: DISKS, running: true, args })
  })
  after(() => qemu?.[Symbol.asyncDispose]())

  test('an absent QMP socket is said, with what to do', async () => {
    const hypervisor = hypervisorOf(qemu, { qmp: path.join(qemu.dir, 'absent') })
    const shelf = await shelfOf(qemu)
    await assert.rejects(
      shelf.backup({ hypervisor, fleecingDir: fleecingOf(qemu) }),
      error => isLifeboatError(error, 'qmp-unreachable') && /-qmp unix/.test(error.details.hint ?? ''),
    )
  })

  test("another QMP client's exclusive use is said; a second backup names the first", async () => {
    const shelf = await shelfOf(qemu)
    const backup = { hypervisor: hypervisorOf(qemu), fleecingDir: fleecingOf(qemu) }
    {
      await using _other = await connectQmp({ socket: qemu.qmp, clock: systemClock })
      await assert.rejects(
        shelf.backup({ ...backup, hypervisor: hypervisorOf(qemu, { greetingTimeoutMs: 200 }) }),
        error => isLifeboatError(error, 'qmp-unreachable') && /another QMP client/.test(error.message),
      )
    }
    const second = async () => {
      const busy = (error: unknown) =>
        isLifeboatError(error, 'vm-busy') && error.message.includes(`process ${process.pid}`)
      await assert.rejects(shelf.backup(backup), busy)
      // With other sockets and folders, the note inside QEMU tells.
      const elsewhere = {
        hypervisor: hypervisorOf(qemu, { qmp: path.join(qemu.dir, 'u.sock') }),
        fleecingDir: path.join(qemu.dir, 'g'),
      }
      await assert.rejects(shelf.backup(elsewhere), busy)
    }
    await shelf.backup({ ...backup, meanwhile: second })
    await assertClean(qemu)
  })

  test("another program's NBD server is respected", async () => {
    const shelf = await shelfOf(qemu)
    const socket = path.join(qemu.dir, 'theirs')
    await qemu.control.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
    const before = await qemu.bitmaps()
    await assert.rejects(
      shelf.backup({ hypervisor: hypervisorOf(qemu), fleecingDir: fleecingOf(qemu) }),
      error => isLifeboatError(error, 'vm-busy') && /NBD server/.test(error.message),
    )
    assert.deepEqual(await qemu.bitmaps(), before)
    await assertClean(qemu)
    assert.ok(existsSync(socket), 'their server still listens')
    await qemu.control.execute('nbd-server-stop')
  })

  test('too little room for fleecing is said before anything is done to the guest', async () => {
    const shelf = await shelfOf(qemu)
    const hypervisor = hypervisorOf(qemu, { fleecingFreeMin: Number.MAX_SAFE_INTEGER })
    await assert.rejects(shelf.backup({ hypervisor, fleecingDir: fleecingOf(qemu) }), error =>
      isLifeboatError(error, 'disk-full'),
    )
    await assertClean(qemu)
  })

  test('an aborted capture leaves nothing behind, whenever it is aborted', async () => {
    const shelf = await shelfOf(qemu)
    const before = await qemu.bitmaps()
    for (const command of ['describe', 'blockdev-add', 'stop', 'transaction', 'block-export-add']) {
      const stop = new AbortController()
      const trace = (moment: string, name: string) =>
        moment === 'before' && name === command && stop.abort(new Error('Ctrl-C'))
      const hypervisor = hypervisorOf(qemu, { trace })
      if (command === 'describe') stop.abort(new Error('Ctrl-C'))
      await assert.rejects(shelf.backup({ hypervisor, fleecingDir: fleecingOf(qemu), signal: stop.signal }), /Ctrl-C/)
      await assertClean(qemu)
      assert.equal(await qemu.status(), 'running')
      assert.deepEqual(await qemu.bitmaps(), before, `after an abort at ${command}`)
    }
  })

  test('QEMU ends in mid capture: guest-gone, for the reader too', async () => {
    const shelf = await shelfOf(qemu)
    let broken: unknown
    const failure = shelf.backup({
      hypervisor: hypervisorOf(qemu),
      fleecingDir: fleecingOf(qemu),
      kind: 'full',
      async meanwhile(capture) {
        capture.broken.catch(error => {
          broken = error
        })
        await qemu.kill()
      },
    })
    await assert.rejects(failure, error => isLifeboatError(error))
    assert.ok(isLifeboatError(broken, 'guest-gone'), String(broken))
    assert.deepEqual(readdirSync(fleecingOf(qemu)), [])
  })
})
