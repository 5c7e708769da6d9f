/** A Ceph cluster that belongs to this process and goes with it; where the process is killed, the next test run ends it. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type CephCluster, createCluster, removeCluster } from '../../scripts/ceph/cluster.ts'
import { DAEMONS, pidOf } from '../../scripts/ceph/daemons.ts'
import { record } from '../guest/process-record.ts'
import { lacking } from './peer-tools.ts'

/** An option of node:test. */
export const cephLacking = lacking('ceph-mon', 'ceph-mgr', 'ceph-osd', 'radosgw', 'radosgw-admin')

export async function ownCluster(): Promise<CephCluster & AsyncDisposable> {
  const scratch = await mkdtemp(join(tmpdir(), 'lifeboat-ceph-'))
  const cluster = await createCluster(join(scratch, 'cluster'))
  const records = DAEMONS.map(daemon => record(pidOf(cluster.folder, daemon) ?? 0, scratch))
  return {
    ...cluster,
    async [Symbol.asyncDispose]() {
      await removeCluster(cluster)
      await rm(scratch, { recursive: true, force: true })
      for (const drop of records) drop()
    },
  }
}
