/**
 * A Ceph cluster for the tests of one file: the one that LIFEBOAT_CEPH names, or one of its own that ends with them. Each
 * test takes a bucket of its own, which is never removed: what is locked cannot be, and the cluster goes as a whole.
 */
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import {
  type CephCluster,
  createCluster,
  existingCluster,
  removeCluster,
  startCluster,
} from '../../scripts/ceph/cluster.ts'
import { DAEMONS, type Daemon, endDaemon, pidOf } from '../../scripts/ceph/daemons.ts'
import { type S3Options, s3Store } from '../../src/storage/s3.ts'
import { record } from '../guest/process-record.ts'
import { lacking } from './peer-tools.ts'
import { makeBucket } from './plain-s3.ts'

export interface BucketKind {
  readonly versioning?: boolean
  readonly objectLock?: boolean
}

/** An option of node:test. */
export const cephLacking = lacking('ceph-mon', 'ceph-mgr', 'ceph-osd', 'radosgw', 'radosgw-admin')

let started: Promise<CephCluster> | undefined

/** Called by a test: the cluster starts when the first one needs it. */
export function ceph(): Promise<CephCluster> {
  started ??= start()
  return started
}

async function start(): Promise<CephCluster> {
  const shared = process.env.LIFEBOAT_CEPH
  if (shared !== undefined) {
    const cluster = await existingCluster(shared)
    await startCluster(cluster)
    return cluster
  }
  return ownCluster()
}

/** Also where this process is killed: the next test run ends what is left. */
export async function ownCluster(): Promise<CephCluster> {
  const cluster = await createCluster(join(await mkdtemp(join(tmpdir(), 'lifeboat-ceph-')), 'cluster'))
  for (const daemon of DAEMONS) {
    const pid = pidOf(cluster.folder, daemon)
    if (pid !== undefined) record(pid, join(cluster.folder, '..'))
  }
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

after(async () => {
  if (started === undefined || process.env.LIFEBOAT_CEPH !== undefined) return
  const cluster = await started
  await removeCluster(cluster)
  await removeCluster({ folder: join(cluster.folder, '..') })
})
