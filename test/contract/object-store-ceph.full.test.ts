/** The contracts of a store on a real one, so that the S3 fake cannot drift from it. */

import { suite } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type BucketKind, ceph, cephBucket, cephStore } from '../doubles/ceph.ts'
import { cephLacking } from '../doubles/own-ceph.ts'
import { plainDelete } from '../doubles/plain-s3.ts'
import { objectStoreContract } from './object-store-contract.ts'
import { versionedStoreContract } from './versioned-store-contract.ts'

async function versionedCase(kind: BucketKind, prefix = '') {
  const bucket = await cephBucket(kind)
  return {
    store: await cephStore(bucket, { prefix }),
    mark: async (key: string) => plainDelete(await ceph(), bucket, prefix === '' ? key : `${prefix}/${key}`),
    later: (ms: number) => sleep(ms),
  }
}

suite('Ceph', { skip: cephLacking }, () => {
  objectStoreContract({ name: 'Ceph, a plain bucket', open: async () => cephStore(await cephBucket()) })
  objectStoreContract({
    name: 'Ceph, a versioned bucket, below a prefix',
    open: async () => cephStore(await cephBucket({ versioning: true }), { prefix: 'site-1/vms' }),
    expectConditionalPut: false,
  })
  objectStoreContract({
    name: 'Ceph, a bucket with Object Lock',
    open: async () => cephStore(await cephBucket({ objectLock: true })),
    expectConditionalPut: false,
    manyKeys: 60,
  })
  versionedStoreContract({
    name: 'Ceph, versioned',
    open: () => versionedCase({ versioning: true }),
    objectLock: false,
  })
  versionedStoreContract({
    name: 'Ceph with Object Lock',
    open: () => versionedCase({ objectLock: true }, 'p'),
    objectLock: true,
    retentionMs: 5_000,
    manyVersions: 60,
  })
})
