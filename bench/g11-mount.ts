/**
 * G11: a point's raw image through our mount, past the kernel's page cache (as QEMU reads with cache=none) and warm in ours, against
 * qemu-storage-daemon's FUSE export of the same raw file: 4 KiB at random places, one at a time and eight at once, and 1 MiB in order.
 */
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { type Goal, judge } from './goal.ts'
import { images } from './images.ts'
import { lifeboatMount, type MountProcess, mounted } from './mount-process.ts'
import { lifeboat } from './process-cost.ts'
import { ratios } from './random-read.ts'
import { makeRepository } from './repository.ts'
import { isInstalled, run } from './tools.ts'

const SECONDS = 3

interface Job {
  readonly name: string
  readonly words: readonly string[]
}

const JOBS: readonly Job[] = [
  { name: '4 KiB random reads', words: ['--rw=randread', '--bs=4k'] },
  { name: '4 KiB random reads, 8 at once', words: ['--rw=randread', '--bs=4k', '--numjobs=8'] },
  { name: '1 MiB sequential reads', words: ['--rw=read', '--bs=1M'] },
]

interface Server extends MountProcess {
  readonly name: string
  readonly file: string
}

export const goal: Goal = {
  id: 'G11',
  title: 'a raw image through the mount, O_DIRECT, warm',
  async run({ dir, rounds, record, say }) {
    const { v1, size } = await images()
    const repository = await makeRepository(dir, 'repo')
    await lifeboat(['backup', 'vm', '--image', `vda=${v1}`, '--json'], repository.environment)
    await using stack = new AsyncDisposableStack()
    const servers = [stack.use(await ourMount(dir, repository.environment))]
    if (await isInstalled('qemu-storage-daemon')) servers.push(stack.use(await qemuExport(dir, v1)))
    // What warms them also shows that they serve the same. Other processes look: a mount of ours is not for us to touch.
    for (const { file } of servers)
      await run('bash', ['-c', 'dd if="$1" bs=1M iflag=direct status=none | cmp - "$2"', 'bash', file, v1])

    const rows = []
    for (const { name, words } of JOBS) {
      const rates = servers.map(() => [] as number[])
      for (let round = 0; round < rounds; round++)
        for (const [i, server] of servers.entries()) {
          const cpu = await server.cpuSeconds()
          const rate = await directReads(server.file, size, words)
          const micros = (((await server.cpuSeconds()) - cpu) * 1e6) / ((rate * SECONDS) / 1e6)
          rates[i]!.push(rate)
          say(`${server.name}, ${name}: ${(rate / 1e6).toFixed(0)} MB/s, ${micros.toFixed(0)} us of CPU a MB`)
        }
      record(name, Object.fromEntries(servers.map((server, i) => [server.name, rates[i]])))
      const product = 'mount'
      const peer = 'qemu-storage-daemon fuse'
      const title = `G11: ${name}`
      rows.push(judge({ goal: title, product, peer, ratios: ratios(rates[0]!, rates[1]), target: { atLeast: 1 } }))
    }
    return rows
  },
}

/** Bytes a second. fio takes several files, with colons between them. */
async function directReads(file: string, size: number, words: readonly string[]): Promise<number> {
  const { stdout } = await run('fio', [
    ...[
      '--name=x',
      '--ioengine=psync',
      '--direct=1',
      '--readonly',
      `--filename=${file.replaceAll(':', '\\:')}`,
      `--size=${size}`,
      ...words,
    ],
    ...['--thread', '--group_reporting', '--time_based', `--runtime=${SECONDS}`, '--ramp_time=0.3', '--norandommap'],
    ...['--randrepeat=0', '--output-format=json'],
  ])
  const report: { jobs: readonly { read: { bw_bytes: number } }[] } = JSON.parse(stdout.slice(stdout.indexOf('{')))
  return report.jobs[0]?.read.bw_bytes ?? Number.NaN
}

async function ourMount(dir: string, environment: Record<string, string>): Promise<Server> {
  const mount = await lifeboatMount(dir, environment, ['--cache-size', '2GiB'])
  const { stdout } = await run('find', [path.join(mount.at, 'by-vm'), '-name', 'vda.raw'])
  return { ...mount, name: 'lifeboat mount', file: stdout.trim().split('\n')[0] ?? '' }
}

async function qemuExport(dir: string, image: string): Promise<Server> {
  const file = path.join(dir, 'qemu.raw')
  await writeFile(file, '')
  const words = [
    ...['--blockdev', `driver=file,node-name=file,filename=${image},read-only=on`],
    ...['--blockdev', 'driver=raw,node-name=raw,file=file,read-only=on'],
    ...['--export', `fuse,id=image,node-name=raw,mountpoint=${file}`],
  ]
  return { ...(await mounted('qemu-storage-daemon', file, words)), name: 'qemu-storage-daemon', file }
}
