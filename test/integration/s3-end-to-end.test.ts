/**
 * The whole way through an s3:// URL by the command line: a backup, an increment, verify, restore and the reads of a booting
 * guest, while the store answers 503, resets connections, loses replies of what it did, and cuts bodies short.
 */
import assert from 'node:assert/strict'
import { open, readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { LifeboatError } from '../../src/core/errors.ts'
import { MiB } from '../../src/core/limits.ts'
import { seededRandom } from '../../src/core/random.ts'
import { connectNbd } from '../../src/nbd/client.ts'
import { type CommandLine, commandLine } from '../doubles/command-line.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { type S3Fake, startS3Fake } from '../doubles/s3-fake.ts'
import type { S3Fault } from '../doubles/s3-fake-faults.ts'

const CHUNK = 65_536
const SIZE = 40 * MiB + 512
const seed = process.env.SEED ?? String(Math.floor(Math.random() * 1e9))

const STORM: readonly S3Fault[] = [
  { kind: 'error', status: 503, code: 'SlowDown' },
  { kind: 'error', status: 500, code: 'InternalError' },
  { kind: 'foreign-error', status: 502 },
  { kind: 'reset' },
  { kind: 'done-but-reset' },
  { kind: 'done-but-error', status: 503, code: 'ServiceUnavailable' },
  { kind: 'half-body', ending: 'reset' },
  { kind: 'wrong-length' },
]

/** 20 MiB that do not shrink, a hole, and something at the end, which is no multiple of anything. */
async function makeImage(file: string): Promise<Buffer> {
  const content = Buffer.alloc(SIZE)
  patternBytes(20 * MiB, 7).copy(content)
  patternBytes(CHUNK + 512, 8).copy(content, 40 * MiB - CHUNK)
  await using handle = await open(file, 'w')
  await handle.truncate(SIZE)
  await handle.write(content.subarray(0, 20 * MiB), 0, 20 * MiB, 0)
  await handle.write(content.subarray(40 * MiB - CHUNK), 0, CHUNK + 512, 40 * MiB - CHUNK)
  return content
}

async function lifeboat(t: CommandLine, words: string) {
  const answer = await t.json(words)
  assert.equal(answer.code, 0, `${words}: ${answer.stderr}`)
  return answer
}

/** Serves a point and reads it as a guest does that boots: its first sector, then here and there. Gives the requests that it took. */
async function readLikeAGuest(t: CommandLine, fake: S3Fake, content: Buffer): Promise<readonly string[]> {
  const socket = t.at('guest.sock')
  const stop = new AbortController()
  const serving = t.run(`export vm@latest/vda --socket ${socket}`, { signal: stop.signal })
  const before = fake.requests.length
  try {
    const deadline = systemClock.monotonicMs() + 60_000
    const connect = async () => {
      for (;;)
        try {
          return await connectNbd({ socket, exportName: 'vda', contexts: ['base:allocation'], clock: systemClock })
        } catch (error) {
          if (systemClock.monotonicMs() > deadline) throw error
          await systemClock.sleep(20)
        }
    }
    await using guest = await connect()
    assert.equal(guest.size, SIZE)
    for (const [offset, length] of [
      [0, 512],
      [MiB + 4096, 128 * 1024],
      [19 * MiB, MiB],
      [30 * MiB, 64 * 1024],
      [SIZE - 1024, 1024],
    ] as const) {
      const bytes = Buffer.alloc(length)
      await guest.readInto(bytes, offset)
      assert.ok(bytes.equals(content.subarray(offset, offset + length)), `${length} bytes at ${offset}`)
    }
  } finally {
    stop.abort(new LifeboatError('interrupted', 'stopped by SIGTERM'))
  }
  assert.equal((await serving).code, 0, (await serving).stderr)
  return fake.requests.slice(before).map(({ operation, key }) => `${operation} ${key.split('/')[1]}`)
}

test('a backup, an increment, verify, restore and a boot-like read through s3://, with 503s and resets', async () => {
  process.stdout.write(`# seed ${seed}\n`)
  await using fake = await startS3Fake({
    seeded: { random: seededRandom(`storm ${seed}`), probability: 0.12, faults: STORM },
  })
  await using t = commandLine({
    AWS_ACCESS_KEY_ID: fake.credentials.accessKeyId,
    AWS_SECRET_ACCESS_KEY: fake.credentials.secretAccessKey,
  })
  t.environment.LIFEBOAT_REPO = `s3://test/backups?endpoint=${fake.endpoint}`
  t.environment.LIFEBOAT_KEY_FILE = t.at('key')
  const content = await makeImage(t.at('disk.raw'))
  await lifeboat(t, 'init')

  const full = await lifeboat(t, `backup vm --image vda=${t.at('disk.raw')}`)
  const disk = (answer: { json: unknown }) =>
    (answer.json as { disks: { bytesRead: number; bytesChanged: number; bytesStored: number }[] }).disks[0]!
  // The hole is not read: what is counted is the data, and what its last chunk shares with it.
  assert.ok(disk(full).bytesRead >= 20 * MiB + CHUNK + 512 && disk(full).bytesRead < 21 * MiB)

  patternBytes(3 * CHUNK, 9).copy(content, 5 * MiB)
  {
    await using handle = await open(t.at('disk.raw'), 'r+')
    await handle.write(content.subarray(5 * MiB, 5 * MiB + 3 * CHUNK), 0, 3 * CHUNK, 5 * MiB)
  }
  const increment = await lifeboat(t, `backup vm --image vda=${t.at('disk.raw')}`)
  assert.equal(disk(increment).bytesChanged, 3 * CHUNK)
  assert.ok(disk(increment).bytesStored < 4 * CHUNK)

  // One body with the right length and wrong bytes: seen by the reader alone, and fetched once more.
  fake.faults.add({ operation: 'GetObject', key: /\/packs\//, fault: { kind: 'wrong-body' } })
  const verified = await lifeboat(t, 'verify --all')
  assert.deepEqual((verified.json as { problems: unknown[] }).problems, [])

  await lifeboat(t, `restore vm@latest/vda --output ${t.at('out.raw')}`)
  assert.ok((await readFile(t.at('out.raw'))).equals(content), 'restored bit by bit')

  const requests = await readLikeAGuest(t, fake, content)
  const fetches = requests.filter(request => request.startsWith('GetObject'))
  assert.ok(fetches.length < 60, `${fetches.length} GETs for five reads: ${requests.join(', ')}`)

  const kinds = new Set(fake.faults.fired.map(({ fault }) => fault.kind))
  assert.ok(fake.faults.fired.length >= 5 && kinds.size >= 3, `${fake.faults.fired.length} faults of ${[...kinds]}`)
  const left = [...fake.buckets.get('test')!.objects.keys()].filter(key =>
    /\/(leases|pins|fences|forgotten)\//.test(key),
  )
  assert.deepEqual(left, [], 'nobody is at work any more, and nothing was given up')
})
