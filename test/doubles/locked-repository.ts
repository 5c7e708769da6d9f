/** A repository with Object Lock in memory, with a clock that a test moves. */
import { seededRandom } from '../../src/core/random.ts'
import { initRepository } from '../../src/repository/init.ts'
import type { LockPolicy } from '../../src/repository/lock-policy.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import { type MemoryStore, memoryStore } from '../../src/storage/memory.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import type { VersionedStore } from '../../src/storage/versioned-store.ts'
import { type ManualClock, manualClock } from './manual-clock.ts'
import { openMemoryRepository } from './memory-repository.ts'

export const DAY_MS = 24 * 3_600_000

export const monthLock: LockPolicy = { mode: 'compliance', forMs: 30 * DAY_MS, renewEveryMs: 7 * DAY_MS }

export interface LockedRepository {
  readonly store: MemoryStore & { readonly versioned: VersionedStore }
  readonly clock: ManualClock
  readonly lock: LockPolicy
  /** Each with random numbers of its own: two hosts never draw the same. */
  open(through?: ObjectStore): Promise<OpenedRepository>
}

export async function lockedRepository(lock = monthLock, seed = 'locked'): Promise<LockedRepository> {
  const clock = manualClock()
  const { versioned, ...plain } = memoryStore({ clock, versioned: true, objectLock: true })
  if (!versioned) throw new Error('a store without versions')
  const store = { ...plain, versioned }
  const credential = { kind: 'file', secret: new Uint8Array(32).fill(7) } as const
  await initRepository({ store, credential, chunkSize: 4096, lock, random: seededRandom(seed), clock })
  let opened = 0
  return {
    store,
    clock,
    lock,
    open: (through = store) => openMemoryRepository(through, { seed: `${seed}/${opened++}`, clock }),
  }
}
