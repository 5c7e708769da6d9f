/** Domains of their own, and what is left when their keys are destroyed. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LifeboatError } from '../../../src/core/errors.ts'
import type { PointId } from '../../../src/core/ids.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { applyDestroy, planDestroy, shreddedDomains } from '../../../src/maintenance/destroy-keys.ts'
import { startEpochs } from '../../../src/maintenance/epochs.ts'
import { addHold } from '../../../src/maintenance/hold.ts'
import { maintenanceContext } from '../../../src/maintenance/maintenance.ts'
import { pointImage } from '../../../src/repository/image.ts'
import { domainPrefix, parsePackKey } from '../../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../../src/repository/open.ts'
import { type MemoryStore, memoryStore } from '../../../src/storage/memory.ts'
import type { ObjectStore } from '../../../src/storage/object-store.ts'
import { intercepted } from '../../doubles/intercepted-store.ts'
import { DAY_MS, lockedRepository } from '../../doubles/locked-repository.ts'
import {
  type BackupInput,
  commitBackup,
  keysOf,
  newMemoryRepository,
  openMemoryRepository,
  pointNumber,
  readBack,
  summaryOf,
  timeNumber,
  writeDisk,
} from '../../doubles/memory-repository.ts'

const C = 4096
const image = seededRandom('image')(50 * C)
let hosts = 0
const open = (store: ObjectStore) => openMemoryRepository(store, { seed: `host ${hosts++}` })
const contextOf = (repository: OpenedRepository) => ({
  ...maintenanceContext(repository, 'jane@box'),
  defaultDomain: repository.domain,
})
const begin = (repository: OpenedRepository, vm: string, number: number, ownDomain: boolean, bases: PointId[] = []) =>
  repository.beginPoint({
    vm,
    point: pointNumber(number),
    takenAt: timeNumber(number),
    kind: 'backup',
    bases,
    ownDomain,
  })

async function backup(
  repository: OpenedRepository,
  vm: string,
  { number, ownDomain = false, base }: { number: number; ownDomain?: boolean; base?: PointId },
) {
  await using writer = await begin(repository, vm, number, ownDomain, base ? [base] : [])
  const input: BackupInput['disks'][number] = { name: 'vda', image, base }
  const stats = await writeDisk(repository, writer, input)
  return { manifest: await commitBackup(writer), stats }
}

/** VM 'web' in the default domain, 'tenant' in its own with points of two epochs; both have the same contents. */
async function prepared(): Promise<{ store: MemoryStore; repository: OpenedRepository }> {
  const store = await newMemoryRepository()
  await fill(await open(store))
  return { store, repository: await open(store) }
}

async function fill(repository: OpenedRepository): Promise<void> {
  await backup(repository, 'web', { number: 1 })
  await backup(repository, 'tenant', { number: 2, ownDomain: true })
  await startEpochs(contextOf(repository))
  await backup(repository, 'tenant', { number: 3 })
}

const destroy = async (repository: OpenedRepository, vm = 'tenant') => {
  const plan = await planDestroy(contextOf(repository), vm)
  await applyDestroy(contextOf(repository), plan)
  return plan
}

test('a VM with a domain of its own shares nothing with others and stays there unasked', async () => {
  const { store, repository } = await prepared()
  const domains = async (vm: string) => {
    const points = await repository.points({ vm })
    return new Set(await Promise.all(points.map(async point => (await repository.manifest(point)).domain)))
  }
  const [own] = await domains('tenant')
  assert.equal((await domains('tenant')).size, 1)
  assert.deepEqual(await domains('web'), new Set([repository.domain]))
  assert.notEqual(own, repository.domain)
  // Nothing of 'web' was reused, nor of the tenant's by the next in the default domain.
  const stored = keysOf(store, 'packs/').map(key => parsePackKey(key)!.domain)
  assert.ok(stored.includes(own!) && stored.includes(repository.domain))
  const { stats } = await backup(repository, 'second', { number: 4 })
  assert.equal(stats.bytesNew, 50 * C, 'epoch 1 of the default domain is empty')
  const next = await backup(await open(store), 'tenant', { number: 5, ownDomain: true, base: pointNumber(3) })
  assert.equal(next.manifest.domain, own)
  assert.equal(next.stats.bytesNew, 0)
  for (const n of [1, 2, 3, 4, 5]) assert.deepEqual(await readBack(repository, pointNumber(n), 'vda'), image)
})

test('only a VM without points can get a domain of its own', async () => {
  const { repository } = await prepared()
  await assert.rejects(begin(repository, 'web', 9, true), { code: 'usage' })
  assert.deepEqual(keysOf((await prepared()).store, 'leases/'), [])
})

test('after its keys are destroyed nothing of the VM can be read with the repository key; others are untouched', async () => {
  const { store, repository } = await prepared()
  const [point] = await repository.points({ vm: 'tenant' })
  const { domain } = await repository.manifest(point!)
  const before = new Map(store.snapshot())
  const plan = await destroy(repository)
  assert.deepEqual(
    plan.points.map(({ id }) => id),
    [2, 3].map(pointNumber),
  )
  assert.deepEqual(
    plan.objects,
    [0, 1].map(epoch => `keys/${domain}/${epoch}`),
  )
  assert.deepEqual(keysOf(store, domainPrefix(domain)), [])

  // A fresh host that ignores all marks: it has the repository key, the manifests and all packs.
  const raider = memoryStore({ entries: [...store.snapshot()].filter(([key]) => !key.startsWith('forgotten/')) })
  for (const n of [2, 3])
    await assert.rejects(readBack(await open(raider), pointNumber(n), 'vda'), (error: LifeboatError) => {
      assert.equal(error.code, 'missing-object')
      assert.match(String(error.details.object), new RegExp(`^keys/${domain}/`))
      return true
    })
  assert.deepEqual(await readBack(await open(store), pointNumber(1), 'vda'), image)
  // No key of the domain is left in any object, and no piece of the disk in the clear.
  for (const [key, { bytes }] of store.snapshot())
    assert.equal(Buffer.from(bytes).indexOf(image.subarray(0, 64)), -1, key)
  for (const [key, object] of before)
    if (!key.startsWith('keys/')) assert.equal(store.snapshot().get(key), object, `${key} was touched`)

  const all = await repository.points({ all: true })
  assert.deepEqual(
    all.map(({ vm, state }) => `${vm} ${state}`),
    ['tenant forgotten', 'tenant forgotten', 'web committed'],
  )
  assert.deepEqual(await shreddedDomains({ store }, new Set([domain, repository.domain])), new Set([domain]))
})

