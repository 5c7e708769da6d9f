/** A point in an S3 store, reached through a proxy, and exports of it by the command line that a client reads from. */
import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { systemClock } from '../../src/core/clock.ts'
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts'
import { type ChaosProxy, startChaosProxy } from './chaos-proxy.ts'
import { type CommandLine, commandLine } from './command-line.ts'
import { patternBytes } from './pattern.ts'
import { type S3Fake, startS3Fake } from './s3-fake.ts'

export interface ExportedPoint extends AsyncDisposable {
  readonly t: CommandLine
  readonly fake: S3Fake
  readonly proxy: ChaosProxy
  /** Of its first disk, and of all. */
  readonly content: Buffer
  readonly contents: readonly Buffer[]
  /** Serves the point while `work` reads from its disks, each by a client of its own. Gives how many GETs of packs that took, and what the export said. */
  serve(
    flags: string,
    work: (...guests: [NbdClient, ...NbdClient[]]) => Promise<void>,
  ): Promise<{ gets: number; stderr: string }>
}

export async function exportedPoint(
  size: number,
  disks: readonly [string, ...string[]] = ['vda'],
): Promise<ExportedPoint> {
  await using cleanup = new AsyncDisposableStack()
  const fake = cleanup.use(await startS3Fake({ buckets: { bucket: {} } }))
  const proxy = cleanup.use(await startChaosProxy({ upstream: fake.endpoint }))
  const t = cleanup.use(
    commandLine({
      AWS_ACCESS_KEY_ID: fake.credentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: fake.credentials.secretAccessKey,
      LIFEBOAT_REPO: `s3://bucket/vms?endpoint=${proxy.endpoint}`,
    }),
  )
  Object.assign(t.environment, { LIFEBOAT_KEY_FILE: t.at('key'), LIFEBOAT_CACHE_DIR: t.at('cache') })
  const contents = disks.map((_, n) => patternBytes(size, 3 + n))
  for (const [n, name] of disks.entries()) await writeFile(t.at(`${name}.raw`), contents[n]!)
  const images = disks.map(name => `--image ${name}=${t.at(`${name}.raw`)}`).join(' ')
  for (const words of ['init', `backup vm ${images}`]) {
    const answer = await t.json(words)
    assert.equal(answer.code, 0, answer.stderr)
  }
  const owned = cleanup.move()
  return {
    t,
    fake,
    proxy,
    content: contents[0]!,
    contents,
    serve: (flags, work) => serve({ t, fake, disks, flags }, work),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

interface Serving {
  readonly t: CommandLine
  readonly fake: S3Fake
  readonly disks: readonly [string, ...string[]]
  readonly flags: string
}

async function serve(
  { t, fake, disks, flags }: Serving,
  work: (...guests: [NbdClient, ...NbdClient[]]) => Promise<void>,
) {
  const socket = t.at('guest.sock')
  const stop = new AbortController()
  const before = fake.requests.length
  const serving = t.run(`export vm@latest --socket ${socket} ${flags}`, { signal: stop.signal })
  let ended = false
  void serving.finally(() => {
    ended = true
  })
  const connect = async (exportName: string): Promise<NbdClient> => {
    for (;;)
      try {
        return await connectNbd({ socket, exportName, contexts: ['base:allocation'], clock: systemClock })
      } catch (error) {
        if (ended) throw error
        await systemClock.sleep(20)
      }
  }
  try {
    await using open = new AsyncDisposableStack()
    const [first, ...others] = disks
    const guests: [NbdClient, ...NbdClient[]] = [open.use(await connect(first))]
    for (const disk of others) guests.push(open.use(await connect(disk)))
    await work(...guests)
  } finally {
    stop.abort()
    await serving
  }
  const gets = fake.requests
    .slice(before)
    .filter(({ operation, key }) => operation === 'GetObject' && /\/(packs|meta)\//.test(key))
  return { gets: gets.length, stderr: (await serving).stderr }
}
