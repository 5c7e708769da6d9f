import { faulty } from '../../src/storage/faulty.ts'
import { locking } from '../../src/storage/locking.ts'
import { type MemoryOptions, memoryStore } from '../../src/storage/memory.ts'
import { metered } from '../../src/storage/metered.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import { retrying } from '../../src/storage/retrying.ts'
import { s3Store } from '../../src/storage/s3.ts'
import { slowing } from '../../src/storage/slowing.ts'
import { throttled } from '../../src/storage/throttled.ts'
import { intercepted } from '../doubles/intercepted-store.ts'
import { manualClock } from '../doubles/manual-clock.ts'
import { plainDelete } from '../doubles/plain-s3.ts'
import { type S3FakeOptions, startS3Fake } from '../doubles/s3-fake.ts'
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
  slowing: store => slowing(store),
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

async function fakeCase(
  cleanup: AsyncDisposableStack,
  prefix: string,
  options: Omit<S3FakeOptions, 'now'>,
): Promise<VersionedCase> {
  const clock = manualClock()
  const fake = cleanup.use(await startS3Fake({ ...options, now: clock.now }))
  const { endpoint, credentials } = fake
  return {
    store: s3Store({ bucket: 'test', prefix, endpoint, credentials, pathStyle: true }),
    mark: key => plainDelete(fake, 'test', prefix === '' ? key : `${prefix}/${key}`),
    later: ms => clock.advance(ms),
  }
}

const AS_CEPH = { conditionalPut: 'honoured-unversioned', keyMarker: 'inclusive' } as const

versionedStoreContract({
  name: 'S3, versioned',
  open: cleanup => fakeCase(cleanup, '', { buckets: { test: { versioning: true } }, quirks: { pageKeys: 70 } }),
  objectLock: false,
  manyVersions: 250,
})
versionedStoreContract({
  name: "S3 with Object Lock below a prefix, with Ceph's manners, in pages of 100",
  open: cleanup =>
    fakeCase(cleanup, 'site-1/vms', {
      buckets: { test: { objectLock: true } },
      quirks: { ...AS_CEPH, pageKeys: 100 },
    }),
  objectLock: true,
  manyVersions: 250,
})
versionedStoreContract({
  name: 'S3 with Object Lock and without batch deletes',
  open: cleanup => fakeCase(cleanup, 'p', { buckets: { test: { objectLock: true } }, quirks: { batchDelete: false } }),
  objectLock: true,
  manyVersions: 60,
})