test('a shredded VM that is backed up again gets new keys of its own', async () => {
  const { store, repository } = await prepared()
  const { domains } = await destroy(repository)
  const { manifest } = await backup(await open(store), 'tenant', { number: 7 })
  assert.ok(manifest.domain !== repository.domain && !domains.includes(manifest.domain))
  assert.deepEqual(await readBack(await open(store), pointNumber(7), 'vda'), image)
  const again = await destroy(await open(store))
  assert.deepEqual(again.points.length, 3)
  assert.deepEqual(
    again.forget.map(({ id }) => id),
    [pointNumber(7)],
  )
})

test('keys are not destroyed while they are shared, held, pinned or at work', async () => {
  const { store, repository } = await prepared()
  const before = keysOf(store, 'keys/')
  const refused = (vm: string, code: string) => assert.rejects(destroy(repository, vm), { code })
  await refused('web', 'usage')
  await refused('nobody', 'no-such-vm')
  const point = await summaryOf(repository, pointNumber(2))
  await using _ = await repository.openPoint(point, { pin: 'restore' })
  await refused('tenant', 'point-protected')
  await _[Symbol.asyncDispose]()
  {
    await using _writer = await begin(repository, 'tenant', 8, false)
    await refused('tenant', 'vm-busy')
  }
  await addHold(maintenanceContext(repository, 'jane@box'), point, 'trial')
  await refused('tenant', 'point-protected')
  assert.deepEqual(keysOf(store, 'keys/'), before)
  assert.deepEqual(keysOf(store, 'forgotten/'), [])
})

test('a reader that pins between the plan and the marks keeps its keys', async () => {
  const { repository } = await prepared()
  const context = contextOf(repository)
  const plan = await planDestroy(context, 'tenant')
  await using point = await repository.openPoint(await summaryOf(repository, pointNumber(3)), { pin: 'export' })
  await assert.rejects(applyDestroy(context, plan), { code: 'point-protected' })
  await using disk = pointImage(point.disk('vda'))
  const bytes = new Uint8Array(disk.size)
  await disk.readInto(bytes, 0)
  assert.deepEqual(bytes, image)
})

test('a backup that began after the plan is no point, or one that is shredded as well', async () => {
  // At each of its requests the keys may go.
  const entries = (await prepared()).store.snapshot()
  let total = 0
  let [none, shredded] = [0, 0]
  for (let k = 1; k === 1 || k <= total; k++) {
    const store = memoryStore({ entries })
    const repository = await open(store)
    const plan = await planDestroy(contextOf(repository), 'tenant')
    let asked = 0
    const racing = await open(
      intercepted(store, {
        async before() {
          if (++asked === k + 5) await applyDestroy(contextOf(repository), plan)
        },
      }),
    )
    const end = await backup(racing, 'tenant', { number: 6 }).then(
      () => 'committed',
      (error: LifeboatError) => error.code,
    )
    total = asked - 5
    const late = (await (await open(store)).points({ vm: 'tenant' })).map(({ id }) => id)
    if (end === 'committed') {
      // Before its first look at keys the VM had none any more: it then has new ones.
      if (late.length === 1) assert.deepEqual(await readBack(await open(store), late[0]!, 'vda'), image)
      else shredded++
    } else {
      none++
      assert.deepEqual(late, [], `${end} after request ${k}`)
    }
  }
  assert.ok(none > 0 && shredded > 0, `${none} not committed, ${shredded} shredded`)
})

test('killed at any change, it is run again and ends', async () => {
  const entries = (await prepared()).store.snapshot()
  let deaths = 0
  for (let k = 1; ; k++) {
    const store = memoryStore({ entries })
    let changes = 0
    const dying = intercepted(store, {
      after({ verb }) {
        if ((verb === 'put' || verb === 'delete') && ++changes >= k)
          throw new LifeboatError('store-unreachable', 'the host died')
      },
    })
    const end = await open(dying)
      .then(destroy)
      .catch(() => 'died')
    await destroy(await open(store))
    await assert.rejects(readBack(await open(store), pointNumber(3), 'vda'))
    assert.deepEqual(await readBack(await open(store), pointNumber(1), 'vda'), image)
    if (end !== 'died') break
    deaths++
  }
  assert.ok(deaths >= 5, `${deaths} deaths`)
})

test('a store that locks the keys refuses before anything is forgotten; versions go with them when the lock has ended', async () => {
  const locked = await lockedRepository()
  await fill(await locked.open())
  await assert.rejects(destroy(await locked.open()), (error: LifeboatError) => {
    assert.ok(['store-locked', 'point-protected'].includes(error.code), error.message)
    return true
  })
  assert.deepEqual(keysOf(locked.store, 'forgotten/'), [])
  locked.clock.advance(60 * DAY_MS)
  const { domains } = await destroy(await locked.open())
  for (const domain of domains)
    assert.deepEqual(await Array.fromAsync(locked.store.versioned.versions(domainPrefix(domain))), [])
})
