/** What looking around in a mount costs the store, and what is shown while the store does not answer. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LifeboatError } from '../../../src/core/errors.ts'
import { limits } from '../../../src/core/limits.ts'
import type { DirectoryNode } from '../../../src/files/file-tree.ts'
import type { StoreRequest } from '../../doubles/intercepted-store.ts'
import { passing } from '../../doubles/manual-clock.ts'
import { manyPoints } from '../../doubles/many-points.ts'
import { mountedFixture, mountedPoints } from '../../doubles/mounted-points.ts'

const COUNT = 10_000
const disks = [{ name: 'vda', size: 8192, writes: [[0, new Uint8Array(4096).fill(1)]] as const }]

async function fixtureOf(count: number, vms = 1) {
  const fixture = await mountedFixture()
  const like = await fixture.writePoint({ vm: 'vm0', takenAt: new Date('2025-12-31T00:00:00Z'), disks })
  const timeOf = (n: number) => new Date(Date.UTC(2026, 0, 1) + n * 3_600_000)
  await manyPoints(fixture, { like, count: count - 1, vmOf: n => `vm${n % vms}`, timeOf })
  return fixture
}

const verbs = (requests: readonly StoreRequest[]) =>
  Object.fromEntries([...Map.groupBy(requests, ({ verb }) => verb)].map(([verb, { length }]) => [verb, length]))

/** Every folder below, as `find` goes: a folder is looked up by its name, then listed. */
async function walk(folder: DirectoryNode): Promise<number> {
  let entries = 0
  for await (const batch of folder.list())
    for (const { name, node } of batch) {
      entries++
      if (node.kind !== 'directory') continue
      const found = await folder.lookup(name)
      assert.ok(found?.kind === 'directory')
      entries += await walk(found)
    }
  return entries
}

test('ten thousand points are listed with three requests, and attributes of each are at hand', async () => {
  const fixture = await fixtureOf(COUNT, 3)
  await using mount = await mountedPoints(fixture)
  mount.requests()
  await mount.clock.advance(limits.mountListMs)
  globalThis.gc?.()
  const before = process.memoryUsage().heapUsed
  const names = await Promise.all([0, 1, 2].map(n => mount.names(`/by-vm/vm${n}`)))
  const requests = mount.requests()
  assert.equal(names.flat().length, COUNT + 3)
  for (const ofVm of names) {
    const times = ofVm.slice(0, -1)
    assert.deepEqual(times, [...times].sort(), 'names sort by time')
  }
  await mount.node(`/by-vm/vm1/${names[1]![0]}`)
  let days = 0
  for (const day of await mount.names('/by-time')) days += (await mount.names(`/by-time/${day}`)).length
  assert.equal(days, COUNT)
  globalThis.gc?.()
  const grown = (process.memoryUsage().heapUsed - before) / 2 ** 20
  process.stdout.write(
    `${COUNT} points listed by ${JSON.stringify(verbs(requests))}; the heap grew by ${grown.toFixed(1)} MiB\n`,
  )
  assert.deepEqual(verbs(requests), { list: 3 })
})

test('whoever walks from point to point finds the next manifests read already: requests overlap', async () => {
  const fixture = await fixtureOf(100)
  let [underWay, most] = [0, 0]
  await using mount = await mountedPoints(fixture, {
    async before({ verb, key }) {
      if (verb !== 'get' || !key.startsWith('points/')) return
      most = Math.max(most, ++underWay)
      await new Promise(resolve => setTimeout(resolve, 5))
      underWay--
    },
  })
  mount.requests()
  const byVm = await mount.node('/by-vm')
  assert.ok(byVm?.kind === 'directory')
  const entries = await walk(byVm)
  const requests = verbs(mount.requests())
  process.stdout.write(`${entries} entries of 100 points: ${JSON.stringify(requests)}, at most ${most} GETs at once\n`)
  assert.equal(entries, 1 + 1 + 100 * 4)
  assert.ok(most >= 8 && most <= limits.mountManifestsAhead + 1, `${most} at once`)
  assert.equal(requests.get, 100, 'each manifest is read once')
  assert.equal(requests.put, undefined, 'nothing is pinned')
})

