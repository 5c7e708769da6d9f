import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type BackupRequest, type BackupResult, backupVm } from '../../../src/backup/backup-vm.ts'
import { diffOfDisk } from '../../../src/cli/changed-since.ts'
import { LifeboatError } from '../../../src/core/errors.ts'
import { type PointId, pointId } from '../../../src/core/ids.ts'
import { seededRandom } from '../../../src/core/random.ts'
import type { OpenedRepository } from '../../../src/repository/open.ts'
import { manualClock } from '../../doubles/manual-clock.ts'
import {
  keysOf,
  newMemoryRepository,
  openMemoryRepository,
  readBack,
  summaryOf,
} from '../../doubles/memory-repository.ts'
import { type ScriptedHypervisor, scriptedHypervisor } from '../../doubles/scripted-hypervisor.ts'

const CHUNK = 4096

async function setUp(seed = 'backup') {
  const store = await newMemoryRepository({ chunkSize: CHUNK })
  const clock = manualClock()
  const repository = await openMemoryRepository(store, { seed, clock })
  const hypervisor = scriptedHypervisor()
  const alarms: string[] = []
  const random = seededRandom(`${seed}/points`)
  const run = (overrides: Partial<BackupRequest> = {}): Promise<BackupResult> =>
    backupVm({
      vm: 'vm',
      hypervisor,
      repository,
      clock,
      random,
      kind: 'incremental',
      fleecingDir: '/nowhere',
      alarm: message => alarms.push(message),
      ...overrides,
    })
  return { store, clock, repository, hypervisor, alarms, run }
}

const noise = (seed: string, chunks: number): Uint8Array => seededRandom(seed)(chunks * CHUNK)

/** 100 chunks: 0-9 noise, the rest zeros. */
function imageWithNoise(): Uint8Array {
  const bytes = new Uint8Array(100 * CHUNK)
  bytes.set(noise('image', 10))
  return bytes
}

const full = { kind: 'full', reason: 'first-backup' } as const
const since = (
  hypervisor: ScriptedHypervisor,
  bytes: Uint8Array,
  base: PointId,
  ranges: readonly [number, number][],
) => {
  hypervisor.disks = [
    {
      name: 'vda',
      bytes,
      base,
      changes: { kind: 'incremental', ranges: ranges.map(([offset, length]) => ({ offset, length })) },
    },
  ]
}

async function isEqual(repository: OpenedRepository, point: PointId, bytes: Uint8Array): Promise<void> {
  assert.ok(Buffer.from(await readBack(repository, point, 'vda')).equals(bytes), `point ${point} holds the image`)
}

test('a full reads no hole, an increment reads what changed and the audit, and both restore', async () => {
  const { repository, hypervisor, run } = await setUp()
  const image = imageWithNoise()
  hypervisor.disks = [{ name: 'vda', bytes: image, changes: full }]
  const first = await run()
  assert.equal(first.kind, 'full')
  assert.deepEqual(
    { ...first.disks[0], bytesStored: 0 },
    {
      name: 'vda',
      size: image.length,
      reason: 'first-backup',
      bytesRead: 10 * CHUNK,
      bytesChanged: 10 * CHUNK,
      bytesNew: 10 * CHUNK,
      bytesStored: 0,
      bytesAudited: 0,
    },
  )
  await isEqual(repository, first.point, image)

  const changed = image.slice()
  changed.set(noise('change', 1), 50 * CHUNK)
  changed.fill(0, 0, CHUNK)
  hypervisor.bytesRead.clear()
  since(hypervisor, changed, first.point, [
    [0, CHUNK],
    [50 * CHUNK + 100, 200],
  ])
  const second = await run()
  assert.equal(second.kind, 'incremental')
  assert.equal(second.base, first.point)
  const [disk] = second.disks
  assert.equal(disk?.bytesRead, CHUNK, 'the chunk that became zeros is not read')
  assert.equal(disk?.bytesChanged, 2 * CHUNK)
  assert.equal(disk?.bytesNew, CHUNK)
  assert.equal(disk?.bytesAudited, CHUNK)
  assert.equal(hypervisor.bytesRead.get('vda'), 2 * CHUNK)
  await isEqual(repository, second.point, changed)
  await isEqual(repository, first.point, image)
  assert.deepEqual(hypervisor.events, ['capture', 'committed', 'released', 'capture', 'committed', 'released'])
})

