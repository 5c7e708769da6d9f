/** A small real repository in memory: what tests of reading start from. */
import { systemClock } from '../../src/core/clock.ts'
import { hex, type PointId, pointId } from '../../src/core/ids.ts'
import { type Random, seededRandom } from '../../src/core/random.ts'
import type { Credential } from '../../src/crypto/keys.ts'
import type { Pipeline } from '../../src/native/pipeline.ts'
import { twinPipeline } from '../../src/native/twin.ts'
import { initRepository } from '../../src/repository/init.ts'
import { type OpenedRepository, openRepository } from '../../src/repository/open.ts'
import type { PointSummary } from '../../src/repository/repository.ts'
import { type MemoryStore, memoryStore } from '../../src/storage/memory.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'

export interface RepositoryFixture {
  readonly store: MemoryStore
  readonly credential: Credential
  readonly random: Random
  readonly repository: OpenedRepository
  /** The same repository through another store, for instance a metered one. */
  open(store?: ObjectStore, pipeline?: Pipeline): Promise<OpenedRepository>
  /** Writes and commits. `writes`: offset -> bytes, whole chunks but at the end of the disk. */
  writePoint(request: FixturePoint): Promise<PointSummary>
}

export interface FixtureDisk {
  readonly name: string
  readonly size: number
  readonly writes: readonly (readonly [offset: number, bytes: Uint8Array])[]
}

export interface FixturePoint {
  readonly vm?: string
  readonly takenAt?: Date
  readonly base?: PointId
  readonly disks: readonly FixtureDisk[]
}

export const fixtureSecret = new Uint8Array(32).fill(7)

export async function repositoryFixture({
  seed = 'fixture',
  chunkSize = 4096,
  credential = { kind: 'file', secret: fixtureSecret },
}: {
  seed?: string
  chunkSize?: number
  credential?: Credential
} = {}): Promise<RepositoryFixture> {
  const random = seededRandom(seed)
  const store = memoryStore()
  const scryptCost = { N: 1024, r: 8, p: 1 }
  await initRepository({ store, credential, chunkSize, random, clock: systemClock, scryptCost })
  const open = (through: ObjectStore = store, pipeline: Pipeline = twinPipeline) =>
    openRepository({ store: through, credential, random, clock: systemClock, host: 'test', pipeline })
  const repository = await open()
  let minutes = 0
  return {
    store,
    credential,
    random,
    repository,
    open,
    async writePoint({ vm = 'web', takenAt = new Date(Date.UTC(2026, 10, 21, 10, minutes++)), base, disks }) {
      const point = pointId(hex(random(8)))
      const bases = base ? [base] : []
      await using writer = await repository.beginPoint({ vm, point, takenAt, kind: 'backup', bases })
      for (const { name, size, writes } of disks) {
        const disk = await writer.disk({ name, size, base, description: {} })
        for (const [offset, bytes] of writes) await disk.write(offset, bytes.slice())
        await disk.finish({ bytesRead: 0 })
      }
      const kind = base ? 'incremental' : 'full'
      await writer.commit({ kind, consistency: 'crash', description: {}, omitted: [] })
      return await pointNamed(repository, point)
    },
  }
}

async function pointNamed(repository: OpenedRepository, id: PointId): Promise<PointSummary> {
  const found = (await repository.points({ all: true })).find(point => point.id === id)
  if (!found) throw new Error(`point ${id} was not listed`)
  return found
}

/** Bytes that do not compress, and so fill as many packs as a test needs. */
export const noise = (seed: string, length: number): Uint8Array => seededRandom(seed)(length)

export const keysOf = (store: MemoryStore, prefix: string): string[] =>
  [...store.snapshot().keys()].filter(key => key.startsWith(prefix)).sort()

export function bytesOf(store: MemoryStore, key: string): Uint8Array {
  const found = store.snapshot().get(key)
  if (!found) throw new Error(`no object ${key}`)
  return found.bytes
}

export function flipBit(store: MemoryStore, key: string, at: number): void {
  const bytes = bytesOf(store, key).slice()
  bytes[at]! ^= 0x10
  store.tamper(key, bytes)
}
