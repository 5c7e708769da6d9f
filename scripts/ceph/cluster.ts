/**
 * A whole Ceph cluster on this host, in one folder, on 127.0.0.1: what the S3 code is tested against. Takes some 20 s to
 * start, 0.7 GiB of memory, and as much disk as is stored.
 */
import { randomUUID } from 'node:crypto'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type ClusterPorts, cephConf, monitorAddress } from './conf.ts'
import { command, DAEMONS, endDaemon, pidOf, startDaemon } from './daemons.ts'

export interface CephCluster {
  readonly folder: string
  readonly endpoint: string
  readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string }
}

const UP_MS = 120_000

/** In a folder that is not there yet. */
export async function createCluster(name: string): Promise<CephCluster> {
  const folder = resolve(name)
  for (const part of ['run', 'log', 'mon/a', 'mgr/x', 'osd0', 'rgw'])
    await mkdir(join(folder, part), { recursive: true })
  const ports = await freePorts()
  const fsid = randomUUID()
  await writeFile(join(folder, 'ceph.conf'), cephConf(folder, fsid, ports))
  try {
    await startMonitor(folder, fsid, ports)
    await startManager(folder)
    await startOsd(folder)
    const cluster = await startGateway(folder, ports)
    await writeFile(join(folder, 'cluster.json'), `${JSON.stringify(cluster, null, 2)}\n`)
    return cluster
  } catch (error) {
    await removeCluster({ folder })
    throw error
  }
}

/** One that was created before, whether or not it runs. */
export async function existingCluster(folder: string): Promise<CephCluster> {
  return JSON.parse(await readFile(join(folder, 'cluster.json'), 'utf8'))
}

/** Starts what does not run, after a kill or a stop, and waits until the gateway serves. */
export async function startCluster(cluster: CephCluster): Promise<void> {
  for (const daemon of DAEMONS)
    if (pidOf(cluster.folder, daemon) === undefined) await startDaemon(cluster.folder, daemon)
  await untilServed(cluster)
}

export async function stopCluster({ folder }: Pick<CephCluster, 'folder'>): Promise<void> {
  for (const daemon of [...DAEMONS].reverse()) await endDaemon(folder, daemon, 'SIGTERM')
}

export async function removeCluster({ folder }: Pick<CephCluster, 'folder'>): Promise<void> {
  // What is removed need not be stopped in order.
  for (const daemon of [...DAEMONS].reverse()) await endDaemon(folder, daemon, 'SIGKILL')
  await rm(folder, { recursive: true, force: true })
}

const ceph = (folder: string, ...args: string[]): Promise<string> =>
  command('ceph', '-c', join(folder, 'ceph.conf'), '--connect-timeout', '60', ...args)

async function startMonitor(folder: string, fsid: string, { first }: ClusterPorts): Promise<void> {
  const [keyring, map] = [join(folder, 'keyring'), join(folder, 'monmap')]
  const all = (...daemons: string[]) => daemons.flatMap(daemon => ['--cap', daemon, 'allow *'])
  await command('ceph-authtool', '--create-keyring', keyring, '--gen-key', '-n', 'mon.', ...all('mon'))
  await command('ceph-authtool', keyring, '--gen-key', '-n', 'client.admin', ...all('mon', 'osd', 'mds', 'mgr'))
  const address = ['--addv', 'a', monitorAddress(first), '--enable-all-features']
  await command('monmaptool', '--create', '--clobber', '--fsid', fsid, ...address, map)
  const mkfs = ['--mkfs', '--monmap', map, '--keyring', keyring]
  await command('ceph-mon', '-c', join(folder, 'ceph.conf'), '-i', 'a', ...mkfs)
  await startDaemon(folder, 'mon')
}

async function startManager(folder: string): Promise<void> {
  const caps = ['mon', 'allow profile mgr', 'osd', 'allow *', 'mds', 'allow *']
  await writeFile(join(folder, 'mgr/x/keyring'), await ceph(folder, 'auth', 'get-or-create', 'mgr.x', ...caps))
  await startDaemon(folder, 'mgr')
}

async function startOsd(folder: string): Promise<void> {
  const uuid = randomUUID()
  const secret = (await command('ceph-authtool', '--gen-print-key')).trim()
  const [news, keyring] = [join(folder, 'osd0/new.json'), join(folder, 'osd0/keyring')]
  await writeFile(news, JSON.stringify({ cephx_secret: secret }))
  await ceph(folder, 'osd', 'new', uuid, '0', '-i', news)
  await rm(news)
  await command('ceph-authtool', '--create-keyring', keyring, '--name', 'osd.0', '--add-key', secret)
  const mkfs = ['--mkfs', '--osd-uuid', uuid, '--keyring', keyring]
  await command('ceph-osd', '-c', join(folder, 'ceph.conf'), '-i', '0', ...mkfs)
  await startDaemon(folder, 'osd')
  await until('the OSD is up', async () => (await ceph(folder, 'osd', 'stat')).includes('1 osds: 1 up'))
}

async function startGateway(folder: string, { gateway }: ClusterPorts): Promise<CephCluster> {
  const caps = ['mon', 'allow rw', 'osd', 'allow rwx', 'mgr', 'allow rw']
  await writeFile(join(folder, 'rgw.keyring'), await ceph(folder, 'auth', 'get-or-create', 'client.rgw.a', ...caps))
  const credentials = { accessKeyId: 'LIFEBOATTESTKEY00001', secretAccessKey: randomUUID() + randomUUID().slice(0, 4) }
  // It also makes the zone and its pools, which takes 10 s.
  const keys = ['--access-key', credentials.accessKeyId, '--secret-key', credentials.secretAccessKey]
  const user = [
    'user',
    'create',
    '--uid',
    'lifeboat',
    '--display-name',
    'Lifeboat tests',
    '--max-buckets',
    '0',
    ...keys,
  ]
  await command('radosgw-admin', '-c', join(folder, 'ceph.conf'), ...user)
  await startDaemon(folder, 'rgw')
  const cluster = { folder, endpoint: `http://127.0.0.1:${gateway}`, credentials }
  await untilServed(cluster)
  return cluster
}

/** Any answer of the gateway means that it reached its pools when it started. */
const untilServed = ({ endpoint }: CephCluster): Promise<void> =>
  until('the gateway answers', async () => {
    const answer = await fetch(endpoint, { signal: AbortSignal.timeout(5_000) }).catch(() => undefined)
    await answer?.body?.cancel()
    return answer !== undefined
  })

async function until(what: string, isTrue: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + UP_MS
  while (!(await isTrue())) {
    if (performance.now() > deadline) throw new Error(`waited ${UP_MS / 1000} s until ${what}`)
    await sleep(200)
  }
}

/** A block of ports below those that the system hands out, so that the daemons' own ranges do not meet other programs. */
async function freePorts(): Promise<ClusterPorts> {
  for (let attempt = 0; attempt < 50; attempt++) {
    const first = 12_000 + 200 * Math.floor(Math.random() * 90)
    const gateway = first + 5
    if ((await Promise.all([first, first + 1, gateway, first + 10].map(isFree))).every(Boolean))
      return { gateway, first }
  }
  throw new Error('no free ports for a cluster')
}

const isFree = (port: number): Promise<boolean> =>
  new Promise(resolve => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
