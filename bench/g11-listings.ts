/**
 * G11: `ls -lR` of 5,000 files of a guest through the mount, the second time, against the same filesystem mounted by this host's
 * kernel; and the first listing of a filesystem that only the appliance reads, against the start of the appliance alone.
 */
import { mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { fileDevice } from '../src/block/file.ts'
import { ownAppliance } from '../test/doubles/own-appliance.ts'
import { type BenchContext, type Goal, judge, type Row } from './goal.ts'
import { CACHE } from './images.ts'
import { lifeboatMount } from './mount-process.ts'
import { lifeboat } from './process-cost.ts'
import { type BenchRepository, makeRepository } from './repository.ts'
import { run } from './tools.ts'

const FOLDERS = 50
const FILES = 100
/** So that a listing takes more than a few milliseconds. */
const TIMES = 5

export const goal: Goal = {
  id: 'G11-listings',
  title: 'listings of a guest through the mount',
  async run(context) {
    const stage = await tree(context.dir)
    return [await warm(context, stage), await first(context, stage)]
  },
}

async function warm({ dir, rounds, record, say }: BenchContext, stage: string): Promise<Row> {
  const image = path.join(dir, 'ext4.raw')
  await run('bash', ['-ec', 'truncate -s 256M "$2"; mkfs.ext4 -q -F -d "$1" "$2"', 'bash', stage, image])
  const { environment } = await backedUp(dir, image)
  const local = await mkdtemp(path.join(dir, 'local-'))
  await run('mount', ['-o', 'loop,ro', image, local])
  const ratios: number[] = []
  try {
    await using mount = await lifeboatMount(dir, environment, [])
    const guest = await volumeIn(mount.at)
    // The second time makes what the kernel keeps, and V8's code.
    for (const at of [guest, guest, local]) await listed(at, 1)
    for (let round = 0; round < rounds; round++) {
      const [ours, theirs] = [await listed(guest, TIMES), await listed(local, TIMES)]
      ratios.push(ours / theirs)
      record(`warm, round ${round}`, { ours, theirs })
      say(`ls -lR, warm: ${ours.toFixed(0)} ms through the mount, ${theirs.toFixed(0)} ms of ext4`)
    }
  } finally {
    await run('umount', [local])
  }
  const common = { product: 'lifeboat mount', peer: "ext4 of this host's kernel" }
  return judge({ goal: 'G11: ls -lR of 5,000 files, warm', ...common, ratios, target: { atMost: 3 } })
}

async function first({ dir, rounds, record, say }: BenchContext, stage: string): Promise<Row> {
  const image = path.join(dir, 'btrfs.raw')
  await run('bash', ['-ec', 'truncate -s 512M "$2"; mkfs.btrfs -q -r "$1" "$2"', 'bash', stage, image])
  const { environment } = await backedUp(dir, image)
  const ratios: number[] = []
  // Who starts it first on a host builds its image.
  await startMs(image, environment)
  for (let round = 0; round < rounds; round++) {
    const started = await startMs(image, environment)
    const words = { ...environment, LIFEBOAT_CACHE_DIR: path.join(CACHE, 'appliance') }
    await using mount = await lifeboatMount(dir, words, [])
    const began = performance.now()
    await run('ls', ['-l', `${await volumeIn(mount.at)}/`])
    const took = performance.now() - began
    ratios.push(took / started)
    record(`first, round ${round}`, { took, started })
    say(`${took.toFixed(0)} ms to the first listing, ${started.toFixed(0)} ms for the appliance's start`)
  }
  const common = { product: 'lifeboat mount', peer: "the appliance's own start" }
  return judge({ goal: 'G11: first listing of a guest', ...common, ratios, target: { atMost: 1.5 } })
}

/** Until its agent answers, with the disk attached. */
async function startMs(image: string, { LIFEBOAT_STATE_DIR: stateDir }: BenchRepository['environment']) {
  using appliance = ownAppliance({ stateDir, accelerator: 'auto' })
  await using device = await fileDevice(image, { readOnly: true })
  const began = performance.now()
  await using _ = await appliance.open([{ name: 'vda', image: device }])
  return performance.now() - began
}

async function tree(dir: string): Promise<string> {
  const stage = path.join(dir, 'stage')
  for (let folder = 0; folder < FOLDERS; folder++) {
    await mkdir(path.join(stage, `folder-${folder}`), { recursive: true })
    for (let file = 0; file < FILES; file++) await writeFile(path.join(stage, `folder-${folder}`, `file-${file}`), 'x')
  }
  return stage
}

async function backedUp(dir: string, image: string) {
  const repository = await makeRepository(dir, `repo-${path.basename(image)}`)
  await lifeboat(['backup', 'vm', '--image', `vda=${image}`, '--json'], repository.environment)
  return repository
}

/** The one volume of the one point. */
async function volumeIn(mount: string): Promise<string> {
  const { stdout } = await run('bash', ['-c', 'ls -d "$1"/by-vm/vm/*Z/files/*', 'bash', mount])
  return stdout.trim()
}

/** Milliseconds. */
async function listed(at: string, times: number): Promise<number> {
  const began = performance.now()
  await run('bash', ['-ec', `for ((i = 0; i < ${times}; i++)); do ls -lR "$1" > /dev/null; done`, 'bash', at])
  return (performance.now() - began) / times
}