test('what the hypervisor said of the VM, its firmware variables and what was left out stand in the manifest', async () => {
  const { repository, hypervisor, run } = await setUp()
  hypervisor.disks = [{ name: 'vda', bytes: imageWithNoise(), changes: full }]
  const { point, omitted } = await run()
  const manifest = await repository.manifest(await summaryOf(repository, point))
  assert.equal(manifest.description.machine, 'pc')
  assert.deepEqual(manifest.description.firmware, { kind: 'uefi' })
  assert.deepEqual([...(manifest.firmwareVariables ?? [])], [1, 2, 3])
  assert.deepEqual(manifest.omitted, omitted)
  assert.deepEqual(manifest.disks[0]?.description, { name: 'vda', size: 100 * CHUNK, bus: 'virtio-blk' })
})

test('a lying bitmap raises an alarm, the whole disk is compared, and the point is right', async () => {
  const { repository, hypervisor, alarms, run } = await setUp()
  const image = imageWithNoise()
  hypervisor.disks = [{ name: 'vda', bytes: image, changes: full }]
  const first = await run()
  // Everything changes, and the bitmap says one chunk: whichever clean chunk the audit takes, it is caught.
  const changed = noise('other', 100)
  since(hypervisor, changed, first.point, [[0, CHUNK]])
  const second = await run()
  assert.equal(second.disks[0]?.reason, 'bitmap-untrue')
  assert.equal(second.kind, 'full', 'by what was read')
  assert.equal(alarms.length, 1)
  assert.match(alarms[0] ?? '', /disk vda: a chunk that the dirty bitmap calls clean has changed/)
  const manifest = await repository.manifest(await summaryOf(repository, second.point))
  assert.equal(manifest.disks[0]?.reason, 'bitmap-untrue')
  await isEqual(repository, second.point, changed)
})

test('a base that the repository no longer holds means a full read of that disk, with the reason', async () => {
  const { repository, hypervisor, run } = await setUp()
  const image = imageWithNoise()
  hypervisor.disks = [{ name: 'vda', bytes: image, changes: full }]
  await run()
  since(hypervisor, image, pointId('00000000000000aa'), [[0, CHUNK]])
  const second = await run()
  assert.equal(second.disks[0]?.reason, 'base-gone')
  assert.equal(second.kind, 'full')
  assert.equal(second.disks[0]?.bytesNew, 0, 'what is known is not stored again')
  await isEqual(repository, second.point, image)
})

test('--full reads all and stores nothing that is known', async () => {
  const { repository, hypervisor, run } = await setUp()
  const image = imageWithNoise()
  hypervisor.disks = [{ name: 'vda', bytes: image, changes: full }]
  await run()
  hypervisor.disks = [{ name: 'vda', bytes: image, changes: { kind: 'full', reason: 'requested' } }]
  const second = await run({ kind: 'full' })
  assert.equal(hypervisor.request?.kind, 'full')
  assert.equal(second.kind, 'full')
  assert.equal(second.disks[0]?.bytesRead, 10 * CHUNK)
  assert.equal(second.disks[0]?.bytesNew, 0)
  await isEqual(repository, second.point, image)
})

