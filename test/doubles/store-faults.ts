/** A whole life of a repository in the S3 fake while each request fails with a probability: what came of it. */
import assert from 'node:assert/strict'
import { systemClock } from '../../src/core/clock.ts'
import { isLifeboatError } from '../../src/core/errors.ts'
import { KiB } from '../../src/core/limits.ts'
import { seededRandom } from '../../src/core/random.ts'
import { initRepository } from '../../src/repository/init.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import { verifyPoints } from '../../src/repository/verify.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import { retrying } from '../../src/storage/retrying.ts'
import { s3Store } from '../../src/storage/s3.ts'
import { slowing } from '../../src/storage/slowing.ts'
import {
  backup,
  beginBackup,
  commitBackup,
  openMemoryRepository,
  pointNumber,
  readBack,
  writeDisk,
} from './memory-repository.ts'
import { patternBytes } from './pattern.ts'
import { startS3Fake } from './s3-fake.ts'
import type { S3Fault, S3Operation } from './s3-fake-faults.ts'

export interface FaultKind {
  readonly name: string
  readonly fault: S3Fault
  readonly operations?: readonly S3Operation[]
}

export const FAULT_KINDS: readonly FaultKind[] = [
  { name: 'answer 500', fault: { kind: 'error', status: 500, code: 'InternalError' } },
  { name: 'answer 503', fault: { kind: 'error', status: 503, code: 'SlowDown' } },
  { name: 'answer 429', fault: { kind: 'error', status: 429, code: 'TooManyRequests' } },
  { name: 'a proxy answers 502', fault: { kind: 'foreign-error', status: 502 } },
  { name: 'reset', fault: { kind: 'reset' } },
  { name: 'no answer', fault: { kind: 'hang' } },
  { name: 'half a body, then a reset', fault: { kind: 'half-body', ending: 'reset' } },
  { name: 'half a body, then silence', fault: { kind: 'half-body', ending: 'silence' } },
  { name: 'bytes too many', fault: { kind: 'extra-bytes' } },
  { name: 'a wrong length', fault: { kind: 'wrong-length' } },
  { name: 'a wrong body', fault: { kind: 'wrong-body' } },
  {
    name: '404 once',
    fault: { kind: 'error', status: 404, code: 'NoSuchKey' },
    operations: ['GetObject', 'HeadObject'],
  },
  { name: 'a listing without the newest', fault: { kind: 'hide-newest' }, operations: ['ListObjectsV2'] },
  {
    name: 'a listing that lost entries',
    fault: { kind: 'drop-entries' },
    operations: ['ListObjectsV2', 'DeleteObjects'],
  },
  { name: 'done, and the answer is lost', fault: { kind: 'done-but-reset' } },
  { name: 'done, answered 500', fault: { kind: 'done-but-error', status: 500, code: 'InternalError' } },
  { name: 'done, and nobody says so', fault: { kind: 'done-but-hang' } },
]

export interface FaultRun {
  readonly kinds: readonly FaultKind[]
  readonly probability: number
  readonly seed: string
  readonly imageBytes?: number
}

export interface FaultTally {
  fired: number
  requests: number
  finished: number
  /** LifeboatErrors, by code. */
  readonly failed: Map<string, number>
}

/** Without an answer for so long an operation counts as hung: far above what its retries may take. */
const HUNG_MS = 120_000
const SILENT: ReadonlySet<string> = new Set(['hang', 'done-but-hang', 'half-body'])
const credential = { kind: 'file', secret: new Uint8Array(32).fill(7) } as const

/**
 * Two backups, both read back, and verify, with faults; then without any everything that was said to be done is checked.
 * Throws where a wrong byte was given out, a finished point is not there or not whole, an error is no clean one, or nothing
 * happened for too long.
 */
