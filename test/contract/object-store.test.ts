import { randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { faulty } from '../../src/storage/faulty.ts'
import { filesystemStore } from '../../src/storage/filesystem.ts'
import { memoryStore } from '../../src/storage/memory.ts'
import { metered } from '../../src/storage/metered.ts'
import { retrying } from '../../src/storage/retrying.ts'
import { s3Store } from '../../src/storage/s3.ts'
import { slowing } from '../../src/storage/slowing.ts'
import { openStore } from '../../src/storage/store-url.ts'
import { throttled } from '../../src/storage/throttled.ts'
import { type S3FakeOptions, startS3Fake } from '../doubles/s3-fake.ts'
import { objectStoreContract } from './object-store-contract.ts'

async function scratchFolder(cleanup: AsyncDisposableStack): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'lifeboat-store-'))
  cleanup.defer(() => rm(folder, { recursive: true, force: true }))
  return folder
}

objectStoreContract({ name: 'directory', open: async cleanup => filesystemStore(await scratchFolder(cleanup)) })
objectStoreContract({
  name: 'directory made by the first put, listed in pages of 100',
  open: async cleanup =>
    filesystemStore(join(await scratchFolder(cleanup), 'new', 'deep'), { create: true, pageNames: 100 }),
  manyKeys: 250,
})
objectStoreContract({ name: 'memory', open: async () => memoryStore() })

async function fakeBucket(cleanup: AsyncDisposableStack, prefix: string, options: S3FakeOptions = {}) {
  const fake = cleanup.use(await startS3Fake(options))
  const { endpoint, credentials } = fake
  return s3Store({ bucket: 'test', prefix, endpoint, credentials, pathStyle: true })
}

objectStoreContract({ name: 'S3, a whole bucket', open: cleanup => fakeBucket(cleanup, '') })
objectStoreContract({
  name: 'S3 below a prefix, versioned, in pages of 100',
  open: cleanup =>
    fakeBucket(cleanup, 'site-1/vms', { buckets: { test: { versioning: true } }, quirks: { pageKeys: 100 } }),
  manyKeys: 250,
})
objectStoreContract({
  name: 'S3 without conditional puts and batch deletes',
  open: cleanup => fakeBucket(cleanup, 'p', { quirks: { conditionalPut: 'refused', batchDelete: false } }),
  expectConditionalPut: false,
  manyKeys: 60,
})
objectStoreContract({
  name: 'S3 that ignores conditional puts',
  open: cleanup => fakeBucket(cleanup, 'p', { quirks: { conditionalPut: 'ignored' } }),
  expectConditionalPut: false,
  manyKeys: 60,
})

objectStoreContract({ name: 'retrying', open: async () => retrying(memoryStore()) })
objectStoreContract({
  name: 'throttled',
  open: async () => throttled(memoryStore(), { bytesPerSecond: 2 ** 30, requestsPerSecond: 1e6 }),
})
objectStoreContract({ name: 'slowing', open: async () => slowing(memoryStore()) })
objectStoreContract({ name: 'metered', open: async () => metered(memoryStore()).store })
objectStoreContract({ name: 'faulty without faults', open: async () => faulty(memoryStore()) })
objectStoreContract({
  name: 'faulty that counts mutations',
  open: async () => faulty(memoryStore(), { onMutation: () => {} }),
})

/** A real store on demand: a repository URL in LIFEBOAT_TEST_S3, and the AWS variables. The fake must not drift from it. */
const realStore = process.env.LIFEBOAT_TEST_S3
if (realStore !== undefined)
  objectStoreContract({
    name: 'S3 for real',
    open: async cleanup => {
      const [base, query] = realStore.split('?')
      const store = await openStore(`${base}/${randomUUID()}?${query ?? ''}`, { environment: process.env })
      cleanup.defer(async () => store.delete((await Array.fromAsync(store.list(''))).map(({ key }) => key)))
      return store
    },
    expectConditionalPut: process.env.LIFEBOAT_TEST_S3_CONDITIONAL !== 'no',
  })
