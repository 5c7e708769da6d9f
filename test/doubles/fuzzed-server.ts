/**
 * The NBD server of a fuzzing campaign as a process of its own, so that what it costs is told apart from what its visitors do.
 * Takes one JSON word; says 'ready', then its log, a line each; ends when its stdin does.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { memoryDevice } from '../../src/block/memory.ts'
import { systemClock } from '../../src/core/clock.ts'
import { seededRandom } from '../../src/core/random.ts'
import { serveNbd } from '../../src/nbd/server.ts'
import { readServerTls } from '../../src/nbd/tls-folder.ts'
import { patternBytes } from './pattern.ts'
import { slowDevice } from './slow-device.ts'

interface ServedDisk {
  readonly socket: string
  /** Of both disks: 'disk', which may be written, and 'good', which is `patternBytes(size, 4)`. */
  readonly size: number
  readonly slow: boolean
  readonly seed: number
  /** A folder of certificates, or nothing. */
  readonly tls?: string | undefined
}

export interface FuzzedServer extends AsyncDisposable {
  /** What it has logged so far. */
  readonly log: readonly string[]
  /** Bytes that it holds in memory. */
  resident(): Promise<number>
  descriptors(): Promise<number>
  /** Undefined while it runs. */
  readonly exitCode: number | null
}

export async function startFuzzedServer(disk: ServedDisk): Promise<FuzzedServer> {
  const child: ChildProcess = spawn(process.execPath, [fileURLToPath(import.meta.url), JSON.stringify(disk)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const log: string[] = []
  const ready = Promise.withResolvers<void>()
  createInterface({ input: child.stdout! }).on('line', line => (line === 'ready' ? ready.resolve() : log.push(line)))
  child.once('exit', code => ready.reject(new Error(`the server ended with ${code} before it served`)))
  await ready.promise
  return {
    log,
    async resident() {
      const status = await readFile(`/proc/${child.pid}/status`, 'utf8')
      return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024
    },
    descriptors: async () => (await readdir(`/proc/${child.pid}/fd`)).length,
    get exitCode() {
      return child.exitCode
    },
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null) return
      child.stdin?.end()
      await once(child, 'exit')
    },
  }
}

async function serve({ socket, size, slow, seed, tls }: ServedDisk): Promise<void> {
  const memory = memoryDevice(patternBytes(size))
  const device = slow ? slowDevice(memory, seededRandom(`fuzz ${seed}`)) : memory
  const security = tls === undefined ? undefined : await readServerTls({ folder: tls, verify: false, now: new Date() })
  await using _server = await serveNbd({
    exports: [
      { name: 'disk', device, readOnly: false },
      { name: 'good', device: memoryDevice(patternBytes(size, 4)), readOnly: true },
    ],
    listen: { socket },
    clock: systemClock,
    log: line => console.log(line),
    ...(security && { tls: security }),
  })
  console.log('ready')
  process.stdin.resume()
  await once(process.stdin, 'end')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await serve(JSON.parse(process.argv[2] ?? ''))
