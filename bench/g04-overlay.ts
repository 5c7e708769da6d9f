/**
 * G4: random writes of 4 KiB at depth 32 through `export --writable --overlay`, against nbdkit's file plugin and qemu-nbd over
 * qcow2. Each round begins with fresh files; ratios are of one round, so that a busy machine slows all alike. The server's CPU
 * for each write is told beside them, and how long a server needs that finds 100 GiB of scattered writes.
 */
import { open, rm } from 'node:fs/promises'
import path from 'node:path'
import { GiB } from '../src/core/limits.ts'
import { fio } from './fio.ts'
import { type BenchContext, type Goal, judge, type Row } from './goal.ts'
import { lifeboatFile, type NbdServerProcess, nbdkitFile, qemuNbdFresh } from './nbd-servers.ts'
import { scatteredOverlay } from './scattered-overlay.ts'
import { isInstalled, run } from './tools.ts'

const SIZE = GiB

interface Figures {
  readonly iops: number[]
  readonly cpuMicroseconds: number[]
}

export const goal: Goal = {
  id: 'G4',
  title: 'random writes into the overlay',
  async run({ dir, rounds, record, say }) {
    const image = path.join(dir, 'base.raw')
    await using file = await open(image, 'w')
    await file.truncate(SIZE)
    const contenders = [
      { name: 'export --overlay', begin: () => lifeboatFile(dir, image), there: true },
      { name: 'nbdkit file', begin: () => nbdkitFile(dir, SIZE), there: await isInstalled('nbdkit') },
      { name: 'qemu-nbd qcow2', begin: () => qemuNbdFresh(dir, SIZE), there: await isInstalled('qemu-nbd') },
    ].filter(({ there }) => there)
    const figures = new Map<string, Figures>(contenders.map(({ name }) => [name, { iops: [], cpuMicroseconds: [] }]))
    for (let round = 0; round < rounds; round++)
      for (const { name, begin } of contenders) {
        await using server = await begin()
        await measure(server, figures.get(name))
        await rm(`${image}.overlay`, { recursive: true, force: true })
      }
    for (const [name, { iops, cpuMicroseconds }] of figures) {
      record(name, { iops, cpuMicroseconds })
      say(
        `${name}: ${iops.map(Math.round).join(' ')} IOPS; CPU ${cpuMicroseconds.map(us => us.toFixed(1)).join(' ')} us a write`,
      )
    }
    const ours = figures.get('export --overlay')?.iops ?? []
    const row = (peer: string, atLeast: number) =>
      judge({
        goal: 'G4: 4 KiB random writes',
        product: 'export --overlay',
        peer,
        ratios: (figures.get(peer)?.iops ?? []).map((iops, n) => (ours[n] ?? Number.NaN) / iops),
        target: { atLeast },
      })
    return [row('nbdkit file', 1), row('qemu-nbd qcow2', 1.5), await restart(dir, rounds, record, say)]
  },
}

/** Seconds until an overlay with 100 GiB of scattered blocks is open, in a process of its own; the first time from the disk. */
async function restart(
  dir: string,
  rounds: number,
  record: BenchContext['record'],
  say: BenchContext['say'],
): Promise<Row> {
  const folder = path.join(dir, 'scattered')
  await scatteredOverlay(folder, 100 * GiB, 'this boot')
  const opened: { seconds: number; cpuSeconds: number; mebibytes: number }[] = []
  const program = path.join(import.meta.dirname, 'scattered-overlay-open.ts')
  for (let round = 0; round < rounds; round++)
    opened.push(JSON.parse((await run(process.execPath, [program, folder, String(100 * GiB)])).stdout))
  record('restart', opened)
  const list = (what: 'seconds' | 'cpuSeconds' | 'mebibytes') => opened.map(one => one[what].toFixed(1)).join(' ')
  say(`restart: ${list('seconds')} s, CPU ${list('cpuSeconds')} s, ${list('mebibytes')} MiB`)
  return judge({
    goal: 'G4: restart at 100 GiB scattered',
    product: 'seconds',
    peer: '1 s',
    ratios: opened.map(({ seconds }) => seconds),
    target: { atMost: 2 },
  })
}

async function measure(server: NbdServerProcess, figures: Figures | undefined): Promise<void> {
  const job = { uri: server.uri, rw: 'randwrite', blockSize: '4k', depth: 32, size: SIZE } as const
  await fio({ ...job, seconds: 1 })
  const [cpu, seconds] = [await server.cpuSeconds(), 5]
  const rate = await fio({ ...job, seconds })
  figures?.iops.push(rate / 4096)
  // fio runs 0.3 s more before it begins to count.
  figures?.cpuMicroseconds.push((((await server.cpuSeconds()) - cpu) * 1e6) / ((rate / 4096) * (seconds + 0.3)))
}
