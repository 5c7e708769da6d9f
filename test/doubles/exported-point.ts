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
  /** Of its disk. */
  readonly content: Buffer
  /** Serves the point while `work` reads from it. Gives how many GETs of packs that took, and what the export said. */
  serve(flags: string, work: (guest: NbdClient) => Promise<void>): Promise<{ gets: number; stderr: string }>
}

export async function exportedPoint(size: number): Promise<ExportedPoint> {
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
  const content = patternBytes(size, 3)
  await writeFile(t.at('disk.raw'), content)
  for (const words of ['init', `backup vm --image vda=${t.at('disk.raw')}`]) {
    const answer = await t.json(words)
    assert.equal(answer.code, 0, answer.stderr)
  }
  const owned = cleanup.move()
  return {
    t,
    fake,
    proxy,
    content,
    serve: (flags, work) => serve(t, fake, flags, work),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

async function serve(t: CommandLine, fake: S3Fake, flags: string, work: (guest: NbdClient) => Promise<void>) {
  const socket = t.at('guest.sock')
  const stop = new AbortController()
  const before = fake.requests.length
  const serving = t.run(`export vm@latest/vda --socket ${socket} ${flags}`, { signal: stop.signal })
  let ended = false
  void serving.finally(() => {
    ended = true
  })
  const connect = async (): Promise<NbdClient> => {
    for (;;)
      try {
        return await connectNbd({ socket, exportName: 'vda', contexts: ['base:allocation'], clock: systemClock })
      } catch (error) {
        if (ended) throw error
        await systemClock.sleep(20)
      }
  }
  try {
    await using guest = await connect()
    await work(guest)
  } finally {
    stop.abort()
    await serving
  }
  const gets = fake.requests
    .slice(before)
    .filter(({ operation, key }) => operation === 'GetObject' && /\/(packs|meta)\//.test(key))
  return { gets: gets.length, stderr: (await serving).stderr }
}