test('one look into one point reads one manifest', async () => {
  const fixture = await fixtureOf(50)
  await using mount = await mountedPoints(fixture)
  mount.requests()
  await mount.names('/by-vm/vm0/2026-01-01T05:00:00Z/disks')
  assert.deepEqual(verbs(mount.requests()), { get: 1 })
})

test('while the store is away known points stay, nothing is said to be absent, and it is told once', async () => {
  const fixture = await fixtureOf(3)
  let isAway = false
  let refused = 0
  await using mount = await mountedPoints(fixture, {
    before() {
      if (!isAway) return
      refused++
      throw new LifeboatError('store-unreachable', 'connection refused')
    },
  })
  await mount.names('/by-vm/vm0/latest/')
  isAway = true
  for (let round = 0; round < 3; round++) {
    await mount.clock.advance(limits.mountListMs)
    assert.equal((await mount.names('/by-vm/vm0')).length, 4)
    await assert.rejects(mount.node('/by-vm/vm1'), { code: 'store-unreachable' })
    await assert.rejects(mount.node('/by-vm/vm0/2027-01-01T00:00:00Z'), { code: 'store-unreachable' })
    await assert.rejects(mount.node('/by-time/2027-01-01'), { code: 'store-unreachable' })
    const image = await mount.file('/by-vm/vm0/latest/disks/vda.raw')
    await assert.rejects(image.open(), { code: 'store-unreachable' })
  }
  assert.ok(refused > 3, `${refused} requests were refused`)
  assert.equal(mount.troubles.length, 1, mount.troubles.join('\n'))
  isAway = false
  await mount.clock.advance(limits.mountListMs)
  assert.equal(await mount.node('/by-vm/vm1'), undefined)
  await using reader = await (await mount.file('/by-vm/vm0/latest/disks/vda.raw')).open()
  await reader.readInto(new Uint8Array(4096), 0)
  assert.equal(mount.troubles.length, 2)
})

test('a listing that hangs keeps nobody waiting who can be shown what was known, and ends with the mount', async () => {
  const fixture = await fixtureOf(3)
  let hangs = 0
  let isHanging = false
  await using mount = await mountedPoints(fixture, {
    async before({ verb }, { signal } = {}) {
      if (!isHanging || verb !== 'list') return
      hangs++
      await new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason)))
    },
  })
  isHanging = true
  await mount.clock.advance(limits.mountListMs)
  const from = mount.clock.monotonicMs()
  assert.equal((await passing(mount.clock, mount.names('/by-vm/vm0'), 500)).length, 4)
  const waitedMs = mount.clock.monotonicMs() - from
  assert.ok(waitedMs <= limits.mountListPatienceMs + 500, `${waitedMs} ms for a path of several folders`)
  assert.ok(hangs > 0, 'a listing hangs')
})

test('points that nobody uses make room for others; where all are in use the next one is refused until one is closed', async () => {
  const fixture = await fixtureOf(limits.mountPointsOpen + 2)
  await using mount = await mountedPoints(fixture)
  const names = (await mount.names('/by-vm/vm0')).slice(0, -1)
  const open = async (n: number) => await (await mount.file(`/by-vm/vm0/${names[n]}/disks/vda.raw`)).open()
  const pins = () => [...fixture.store.snapshot().keys()].filter(key => key.startsWith('pins/')).length
  const readers = []
  for (let n = 0; n < limits.mountPointsOpen; n++) readers.push(await open(n))
  const again = await open(0)
  assert.equal(pins(), limits.mountPointsOpen)
  await assert.rejects(open(limits.mountPointsOpen), { code: 'too-many-open' })
  await readers[3]![Symbol.asyncDispose]()
  readers.push(await open(limits.mountPointsOpen))
  await mount.clock.advance(1)
  assert.equal(pins(), limits.mountPointsOpen, 'the one that was closed gave its place and its pin')
  await again[Symbol.asyncDispose]()
  await readers[0]!.readInto(new Uint8Array(10), 0)
  for (const reader of readers) await reader[Symbol.asyncDispose]()
  await mount.clock.advance(limits.mountPointIdleMs)
  assert.equal(pins(), 0)
})
