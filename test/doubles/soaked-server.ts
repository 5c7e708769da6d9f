/** A writable session of a point in an unreliable store, served by the command line as a process of its own that can be asked what it holds. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { KiB, MiB } from '../../src/core/limits.ts'
import { seededRandom } from '../../src/core/random.ts'
import { startChaosProxy } from './chaos-proxy.ts'
import { commandLine } from './command-line.ts'
import { patternBytes } from './pattern.ts'
import { startS3Fake } from './s3-fake.ts'
import type { S3Fault } from './s3-fake-faults.ts'
import type { HeldMemory } from './watched-process.ts'

const LIFEBOAT = path.join(import.meta.dirname, '../../bin/lifeboat.mjs')
const WATCHED = path.join(import.meta.dirname, 'watched-process.ts')

/** Silence is left out: it costs its time-out each time. */
const FAULTS: readonly S3Fault[] = [
  { kind: 'error', status: 500, code: 'InternalError' },
  { kind: 'error', status: 503, code: 'SlowDown' },
  { kind: 'foreign-error', status: 502 },
  { kind: 'reset' },
  { kind: 'half-body', ending: 'reset' },
  { kind: 'wrong-length' },
  { kind: 'extra-bytes' },
  { kind: 'wrong-body' },
  { kind: 'delay', ms: 300 },
]

export interface Held extends HeldMemory {
  readonly descriptors: number
}

export interface SoakedServer extends AsyncDisposable {
  readonly socket: string
  /** Of the disk `read`, which nobody writes. Beside it are `written`, of zeros, and `disk`, of a pattern. */
  readonly content: Buffer
  /** By the name of the fault. */
  readonly injected: ReadonlyMap<string, number>
  /** While true all connections to the store are refused. */
  refuseStore(on: boolean): void
  held(): Promise<Held>
  /** On stderr so far: whom it dropped and why, among others. */
  readonly said: string
  /** Ends it as an operator does. Gives its exit code and what it said. */
  stop(): Promise<{ readonly code: number | null; readonly said: string }>
}

export const WRITTEN_BYTES = 512 * KiB

export async function startSoakedServer({ seed, leaks }: { seed: string; leaks: boolean }): Promise<SoakedServer> {
  await using stack = new AsyncDisposableStack()
  let isOn = false
  const seeded = { random: seededRandom(seed), probability: 0.05, faults: FAULTS, isOn: () => isOn }
  const fake = stack.use(await startS3Fake({ buckets: { bucket: {} }, seeded }))
  const proxy = stack.use(await startChaosProxy({ upstream: fake.endpoint }))
  const cli = stack.use(commandLine())
  const { accessKeyId, secretAccessKey } = fake.credentials
  const environment = {
    AWS_ACCESS_KEY_ID: accessKeyId,
    AWS_SECRET_ACCESS_KEY: secretAccessKey,
    LIFEBOAT_REPO: `s3://bucket/vms?endpoint=${proxy.endpoint}`,
    LIFEBOAT_KEY_FILE: cli.at('key'),
    LIFEBOAT_CACHE_DIR: cli.at('cache'),
    LIFEBOAT_STATE_DIR: cli.at('state'),
  }
  Object.assign(cli.environment, environment)
  const content = patternBytes(48 * MiB, 3)
  const disks = { read: content, written: Buffer.alloc(WRITTEN_BYTES), disk: patternBytes(MiB, 5) }
  const images: string[] = []
  for (const [name, bytes] of Object.entries(disks)) {
    await writeFile(cli.at(`${name}.raw`), bytes)
    images.push('--image', `${name}=${cli.at(`${name}.raw`)}`)
  }
  for (const words of [['init'], ['backup', 'vm', ...images]]) {
    const { code, stderr } = await cli.run(words)
    assert.equal(code, 0, stderr)
  }

  const socket = cli.at('soak.sock')
  const limits = [
    '--cache-size',
    '8MiB',
    '--disk-cache-size',
    '16MiB',
    '--retry-for',
    '60s',
    '--handshake-timeout',
    '4s',
  ]
  const words = ['export', 'vm@latest', '--session', 'soak', '--writable', '--socket', socket, ...limits]
  const child = spawn(process.execPath, ['--expose-gc', '--import', WATCHED, LIFEBOAT, ...words], {
    env: { ...process.env, NODE_TEST_CONTEXT: undefined, HOME: cli.dir, ...environment, TEST_LEAK: leaks ? 'yes' : '' },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  })
  stack.defer(async () => void (await ended(child, 'SIGKILL')))
  let said = ''
  const ready = Promise.withResolvers<void>()
  child.stdout?.on('data', () => ready.resolve())
  child.stderr?.on('data', data => {
    said += data
  })
  child.once('close', code => ready.reject(new Error(`ended with ${code}: ${said}`)))
  await ready.promise
  isOn = true
  const owned = stack.move()
  return {
    socket,
    content,
    get injected() {
      const names = fake.faults.fired.map(({ fault }) => nameOf(fault))
      const refused = proxy.fired.map(() => 'connection refused')
      const count = new Map([...FAULTS.map(nameOf), 'connection refused'].map(name => [name, 0]))
      for (const name of [...names, ...refused]) count.set(name, (count.get(name) ?? 0) + 1)
      return count
    },
    get said() {
      return said
    },
    refuseStore: on => proxy.refuse(on),
    async held() {
      child.send('held')
      const [memory]: HeldMemory[] = await once(child, 'message')
      const descriptors = (await readdir(`/proc/${child.pid}/fd`)).length
      return { residentBytes: 0, liveBytes: 0, ...memory, descriptors }
    },
    async stop() {
      isOn = false
      return { code: await ended(child, 'SIGTERM'), said }
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

const nameOf = (fault: S3Fault): string => ('status' in fault ? `${fault.kind} ${fault.status}` : fault.kind)

async function ended(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) {
    const closed = once(child, 'close')
    child.kill(signal)
    await closed
  }
  return child.exitCode
}
