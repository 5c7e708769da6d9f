import { faulty } from '../../src/storage/faulty.ts'
import { locking } from '../../src/storage/locking.ts'
import { type MemoryOptions, memoryStore } from '../../src/storage/memory.ts'
import { metered } from '../../src/storage/metered.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import { retrying } from '../../src/storage/retrying.ts'
import { throttled } from '../../src/storage/throttled.ts'
import { intercepted } from '../doubles/intercepted-store.ts'
import { manualClock } from '../doubles/manual-clock.ts'
import { type VersionedCase, versionedStoreContract } from './versioned-store-contract.ts'

function memoryCase(
  options: MemoryOptions,
  decorate: (store: ObjectStore) => ObjectStore = store => store,
): VersionedCase {
  const clock = manualClock()
  const memory = memoryStore({ clock, versioned: true, ...options })
  return {
    store: decorate(memory),
    mark: async key => memory.tamper(key, undefined),
    later: ms => clock.advance(ms),
  }
}

versionedStoreContract({ name: 'memory', open: async () => memoryCase({}), objectLock: false })
versionedStoreContract({
  name: 'memory with Object Lock, in pages of 100',
  open: async () => memoryCase({ objectLock: true, pageKeys: 100 }),
  objectLock: true,
  manyVersions: 700,
})

const clock = manualClock()
const decorators: Readonly<Record<string, (store: ObjectStore) => ObjectStore>> = {
  retrying: store => retrying(store),
  throttled: store => throttled(store, { bytesPerSecond: 2 ** 30, requestsPerSecond: 1e6 }),
  metered: store => metered(store).store,
  'faulty that counts mutations': store => faulty(store, { onMutation: () => {} }),
  locking: store => locking(store, { clock, lockForMs: 1, mode: 'governance', isLocked: () => false }),
  intercepted: store => intercepted(store, {}),
}
for (const [name, decorate] of Object.entries(decorators))
  versionedStoreContract({
    name: `${name} over memory`,
    open: async () => memoryCase({ objectLock: true }, decorate),
    objectLock: true,
    manyVersions: 50,
  })
