/**
 * G3: reading a point in order through the real `export`, warm, against nbdkit's memory plugin and qemu-nbd over qcow2: fio
 * with 1 MiB requests at depth 4, and nbdcopy to nowhere. All servers publish the same image, which is compared first;
 * that pass is also what warms them.
 */
import path from 'node:path'
import { fio } from './fio.ts'
import { type Goal, judge } from './goal.ts'
import { images } from './images.ts'
import { lifeboatExport, type NbdServerProcess, nbdkitMemory, qemuNbdQcow2 } from './nbd-servers.ts'
import { lifeboat } from './process-cost.ts'
import { makeRepository } from './repository.ts'
import { isInstalled, run } from './tools.ts'

interface Rates {
  readonly fio: number[]
  readonly nbdcopy: number[]
  /** Of the server, while nbdcopy reads the whole image. */
  readonly cpuSeconds: number[]
}

export const goal: Goal = {
  id: 'G3',
  title: 'sequential reading over NBD, warm',
  async run({ dir, rounds, record, say }) {
    const { v1, size } = await images()
    const repository = await makeRepository(dir, 'repo')
    await lifeboat(['backup', 'vm', '--image', `vda=${v1}`, '--json'], repository.environment)

    await using stack = new AsyncDisposableStack()
    const ours = stack.use(await lifeboatExport(dir, 'vm@latest/vda', '2GiB', repository.environment))
    const memory = (await isInstalled('nbdkit')) ? stack.use(await nbdkitMemory(dir, v1, size)) : undefined
    const qcow2 = (await isInstalled('qemu-nbd')) ? stack.use(await qemuNbdQcow2(dir, v1)) : undefined
    const servers = [ours, memory, qcow2].filter(server => server !== undefined)
    for (const server of servers) await compare(server, v1)

    const rates = new Map<NbdServerProcess, Rates>(
      servers.map(server => [server, { fio: [], nbdcopy: [], cpuSeconds: [] }]),
    )
    for (let round = 0; round < rounds; round++)
      for (const server of servers) await measure(server, size, rates.get(server))
    for (const [{ name }, figures] of rates) {
      record(name, figures)
      say(`${name}: ${list(figures.fio)} MB/s by fio, ${list(figures.nbdcopy)} by nbdcopy; CPU ${figures.cpuSeconds}`)
    }
    const ratios = (what: keyof Rates, peer: NbdServerProcess | undefined) =>
      (peer ? (rates.get(peer)?.[what] ?? []) : []).map(
        (value, n) => (rates.get(ours)?.[what][n] ?? Number.NaN) / value,
      )
    const row = (what: 'fio' | 'nbdcopy', peer: string, server: NbdServerProcess | undefined, atLeast: number) =>
      judge({ goal: `G3: ${what}`, product: 'export', peer, ratios: ratios(what, server), target: { atLeast } })
    return [
      row('fio', 'nbdkit memory', memory, 1),
      row('fio', 'qemu-nbd qcow2', qcow2, 2),
      row('nbdcopy', 'nbdkit memory', memory, 1),
      row('nbdcopy', 'qemu-nbd qcow2', qcow2, 2),
    ]
  },
}

async function compare({ name, uri }: NbdServerProcess, image: string): Promise<void> {
  await run('bash', ['-c', 'set -o pipefail; nbdcopy --no-extents "$1" - | cmp - "$2"', 'bash', uri, image]).catch(
    cause => {
      throw new Error(`${name} does not serve ${path.basename(image)}`, { cause })
    },
  )
}

async function measure(server: NbdServerProcess, size: number, rates: Rates | undefined): Promise<void> {
  const { uri } = server
  rates?.fio.push(await fio({ uri, rw: 'read', blockSize: '1m', depth: 4, size, seconds: 2 }))
  const [cpu, started] = [await server.cpuSeconds(), performance.now()]
  await run('nbdcopy', ['--no-extents', uri, 'null:'])
  rates?.nbdcopy.push(size / ((performance.now() - started) / 1000))
  rates?.cpuSeconds.push(Number(((await server.cpuSeconds()) - cpu).toFixed(2)))
}

const list = (rates: readonly number[]) => rates.map(rate => (rate / 1e6).toFixed(0)).join(' ')
