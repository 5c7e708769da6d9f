/** A repository to collect: points that share and lose chunks, on a clock that a test moves. */
import assert from 'node:assert/strict'
import { seededRandom } from '../../src/core/random.ts'
import type { Range } from '../../src/core/range.ts'
import { type MaintenanceContext, maintenanceContext } from '../../src/maintenance/maintenance.ts'
import { forgottenKey, pointKey } from '../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import { type MemoryStore, memoryStore, type StoredObject } from '../../src/storage/memory.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import { type ManualClock, manualClock } from './manual-clock.ts'
import {
  backup,
  newMemoryRepository,
  openMemoryRepository,
  pointNumber,
  readBack,
  timeNumber,
} from './memory-repository.ts'

/** Four chunks: one id in 64 leads dedup to a pack, and each part of the tale has some. */
const C = 4 * 4096

export interface CollectionTale {
  readonly store: MemoryStore
  readonly clock: ManualClock
  /** By point number - 1. */
  readonly images: readonly Uint8Array[]
  open(through?: ObjectStore, clock?: ManualClock): Promise<OpenedRepository>
  context(through?: ObjectStore, clock?: ManualClock): Promise<MaintenanceContext>
}

interface Written {
  readonly entries: ReadonlyMap<string, StoredObject>
  readonly images: readonly Uint8Array[]
}

/** Written once in a process. */
let written: Promise<Written> | undefined

/**
 * Point 1 is full; 2 rewrites two thirds of it, 3 a little of 2; 4 is of another VM and shares nothing. Without point 1, its pack
 * is a third live; without 4, whole packs are dead.
 */
export async function collectionTale(): Promise<CollectionTale> {
  written ??= write()
  const { entries, images } = await written
  const clock = manualClock()
  const store = memoryStore({ clock, entries })
  let opened = 0
  const open = (through: ObjectStore = store, by = clock) =>
    openMemoryRepository(through, { seed: `open ${opened++}`, clock: by })
  return {
    store,
    clock,
    images,
    open,
    context: async (through, by) => maintenanceContext(await open(through, by), 'tester@host'),
  }
}

async function write(): Promise<Written> {
  const store = await newMemoryRepository({ seed: 'tale' })
  const images = await writeTale(await openMemoryRepository(store, { seed: 'writer' }))
  return { entries: store.snapshot(), images }
}

/** Gives the images of points 1 to 4. `U`: of five chunks, or as many bytes as a test wants. */
export async function writeTale(repository: OpenedRepository, U = 5 * C): Promise<readonly Uint8Array[]> {
  const random = seededRandom('tale/images')
  const first = random(30 * U)
  const second = first.slice()
  second.set(random(20 * U), 2 * U)
  const third = second.slice()
  third.set(random(U), 28 * U)
  const fourth = random(12 * U)
  const at = (offset: number, length: number) => [{ offset: offset * U, length: length * U }]
  const upon = (base: number, changed: readonly Range[]) => ({ name: 'vda', base: pointNumber(base), changed })
  await backup(repository, { number: 1, disks: [{ name: 'vda', image: first }] })
  await backup(repository, { number: 2, disks: [{ ...upon(1, at(2, 20)), image: second }] })
  await backup(repository, { number: 3, disks: [{ ...upon(2, at(28, 1)), image: third }] })
  await backup(repository, { vm: 'other', number: 4, disks: [{ name: 'vda', image: fourth }] })
  return [first, second, third, fourth]
}

export const forgetPoint = ({ control }: MaintenanceContext, number: number, vm = 'vm'): Promise<void> =>
  control.put('forgotten', forgottenKey(pointNumber(number)), {
    who: 'tester@host',
    when: '2026-01-02T03:04:05.000Z',
    why: 'test',
    manifest: pointKey(vm, timeNumber(number), pointNumber(number)),
  })

/** Points `numbers` are all that there are, and read bit for bit. */
export async function assertWhole(tale: CollectionTale, numbers: readonly number[]): Promise<void> {
  const repository = await tale.open()
  const points = await repository.points()
  assert.deepEqual(new Set(points.map(({ id }) => id)), new Set(numbers.map(pointNumber)))
  for (const number of numbers) {
    const bytes = await readBack(repository, pointNumber(number), 'vda')
    assert.ok(Buffer.compare(bytes, tale.images[number - 1]!) === 0, `point ${number} differs`)
  }
}
