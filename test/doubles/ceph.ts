/**
 * A Ceph cluster for the tests of one file: the one that LIFEBOAT_CEPH names, which scripts/test.ts starts once for all, or
 * one of its own. Each test takes a bucket of its own, which is never removed: what is locked cannot be, and the cluster
 * goes as a whole.
 */
import { after } from 'node:test'
import { type CephCluster, existingCluster, startCluster } from '../../scripts/ceph/cluster.ts'
import { type Daemon, endDaemon } from '../../scripts/ceph/daemons.ts'
import { type S3Options, s3Store } from '../../src/storage/s3.ts'
import { ownCluster } from './own-ceph.ts'
import { makeBucket } from './plain-s3.ts'

export interface BucketKind {
  readonly versioning?: boolean
  readonly objectLock?: boolean
}

let started: Promise<CephCluster> | undefined
const cleanup = new AsyncDisposableStack()
after(() => cleanup.disposeAsync())

/** Called by a test: the cluster starts when the first one needs it. */
export function ceph(): Promise<CephCluster> {
  started ??= start()
  return started
}

async function start(): Promise<CephCluster> {
  const shared = process.env.LIFEBOAT_CEPH
  if (shared === undefined) return cleanup.use(await ownCluster())
  const cluster = await existingCluster(shared)
  await startCluster(cluster)
  return cluster
}

let count = 0

export async function cephBucket(kind: BucketKind = {}): Promise<string> {
  const name = `t${process.pid}-${Date.now().toString(36)}-${++count}`
  await makeBucket(await ceph(), name, kind)
  return name
}

export async function cephStore(bucket: string, options: Partial<S3Options> = {}) {
  const { endpoint, credentials } = await ceph()
  return s3Store({ bucket, prefix: '', endpoint, credentials, pathStyle: true, ...options })
}

/** As a power cut ends it. */
export async function killDaemon(daemon: Daemon): Promise<void> {
  const { folder } = await ceph()
  if (!(await endDaemon(folder, daemon, 'SIGKILL'))) throw new Error(`${daemon} did not run`)
}

export const restartCeph = async (): Promise<void> => startCluster(await ceph())
