/**
 * G12: memory. Peak resident size of a capture above an idle Node process, for a small and for a large disk, each into a
 * repository that knows nothing of it, and once more for the large one, unchanged, which is compared with its digests; of a server above its configured cache, for a real image and for a synthetic one of 10 TiB, after random reads
 * all over it.
 */
import { truncate } from 'node:fs/promises'
import path from 'node:path'
import { GiB, MiB } from '../src/core/limits.ts'
import { fio } from './fio.ts'
import { type Goal, judge } from './goal.ts'
import { images } from './images.ts'
import { lifeboatExport, type NbdServerProcess, start } from './nbd-servers.ts'
import { cost, lifeboat } from './process-cost.ts'
import { type BenchRepository, makeRepository } from './repository.ts'
import { run } from './tools.ts'

const TiB = 1024 * GiB
const CAPTURE_MIB = 95
const SERVER_MIB = 160
const SERVER_MIB_PER_TIB = 32
const CACHE_MIB = 256

export const goal: Goal = {
  id: 'G12',
  title: 'memory',
  async run({ dir, rounds, record, say }) {
    const { v1, size } = await images()
    const large = path.join(dir, 'large.raw')
    await run('cp', ['--sparse=always', v1, large])
    await truncate(large, 256 * GiB)
    const ratios: Record<'small' | 'large' | 'again' | 'real' | 'synthetic', number[]> = {
      small: [],
      large: [],
      again: [],
      real: [],
      synthetic: [],
    }
    // Memory varies little from run to run.
    for (let round = 0; round < Math.min(rounds, 2); round++) {
      const { peakMiB: idle } = await cost(process.execPath, ['-e', 'setTimeout(() => {}, 500)'])
      const repository = await makeRepository(dir, `repo-${round}`)
      const fresh = await makeRepository(dir, `large-${round}`)
      const capture = async (vm: string, image: string, { environment }: BenchRepository) =>
        (await lifeboat(['backup', vm, '--image', `vda=${image}`, '--json'], environment)).peakMiB
      const small = await capture('small', v1, repository)
      const ofLarge = await capture('large', large, fresh)
      const again = await capture('large', large, fresh)
      const real = await served(
        await lifeboatExport(dir, 'small@latest/vda', `${CACHE_MIB}MiB`, repository.environment),
        size,
      )
      const huge = 10 * TiB
      const synthetic = await served(await syntheticServer(dir, huge), huge)
      ratios.small.push((small - idle) / CAPTURE_MIB)
      ratios.large.push((ofLarge - idle) / CAPTURE_MIB)
      ratios.again.push((again - idle) / CAPTURE_MIB)
      ratios.real.push((real - CACHE_MIB) / (SERVER_MIB + (SERVER_MIB_PER_TIB * size) / TiB))
      // All its chunks have the same content, so that its cache holds one of them: nothing is taken off for it.
      ratios.synthetic.push(synthetic / (SERVER_MIB + (SERVER_MIB_PER_TIB * huge) / TiB))
      record(`round ${round}`, { idle, small, large: ofLarge, again, real, synthetic })
      say(
        `MiB: idle Node ${idle.toFixed(0)}, capture of 1 GiB ${small.toFixed(0)}, of 256 GiB ${ofLarge.toFixed(0)}, again ${again.toFixed(0)}, ` +
          `server with a cache of ${CACHE_MIB} ${real.toFixed(0)}, of 10 TiB ${synthetic.toFixed(0)}`,
      )
    }
    const row = (what: string, product: string, peer: string, values: readonly number[]) =>
      judge({ goal: `G12: ${what}`, product, peer, ratios: values, target: { atMost: 1 } })
    return [
      row('capture, 1 GiB', 'backup --image', `idle Node + ${CAPTURE_MIB} MiB`, ratios.small),
      row('capture, 256 GiB sparse', 'backup --image', `idle Node + ${CAPTURE_MIB} MiB`, ratios.large),
      row('the same again, unchanged', 'backup --image', `idle Node + ${CAPTURE_MIB} MiB`, ratios.again),
      row('server, 1 GiB', 'export', `cache + ${SERVER_MIB} MiB`, ratios.real),
      row('server, 10 TiB', 'export', `${SERVER_MIB} MiB + ${SERVER_MIB_PER_TIB} MiB/TiB`, ratios.synthetic),
    ]
  },
}

function syntheticServer(dir: string, bytes: number): Promise<NbdServerProcess> {
  const socket = path.join(dir, 'synthetic.sock')
  const script = path.join(import.meta.dirname, 'synthetic-server.ts')
  return start('synthetic server', socket, process.execPath, [script, `${bytes}`, socket, `${CACHE_MIB * MiB}`])
}

/** Peak resident size after reads everywhere, and the server's end. */
async function served(server: NbdServerProcess, size: number): Promise<number> {
  await using running = server
  await fio({ uri: running.uri, rw: 'randread', blockSize: '64k', depth: 32, size, seconds: 8 })
  return running.peakMiB()
}
