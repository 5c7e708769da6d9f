/** Backups of images into Ceph by the command line and back, bit by bit, on each kind of bucket, and while its daemons are killed. */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Daemon } from '../../scripts/ceph/daemons.ts'
import { MiB } from '../../src/core/limits.ts'
import { type BucketKind, cephStore, killDaemon, restartCeph } from '../doubles/ceph.ts'
import { type CephCommandLine, cephCommandLine } from '../doubles/ceph-command-line.ts'
import type { ProxiedRequest } from '../doubles/chaos-proxy.ts'
import { changeImage, digestOf, makeImage } from '../doubles/disk-image.ts'
import { cephLacking } from '../doubles/own-ceph.ts'

const SIZE = 128 * MiB + 512

/** Everything authenticates, the disk is what it was, and nobody is at work any more. */
async function checkRestored(t: CephCommandLine, point: string, digest: string): Promise<void> {
  const { json } = await t.lifeboat('verify --all')
  assert.deepEqual((json as { problems: unknown[] }).problems, [])
  await t.lifeboat(`restore ${point}/vda --output ${t.cli.at('out.raw')} --force`)
  assert.equal(await digestOf(t.cli.at('out.raw')), digest, 'restored bit by bit')
  const left = (await t.keys()).filter(key => /\/(leases|pins|fences|forgotten|probe)\//.test(key))
  assert.deepEqual(left, [], 'nobody is at work any more, and nothing was given up')
}

suite('a repository on Ceph', { skip: cephLacking }, () => {
  const kinds: [name: string, kind: BucketKind, honoured: object][] = [
    ['a plain bucket', {}, { conditionalPut: true, objectLock: false, versioning: false }],
    ['a versioned bucket', { versioning: true }, { conditionalPut: false, objectLock: false, versioning: true }],
    ['a bucket with Object Lock', { objectLock: true }, { conditionalPut: false, objectLock: true, versioning: true }],
  ]
  for (const [name, kind, honoured] of kinds)
    test(`backup, increment, verify and restore in ${name}, and init records what it honours`, async () => {
      await using t = await cephCommandLine(kind)
      const init = await t.lifeboat('init')
      const { url, ...found } = (init.json as { store: { url: string } }).store
      assert.ok(url.startsWith(`s3://${t.bucket}/vms`))
      assert.deepEqual(found, honoured)
      const image = t.cli.at('disk.raw')
      const first = await makeImage(image, SIZE)
      await t.lifeboat(`backup vm --image vda=${image}`)
      const second = await changeImage(image, 33 * MiB, 3 * MiB)
      await t.lifeboat(`backup vm --image vda=${image}`)
      await checkRestored(t, 'vm@latest', second)
      await checkRestored(t, 'vm@latest~1', first)
      await using store = await cephStore(t.bucket)
      const versions = await Array.fromAsync(store.versioned?.versions('') ?? [])
      const stray = versions.filter(({ key, isLatest }) => !isLatest || /\/(leases|pins|probe)\//.test(key))
      assert.deepEqual(stray, [], 'of what was removed no version is left')
    })

  /** Kills the daemon when the so-manieth request of a kind goes by, and starts it again after a while. */
  function killing(daemon: Daemon, isMeant: (request: ProxiedRequest) => boolean, nth: number) {
    const kill = { armed: false, seen: 0, done: undefined as Promise<void> | undefined, atRequest: 0 }
    return {
      kill,
      draw(request: ProxiedRequest, number: number): undefined {
        if (!kill.armed || !isMeant(request) || ++kill.seen !== nth) return
        kill.atRequest = number
        kill.done = (async () => {
          await killDaemon(daemon)
          await sleep(2_000)
          await restartCeph()
        })()
        kill.done.catch(() => undefined)
      },
    }
  }

  const isPack = ({ path }: ProxiedRequest): boolean => path.includes('/packs/')
  const isPackPut = (request: ProxiedRequest): boolean => request.method === 'PUT' && isPack(request)
  const isPackGet = (request: ProxiedRequest): boolean => request.method === 'GET' && isPack(request)

  for (const daemon of ['rgw', 'osd'] as const)
    test(`${daemon} is killed in mid backup and comes back: the backup rides it out, and nothing is lost`, async context => {
      const { kill, draw } = killing(daemon, isPackPut, 4)
      await using t = await cephCommandLine({}, draw)
      await t.lifeboat('init')
      const image = t.cli.at('disk.raw')
      const digest = await makeImage(image, SIZE)
      kill.armed = true
      const started = performance.now()
      await t.lifeboat(`backup vm --image vda=${image}`)
      const seconds = (performance.now() - started) / 1000
      await kill.done
      const puts = t.proxy.requests.filter(isPackPut).map(({ path }) => path)
      const repeated = puts.length - new Set(puts).size
      const after = t.proxy.requests.slice(kill.atRequest).filter(isPackPut).length
      context.diagnostic(
        `${daemon} killed at put 4 of ${new Set(puts).size} packs; ${repeated} puts repeated, ${after} after the kill, ${seconds.toFixed(1)} s`,
      )
      assert.ok(kill.done, 'it was killed')
      assert.ok(after >= 2, 'in the middle')
      if (daemon === 'rgw') assert.ok(repeated >= 1, 'the backup met the outage')
      await checkRestored(t, 'vm@latest', digest)
    })

  for (const daemon of ['rgw', 'osd'] as const)
    test(`${daemon} is killed in mid restore and comes back: the restore rides it out and writes no wrong byte`, async context => {
      const { kill, draw } = killing(daemon, isPackGet, 20)
      await using t = await cephCommandLine({}, draw)
      await t.lifeboat('init')
      const image = t.cli.at('disk.raw')
      const digest = await makeImage(image, SIZE)
      await t.lifeboat(`backup vm --image vda=${image}`)
      kill.armed = true
      const before = t.proxy.requests.length
      await t.lifeboat(`restore vm@latest/vda --output ${t.cli.at('out.raw')}`)
      await kill.done
      const gets = t.proxy.requests.slice(before).filter(isPackGet).length
      context.diagnostic(`${daemon} killed at get 20 of ${gets} in this restore`)
      assert.ok(kill.done, 'it was killed')
      assert.ok(t.proxy.requests.length > kill.atRequest + 5, 'in the middle')
      assert.equal(await digestOf(t.cli.at('out.raw')), digest)
      await checkRestored(t, 'vm@latest', digest)
    })

  test('an outage that outlasts --retry-for ends the backup with a clean error, and the next one succeeds', async context => {
    const { kill, draw } = killing('rgw', isPackPut, 3)
    await using t = await cephCommandLine({}, (request, number) => {
      draw(request, number)
      if (kill.atRequest > 0 && kill.armed) t.proxy.refuse(true)
      return undefined
    })
    await t.lifeboat('init')
    const image = t.cli.at('disk.raw')
    const digest = await makeImage(image, SIZE)
    kill.armed = true
    const failed = await t.cli.json(`--retry-for 3s backup vm --image vda=${image}`)
    await kill.done
    context.diagnostic(`backup ended with ${failed.error.code}: ${failed.error.hint}; ${t.proxy.fired.length} refusals`)
    assert.equal(failed.code, 1)
    assert.equal(failed.error.code, 'store-unreachable')
    assert.ok(t.proxy.fired.length > 0)
    kill.armed = false
    t.proxy.refuse(false)
    await t.lifeboat(`backup vm --image vda=${image}`)
    const { json } = await t.lifeboat('points')
    assert.equal((json as { points: unknown[] }).points.length, 1, 'the one that failed is no point')
    const verify = await t.lifeboat('verify --all')
    assert.deepEqual((verify.json as { problems: unknown[] }).problems, [])
    await t.lifeboat(`restore vm@latest/vda --output ${t.cli.at('out.raw')}`)
    assert.equal(await digestOf(t.cli.at('out.raw')), digest)
  })
})
