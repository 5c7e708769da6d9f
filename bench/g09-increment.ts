/** G9: an increment by QEMU's dirty bitmap with 3 % of the 64 KiB blocks changed at random: bytes read and stored. */
import { type ChildProcess, spawn } from 'node:child_process'
import { open } from 'node:fs/promises'
import path from 'node:path'
import { systemClock } from '../src/core/clock.ts'
import { KiB } from '../src/core/limits.ts'
import { connectQmp } from '../src/hypervisor/qemu/qmp.ts'
import { connectNbd } from '../src/nbd/client.ts'
import { type Goal, judge } from './goal.ts'
import { changedBlocks, type Images, images } from './images.ts'
import { cost, lifeboat } from './process-cost.ts'
import { type BackupDocument, makeRepository } from './repository.ts'
import { folderBytes, makeRestic } from './restic.ts'
import { exists, isInstalled, run } from './tools.ts'

const BLOCK = 64 * KiB

export const goal: Goal = {
  id: 'G9',
  title: 'increment with CBT',
  async run({ dir, record, say }) {
    const source = await images()
    const blocks = await changedBlocks(source)
    const disk = path.join(dir, 'vda.qcow2')
    await run('qemu-img', ['convert', '-O', 'qcow2', source.v1, disk])
    const qmp = path.join(dir, 'q.sock')
    const qemu = await startQemu(disk, qmp)
    try {
      const repository = await makeRepository(dir, 'repo')
      await lifeboat(['backup', 'vm', '--qmp', qmp, '--json'], repository.environment)
      await writeChanges(source.v2, blocks, qmp, path.join(dir, 'w.sock'))
      const increment = await lifeboat(['backup', 'vm', '--qmp', qmp, '--json'], repository.environment)
      const document: BackupDocument = JSON.parse(increment.stdout)
      const figures = document.disks[0]
      if (document.kind !== 'incremental' || !figures) throw new Error(`not an increment: ${increment.stdout}`)
      const restored = path.join(dir, 'restored.raw')
      await lifeboat(['restore', 'vm@latest/vda', '--output', restored, '--json'], repository.environment)
      await run('cmp', [restored, source.v2])
      const added = (await isInstalled('restic')) ? await addedByRestic(source, dir) : undefined
      const changed = blocks.length * BLOCK
      record('figures', { figures, changed, resticAdded: added, cost: { ...increment, stdout: undefined } })
      say(`changed ${changed}, read ${figures.bytesRead}, stored ${figures.bytesStored}, restic added ${added}`)
      const row = (what: string, peer: string, ours: number, theirs: number | undefined, atMost: number) =>
        judge({
          goal: `G9: ${what}`,
          product: 'backup --qmp',
          peer,
          ratios: theirs === undefined ? [] : [ours / theirs],
          target: { atMost },
        })
      return [
        row('bytes read', 'changed bytes', figures.bytesRead, changed, 1.05),
        row('bytes stored', 'changed bytes', figures.bytesStored, changed, 0.5),
        row('bytes stored', "restic's addition", figures.bytesStored, added, 0.15),
      ]
    } finally {
      qemu.kill('SIGTERM')
    }
  },
}

/** Both versions under one path, as the peer would meet them on two days. */
async function addedByRestic({ v1, v2 }: Images, dir: string): Promise<number> {
  const restic = await makeRestic(dir, 'restic')
  const image = path.join(dir, 'image.raw')
  const sizes: number[] = []
  for (const version of [v1, v2]) {
    await run('cp', ['--sparse=always', version, image])
    await cost('restic', ['backup', '--quiet', '--no-cache', image], restic.environment)
    sizes.push(await folderBytes(restic.path))
  }
  return (sizes[1] ?? 0) - (sizes[0] ?? 0)
}

async function startQemu(disk: string, qmp: string): Promise<ChildProcess> {
  const qemu = spawn(
    'qemu-system-x86_64',
    [
      ...['-accel', 'tcg', '-M', 'pc', '-S', '-nodefaults', '-display', 'none', '-m', '64'],
      ...['-qmp', `unix:${qmp},server=on,wait=off`],
      ...['-blockdev', `driver=qcow2,node-name=disk0,file.driver=file,file.filename=${disk}`],
      // Shared, because the changes come in through an export beside the device.
      ...['-device', 'virtio-blk-pci,drive=disk0,id=vda,share-rw=on'],
    ],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  )
  for (let tries = 0; tries < 200; tries++) {
    if (await exists(qmp)) return qemu
    await systemClock.sleep(50)
  }
  qemu.kill('SIGKILL')
  throw new Error('QEMU did not open its QMP socket')
}

/** Writes the blocks in which v2 differs through QEMU itself, so that its bitmaps see them. */
async function writeChanges(v2: string, blocks: readonly number[], qmpSocket: string, socket: string): Promise<void> {
  const qmp = await connectQmp({ socket: qmpSocket, clock: systemClock })
  await qmp.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
  await qmp.execute('block-export-add', { type: 'nbd', id: 'w', 'node-name': 'disk0', name: 'w', writable: true })
  const nbd = await connectNbd({ socket, exportName: 'w', clock: systemClock })
  const image = await open(v2, 'r')
  const block = Buffer.alloc(BLOCK)
  for (const offset of blocks) {
    await image.read(block, 0, BLOCK, offset)
    await nbd.write(block, offset)
  }
  await nbd.flush()
  await image.close()
  await nbd[Symbol.asyncDispose]()
  await qmp.execute('nbd-server-stop')
  await qmp[Symbol.asyncDispose]()
}
