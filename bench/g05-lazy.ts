/**
 * G5: 4 KiB reads at random places of a point that nobody has read yet, one at a time, out of a local repository: `export` of a
 * fresh process against a fresh `restic mount`. Both read the same places of the same image; the repositories lie in the
 * page cache, so that it is the programs that are compared and not the disk beneath.
 */
import { spawn } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { systemClock } from '../src/core/clock.ts'
import { coldReads, type Latencies } from './fio.ts'
import { type Goal, judge } from './goal.ts'
import { images } from './images.ts'
import { lifeboatExport } from './nbd-servers.ts'
import { cost, lifeboat } from './process-cost.ts'
import { makeRepository } from './repository.ts'
import { makeRestic, type Restic } from './restic.ts'
import { exists, isInstalled, run } from './tools.ts'

const READS = 2_000

export const goal: Goal = {
  id: 'G5',
  title: 'first reads at random places, local repository',
  async run({ dir, rounds, record, say }) {
    const { v1, size } = await images()
    const repository = await makeRepository(dir, 'repo')
    await lifeboat(['backup', 'vm', '--image', `vda=${v1}`, '--json'], repository.environment)
    const hasRestic = (await isInstalled('restic')) && (await isInstalled('fusermount3')) && (await exists('/dev/fuse'))
    const restic = hasRestic ? await makeRestic(dir, 'restic') : undefined
    if (restic) await cost('restic', ['backup', '--quiet', v1], restic.environment)

    const ours: Latencies[] = []
    const theirs: Latencies[] = []
    for (let round = 0; round < rounds; round++) {
      const job = { size, reads: READS, seed: round + 1 }
      {
        await using server = await lifeboatExport(dir, 'vm@latest/vda', '256MiB', repository.environment)
        const before = await server.cpuSeconds()
        ours.push(await coldReads({ ...job, uri: server.uri }))
        const micros = (((await server.cpuSeconds()) - before) / READS) * 1e6
        say(`export: ${text(ours.at(-1))}, ${micros.toFixed(0)} us of CPU a read`)
      }
      if (!restic) continue
      await using mount = await mounted(restic, dir)
      theirs.push(await coldReads({ ...job, file: path.join(mount.path, 'snapshots', 'latest', v1) }))
      say(`restic mount: ${text(theirs.at(-1))}`)
    }
    record('export', ours)
    record('restic mount', theirs)
    const ratios = (of: (latencies: Latencies) => number) => theirs.map((peer, n) => of(ours[n]!) / of(peer))
    return [
      judge({
        goal: 'G5: reads a second',
        product: 'export',
        peer: 'restic mount',
        ratios: ratios(({ iops }) => iops),
        target: { atLeast: 10 },
      }),
      judge({
        goal: 'G5: p99',
        product: 'export',
        peer: 'restic mount',
        ratios: ratios(({ p99Ms }) => p99Ms),
        target: { atMost: 0.2 },
      }),
    ]
  },
}

async function mounted(restic: Restic, dir: string): Promise<{ readonly path: string } & AsyncDisposable> {
  const mount = path.join(dir, 'mount')
  await mkdir(mount, { recursive: true })
  const child = spawn('restic', ['mount', '--quiet', mount], {
    stdio: 'ignore',
    env: { ...process.env, ...restic.environment },
  })
  const ended = new Promise(resolve => child.once('close', resolve))
  for (let tries = 0; !(await exists(path.join(mount, 'snapshots', 'latest'))); tries++) {
    if (child.exitCode !== null || tries > 300) throw new Error('restic mount does not come up')
    await systemClock.sleep(100)
  }
  return {
    path: mount,
    async [Symbol.asyncDispose]() {
      await run('fusermount3', ['-u', mount]).catch(() => child.kill('SIGINT'))
      await ended
    },
  }
}

const text = (found: Latencies | undefined): string =>
  found ? `${found.iops.toFixed(0)} reads/s, p50 ${found.p50Ms.toFixed(2)} ms, p99 ${found.p99Ms.toFixed(2)} ms` : '-'
