/** Whole backups into a repository in memory and back, without a hypervisor: an image is an array of bytes. */

import type { Clock } from '../../src/core/clock.ts'
import { LifeboatError } from '../../src/core/errors.ts'
import { type PointId, pointId } from '../../src/core/ids.ts'
import { type Random, seededRandom } from '../../src/core/random.ts'
import { alignRanges, type Range } from '../../src/core/range.ts'
import type { Pipeline } from '../../src/native/pipeline.ts'
import { twinPipeline } from '../../src/native/twin.ts'
import { pointImage } from '../../src/repository/image.ts'
import { initRepository } from '../../src/repository/init.ts'
import { type OpenedRepository, openRepository, type RepositoryIdentity } from '../../src/repository/open.ts'
import type { DiskStats, Manifest, PointSummary, PointWriter } from '../../src/repository/repository.ts'
import { type MemoryStore, memoryStore } from '../../src/storage/memory.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import { manualClock } from './manual-clock.ts'

const secret = new Uint8Array(32).fill(7)

export async function newMemoryRepository(options: { seed?: string; chunkSize?: number } = {}): Promise<MemoryStore> {
  const { seed = 'init', chunkSize = 4096 } = options
  const store = memoryStore({ clock: manualClock() })
  const credential = { kind: 'file', secret } as const
  await initRepository({ store, credential, chunkSize, random: seededRandom(seed), clock: manualClock() })
  return store
}

export const openMemoryRepository = (
  store: ObjectStore,
  options: {
    seed: string
    clock?: Clock
    random?: Random
    pipeline?: Pipeline
    leaseExpiryMs?: number
    pinned?: RepositoryIdentity
  },
): Promise<OpenedRepository> =>
  openRepository({
    store,
    credential: { kind: 'file', secret },
    clock: options.clock ?? manualClock(),
    random: options.random ?? seededRandom(options.seed),
    host: 'test-host',
    pipeline: options.pipeline ?? twinPipeline,
    leaseExpiryMs: options.leaseExpiryMs,
    pinned: options.pinned,
  })

/** A disk to be written: all of it, or only `changed` upon the base. A range of zeros in whole chunks goes as `zero`. */
export interface DiskInput {
  readonly name: string
  readonly image: Uint8Array
  readonly base?: PointId
  readonly changed?: readonly Range[]
}

export interface BackupInput {
  readonly vm?: string
  /** Also makes the id and the time. */
  readonly number: number
  readonly disks: readonly DiskInput[]
  readonly bases?: readonly PointId[]
}

export const pointNumber = (number: number): PointId => pointId(number.toString(16).padStart(16, '0'))
export const timeNumber = (number: number): Date => new Date(Date.parse('2026-01-02T00:00:00Z') + number * 60_000)

export const beginBackup = (repository: OpenedRepository, { vm = 'vm', number, disks, bases }: BackupInput) =>
  repository.beginPoint({
    vm,
    point: pointNumber(number),
    takenAt: timeNumber(number),
    kind: 'backup',
    bases: bases ?? disks.flatMap(({ base }) => base ?? []),
  })

export async function writeDisk(
  repository: OpenedRepository,
  writer: PointWriter,
  { name, image, base, changed }: DiskInput,
): Promise<DiskStats> {
  const disk = await writer.disk({ name, size: image.length, base, description: { bus: 'virtio' } })
  let bytesRead = 0
  const { chunkSize } = repository
  for (const range of alignRanges(changed ?? [{ offset: 0, length: image.length }], chunkSize, image.length))
    for (let at = range.offset; at < range.offset + range.length; at += chunkSize * 16) {
      const piece = image.slice(at, Math.min(at + chunkSize * 16, range.offset + range.length))
      bytesRead += piece.length
      if (piece.every(byte => byte === 0)) await disk.zero({ offset: at, length: piece.length })
      else await disk.write(at, piece)
      // The buffer is ours again.
      piece.fill(0xee)
    }
  return await disk.finish({ bytesRead })
}

export async function backup(repository: OpenedRepository, input: BackupInput): Promise<Manifest> {
  await using writer = await beginBackup(repository, input)
  for (const disk of input.disks) await writeDisk(repository, writer, disk)
  return await commitBackup(writer)
}

export const commitBackup = (writer: PointWriter): Promise<Manifest> =>
  writer.commit({ kind: 'full', consistency: 'crash', description: { memory: 1 }, omitted: [] })

export async function summaryOf(repository: OpenedRepository, point: PointId): Promise<PointSummary> {
  const found = (await repository.points({ all: true })).find(({ id }) => id === point)
  // As the command line says it: a listing that is behind does not have the newest.
  if (!found) throw new LifeboatError('no-such-point', `no point ${point}`)
  return found
}

/** The whole image of a disk of a point, every chunk authenticated. */
export async function readBack(repository: OpenedRepository, point: PointId, disk: string): Promise<Uint8Array> {
  await using opened = await repository.openPoint(await summaryOf(repository, point), { pin: 'restore' })
  await using image = pointImage(opened.disk(disk))
  const bytes = new Uint8Array(image.size).fill(0xaa)
  for (let at = 0; at < image.size; at += 1024 * 1024)
    await image.readInto(bytes.subarray(at, Math.min(image.size, at + 1024 * 1024)), at)
  return bytes
}

/** Bytes of all objects whose key begins with `prefix`. */
export const storedBytes = (store: MemoryStore, prefix: string): number =>
  [...store.snapshot()].reduce((sum, [key, { bytes }]) => (key.startsWith(prefix) ? sum + bytes.length : sum), 0)

export const keysOf = (store: MemoryStore, prefix: string): string[] =>
  [...store.snapshot().keys()].filter(key => key.startsWith(prefix)).sort()