test('a differential point holds the changes since the chosen point, not only since the last', async () => {
  const { repository, hypervisor, run } = await setUp()
  const image = imageWithNoise()
  hypervisor.disks = [{ name: 'vda', bytes: image, changes: full }]
  const first = await run()
  const second = image.slice()
  second.set(noise('two', 1), 20 * CHUNK)
  since(hypervisor, second, first.point, [[20 * CHUNK, CHUNK]])
  const middle = await run()
  const third = second.slice()
  third.set(noise('three', 1), 40 * CHUNK)
  since(hypervisor, third, middle.point, [[40 * CHUNK, CHUNK]])
  const result = await run({
    kind: {
      differentialTo: first.point,
      changedSince: async (older, newer, disk) => {
        const [a, b] = [await summaryOf(repository, older), await summaryOf(repository, newer)]
        const [before, after] = [await repository.manifest(a), await repository.manifest(b)]
        return [...(await diffOfDisk(repository, before, after, disk)).extents]
      },
    },
  })
  assert.equal(result.kind, 'differential')
  assert.equal(result.base, first.point)
  assert.equal(result.disks[0]?.bytesRead, 2 * CHUNK)
  assert.equal(result.disks[0]?.bytesChanged, 2 * CHUNK)
  await isEqual(repository, result.point, third)
})

test('a view that breaks ends the backup with its own reason: bitmaps stay, the guest is free, nothing is committed', async () => {
  const { repository, hypervisor, store, run } = await setUp()
  hypervisor.disks = [{ name: 'vda', bytes: noise('large', 2000), changes: full }]
  hypervisor.breakAfter = { bytes: 1 << 20, error: new LifeboatError('fleecing-full', 'the fleecing image is full') }
  await assert.rejects(run(), { code: 'fleecing-full' })
  assert.deepEqual(hypervisor.events, ['capture', 'released'])
  assert.deepEqual(await repository.points({ vm: 'vm' }), [])
  assert.deepEqual(keysOf(store, 'leases/'), [], 'the lease is given back')
  hypervisor.breakAfter = undefined
  await isEqual(repository, (await run()).point, noise('large', 2000))
})

test('Ctrl-C during the copy gives the point up and frees the guest', async () => {
  const { repository, hypervisor, run } = await setUp()
  hypervisor.disks = [{ name: 'vda', bytes: noise('large', 2000), changes: full }]
  const stop = new AbortController()
  const interrupted = new LifeboatError('interrupted', 'stopped')
  await assert.rejects(run({ signal: stop.signal, progress: () => stop.abort(interrupted) }), { code: 'interrupted' })
  assert.deepEqual(hypervisor.events, ['capture', 'released'])
  assert.deepEqual(await repository.points({ vm: 'vm' }), [])
})

test('a repository that does not answer is noticed before the guest is touched', async () => {
  const { repository, hypervisor, run } = await setUp()
  const away: OpenedRepository = {
    ...repository,
    beginPoint: () => Promise.reject(new LifeboatError('store-unreachable', 'no answer')),
  }
  await assert.rejects(run({ repository: away }), { code: 'store-unreachable' })
  assert.deepEqual(hypervisor.events, [])
})

test('a point sorts after the one before it even where the clock stands still', async () => {
  const { repository, hypervisor, run } = await setUp()
  hypervisor.disks = [{ name: 'vda', bytes: imageWithNoise(), changes: full }]
  const made: PointId[] = []
  for (let n = 0; n < 4; n++) made.push((await run()).point)
  assert.deepEqual(
    (await repository.points({ vm: 'vm' })).map(({ id }) => id),
    made,
  )
})

test('a whole backup run twice with one seed gives identical objects', async () => {
  const runs = []
  for (let n = 0; n < 2; n++) {
    const { store, hypervisor, run } = await setUp('same')
    const image = noise('large', 6000)
    hypervisor.disks = [
      { name: 'vda', bytes: image, changes: full },
      { name: 'vdb', bytes: imageWithNoise(), changes: full },
    ]
    const first = await run()
    const changed = image.slice()
    changed.set(noise('change', 300), 100 * CHUNK)
    since(hypervisor, changed, first.point, [[100 * CHUNK, 300 * CHUNK]])
    await run()
    runs.push(store.snapshot())
  }
  const [one, two] = runs
  assert.deepEqual([...(one?.keys() ?? [])].sort(), [...(two?.keys() ?? [])].sort())
  for (const [key, { bytes }] of one ?? [])
    assert.ok(Buffer.from(bytes).equals(two?.get(key)?.bytes ?? Buffer.alloc(0)), `${key} is the same`)
})
