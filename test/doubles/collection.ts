/** A repository to collect: points that share and lose chunks, on a clock that a test moves. */
import { seededRandom } from '../../src/core/random.ts'
import { type MaintenanceContext, maintenanceContext } from '../../src/maintenance/maintenance.ts'
import { forgottenKey, pointKey } from '../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import type { MemoryStore } from '../../src/storage/memory.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import { type ManualClock, manualClock } from './manual-clock.ts'
import { backup, newMemoryRepository, openMemoryRepository, pointNumber, timeNumber } from './memory-repository.ts'

const C = 4096

export interface CollectionTale {
  readonly store: MemoryStore
  readonly clock: ManualClock
  /** By point number - 1. */
  readonly images: readonly Uint8Array[]
  open(through?: ObjectStore, clock?: ManualClock): Promise<OpenedRepository>
  context(through?: ObjectStore, clock?: ManualClock): Promise<MaintenanceContext>
}

/**
 * Point 1 is full; 2 rewrites two thirds of it, 3 a little of 2; 4 is of another VM and shares nothing. Without point 1, its pack
 * is a third live; without 4, whole packs are dead.
 */
export async function collectionTale(seed = 'tale'): Promise<CollectionTale> {
  const clock = manualClock()
  const store = await newMemoryRepository({ seed })
  const random = seededRandom(`${seed}/images`)
  const open = (through: ObjectStore = store, by = clock) =>
    openMemoryRepository(through, { seed: `${seed}/open`, clock: by })
  const repository = await open()
  const first = random(150 * C)
  const second = first.slice()
  second.set(random(100 * C), 10 * C)
  const third = second.slice()
  third.set(random(5 * C), 140 * C)
  const fourth = random(60 * C)
  const at = (offset: number, length: number) => [{ offset: offset * C, length: length * C }]
  await backup(repository, { number: 1, disks: [{ name: 'vda', image: first }] })
  await backup(repository, {
    number: 2,
    disks: [{ name: 'vda', image: second, base: pointNumber(1), changed: at(10, 100) }],
  })
  await backup(repository, {
    number: 3,
    disks: [{ name: 'vda', image: third, base: pointNumber(2), changed: at(140, 5) }],
  })
  await backup(repository, { vm: 'other', number: 4, disks: [{ name: 'vda', image: fourth }] })
  return {
    store,
    clock,
    images: [first, second, third, fourth],
    open,
    context: async (through, by) => maintenanceContext(await open(through, by), 'tester@host'),
  }
}

export const forgetPoint = ({ control }: MaintenanceContext, number: number, vm = 'vm'): Promise<void> =>
  control.put('forgotten', forgottenKey(pointNumber(number)), {
    who: 'tester@host',
    when: '2026-01-02T03:04:05.000Z',
    why: 'test',
    manifest: pointKey(vm, timeNumber(number), pointNumber(number)),
  })
