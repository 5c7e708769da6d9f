/**
 * A Ceph cluster for people who try something against it: `node scripts/ceph.ts start [FOLDER]`, which prints what to
 * export, `stop`, which keeps the data, and `remove`. The slow tests find it by LIFEBOAT_CEPH and start one where it is unset.
 */
import { existsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createCluster, existingCluster, removeCluster, startCluster, stopCluster } from './ceph/cluster.ts'

const [verb = '', folder = join(tmpdir(), 'lifeboat-ceph')] = process.argv.slice(2)
switch (verb) {
  case 'start': {
    const cluster = existsSync(folder) ? await existingCluster(folder) : await createCluster(folder)
    await startCluster(cluster)
    const { accessKeyId, secretAccessKey } = cluster.credentials
    process.stdout.write(`export LIFEBOAT_CEPH=${folder}
export AWS_ACCESS_KEY_ID=${accessKeyId} AWS_SECRET_ACCESS_KEY=${secretAccessKey}
# s3://BUCKET?endpoint=${cluster.endpoint}
`)
    break
  }
  case 'stop':
    await stopCluster({ folder })
    break
  case 'remove':
    await removeCluster({ folder })
    break
  default:
    process.stderr.write('Usage: node scripts/ceph.ts start|stop|remove [FOLDER]\n')
    process.exitCode = 2
}
