/** 4 KiB random reads, warm, of the real `export` against nbdkit's memory plugin: G1 and G2 differ in their depth only. */
import { fio } from './fio.ts'
import type { Goal } from './goal.ts'
import { images } from './images.ts'
import { lifeboatExport, type NbdServerProcess, nbdkitMemory } from './nbd-servers.ts'
import { lifeboat } from './process-cost.ts'
import { makeRepository } from './repository.ts'
import { isInstalled, run } from './tools.ts'

export interface RandomReads {
  readonly iops: readonly number[]
  /** Of the server, for each read. */
  readonly cpuMicroseconds: readonly number[]
}

const SECONDS = 3
/** fio reads so long before it begins to count. */
const RAMP_SECONDS = 0.3

/** By server; product and peer take turns. */
export async function randomReads(
  { dir, rounds, record, say }: Parameters<Goal['run']>[0],
  depth: number,
): Promise<{ readonly ours: RandomReads; readonly peer: RandomReads | undefined }> {
  const { v1, size } = await images()
  const repository = await makeRepository(dir, 'repo')
  await lifeboat(['backup', 'vm', '--image', `vda=${v1}`, '--json'], repository.environment)
  await using stack = new AsyncDisposableStack()
  const servers: NbdServerProcess[] = [
    stack.use(await lifeboatExport(dir, 'vm@latest/vda', '2GiB', repository.environment)),
  ]
  if (await isInstalled('nbdkit')) servers.push(stack.use(await nbdkitMemory(dir, v1, size)))
  // What warms them also shows that they serve the same.
  for (const { uri } of servers)
    await run('bash', ['-c', 'set -o pipefail; nbdcopy --no-extents "$1" - | cmp - "$2"', 'bash', uri, v1])

  const figures = servers.map(() => ({ iops: [] as number[], cpuMicroseconds: [] as number[] }))
  for (let round = 0; round < rounds; round++)
    for (const [i, server] of servers.entries()) {
      const cpu = await server.cpuSeconds()
      const rate = await fio({ uri: server.uri, rw: 'randread', blockSize: '4k', depth, size, seconds: SECONDS })
      const iops = rate / 4096
      figures[i]?.iops.push(iops)
      figures[i]?.cpuMicroseconds.push((((await server.cpuSeconds()) - cpu) * 1e6) / (iops * (SECONDS + RAMP_SECONDS)))
    }
  for (const [i, { name }] of servers.entries()) {
    record(name, figures[i])
    const list = (values: readonly number[], digits: number) => values.map(value => value.toFixed(digits)).join(' ')
    say(`${name}: ${list(figures[i]?.iops ?? [], 0)} IOPS; CPU ${list(figures[i]?.cpuMicroseconds ?? [], 1)} us a read`)
  }
  const [ours = { iops: [], cpuMicroseconds: [] }, peer] = figures
  return { ours, peer }
}

export const ratios = (ours: readonly number[], peers: readonly number[] | undefined): number[] =>
  (peers ?? []).map((value, n) => (ours[n] ?? Number.NaN) / value)