export async function faultRun({ kinds, probability, seed, imageBytes = 256 * KiB }: FaultRun): Promise<FaultTally> {
  let isOn = false
  const operations = kinds.length === 1 ? kinds[0]?.operations : undefined
  const faults = kinds.map(({ fault }) => fault)
  await using fake = await startS3Fake({
    seeded: { random: seededRandom(`faults ${seed}`), probability, faults, operations, isOn: () => isOn },
  })
  const { endpoint, credentials } = fake
  // Only where a fault falls silent is a request given up early: elsewhere a busy machine would time out.
  const idleMs = faults.some(({ kind }) => SILENT.has(kind)) ? 500 : 20_000
  const patience = { random: seededRandom(`patience ${seed}`), firstDelayMs: 2, delayMaxMs: 50, retryForMs: 15_000 }
  /** As another process would, which knows nothing of the bucket yet. */
  const open = () =>
    retrying(
      slowing(s3Store({ bucket: 'test', prefix: 'vms', endpoint, credentials, pathStyle: true, idleMs })),
      patience,
    )
  const tally: FaultTally = { fired: 0, requests: 0, finished: 0, failed: new Map() }
  await using store = open()
  await initRepository({ store, credential, chunkSize: 4096, random: seededRandom(seed), clock: systemClock })

  const first = new Uint8Array(patternBytes(imageBytes, 3))
  const second = Uint8Array.from(first)
  second.set(patternBytes(16_384, 9), 65_536)
  const changed = [{ offset: 65_536, length: 16_384 }]

  isOn = true
  const isFirstDone = await attempt(tally, 'backup', () =>
    opened(open, seed, repository => backup(repository, { number: 1, disks: [{ name: 'vda', image: first }] })),
  )
  const base = isFirstDone ? pointNumber(1) : undefined
  const isSecondDone = await attempt(tally, 'backup', () =>
    opened(open, `${seed} 2`, async repository => {
      await using writer = await beginBackup(repository, { number: 2, disks: [], bases: base ? [base] : [] })
      // A base that could not be found is left out, and the disk is then written whole.
      const upon = base && writer.bases.has(base) ? { base, changed } : {}
      await writeDisk(repository, writer, { name: 'vda', image: second, ...upon })
      await commitBackup(writer)
    }),
  )
  const done = [...(isFirstDone ? [[1, first] as const] : []), ...(isSecondDone ? [[2, second] as const] : [])]
  for (const [number, image] of done)
    await attempt(tally, 'restore', () =>
      opened(open, `${seed} r${number}`, async repository =>
        assertBytes(await readBack(repository, pointNumber(number), 'vda'), image),
      ),
    )
  await attempt(tally, 'verify', () => opened(open, `${seed} v`, verifyAll))
  isOn = false

  await opened(open, `${seed} calm`, async repository => {
    const { problems } = await verifyAll(repository)
    assert.deepEqual(problems, [], 'without faults nothing is wrong')
    for (const [number, image] of done) assertBytes(await readBack(repository, pointNumber(number), 'vda'), image)
  })
  tally.fired = fake.faults.fired.length
  tally.requests = fake.requests.length
  return tally
}

async function opened<T>(open: () => ObjectStore, seed: string, work: (repository: OpenedRepository) => Promise<T>) {
  await using store = open()
  await using repository = await openMemoryRepository(store, { seed, clock: systemClock })
  return await work(repository)
}

const verifyAll = async (repository: OpenedRepository) =>
  verifyPoints(repository, { points: await repository.points({ all: false }) })

function assertBytes(found: Uint8Array, expected: Uint8Array): void {
  if (Buffer.compare(found, expected) !== 0) throw new Error('WRONG BYTES were given out')
}

async function attempt(tally: FaultTally, what: string, work: () => Promise<unknown>): Promise<boolean> {
  const stop = new AbortController()
  try {
    const hung = systemClock.sleep(HUNG_MS, { signal: stop.signal }).then(() => {
      throw new Error(`${what} HUNG`)
    })
    await Promise.race([work(), hung])
    tally.finished++
    return true
  } catch (error) {
    if (!isLifeboatError(error) || error.code === 'internal') throw error
    tally.failed.set(`${what} ${error.code}`, (tally.failed.get(`${what} ${error.code}`) ?? 0) + 1)
    return false
  } finally {
    stop.abort()
  }
}

export const describeTally = ({ fired, requests, finished, failed }: FaultTally): string =>
  `${fired} faults in ${requests} requests: ${finished} finished, failed cleanly: ${[...failed].map(([what, count]) => `${count} ${what}`).join(', ') || 'none'}; 0 wrong, 0 hung`
