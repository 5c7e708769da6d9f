/** A void point that is whole becomes a point again, by the rules of a writer; one that is not leaves nothing behind. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError, LifeboatError } from '../../../src/core/errors.ts'
import { adoptPoint } from '../../../src/maintenance/adopt.ts'
import { readAuditLog } from '../../../src/maintenance/audit-log.ts'
import * as names from '../../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../../src/repository/open.ts'
import type { PointSummary } from '../../../src/repository/repository.ts'
import { verifyPoints } from '../../../src/repository/verify.ts'
import { DAY_MS, lockedRepository } from '../../doubles/locked-repository.ts'
import { manualClock } from '../../doubles/manual-clock.ts'
import { backup, openMemoryRepository } from '../../doubles/memory-repository.ts'
import { flipBit, keysOf, noise, repositoryFixture } from '../../doubles/repository-fixture.ts'

const chunk = 4096
const size = 150 * chunk
const disk = (seed: string, chunks = 150) => [
  { name: 'vda', size, writes: [[0, noise(seed, chunks * chunk)] as const] },
]

/** A VM whose second point is void: a collector took its lease for dead. */
async function withVoid() {
  const fixture = await repositoryFixture()
  const { repository, writePoint } = fixture
  const first = await writePoint({ disks: disk('a') })
  const [basePack = ''] = keysOf(fixture.store, 'packs/')
  const second = await writePoint({ base: first.id, disks: disk('b', 40) })
  const { lease, sequence } = await repository.manifest(second)
  const fence = names.fenceKey(lease, '00000000000000cc')
  await repository.reading.control.put('fence', fence, { who: 'gc@b', when: 'w', manifest: second.key })
  const point = (await repository.points({ all: true })).find(({ id }) => id === second.id)
  assert.equal(point?.state, 'void')
  const ownPack = keysOf(fixture.store, 'packs/').find(key => key !== basePack) ?? ''
  return { ...fixture, first, second: point, sequence, basePack, ownPack }
}

const adopt = (repository: OpenedRepository, point: PointSummary) => adoptPoint(repository, { point, who: 'a@b' })

async function refuses(repository: OpenedRepository, point: PointSummary, code: string): Promise<void> {
  await assert.rejects(adopt(repository, point), error => isLifeboatError(error) && error.code === code)
}

const COORDINATION = /^(leases|fences|forgotten|points)\//
const state = (keys: readonly string[]) => keys.filter(key => COORDINATION.test(key))

test('it is committed under a new id, with its place in the order of points, and everything is read', async () => {
  const { repository, open, store, first, second, sequence, writePoint } = await withVoid()
  const { manifest, from, checked } = await adopt(repository, second)
  assert.equal(from, second.id)
  assert.ok(checked > 150, `${checked} records`)
  const points = await repository.points()
  assert.deepEqual(
    points.map(({ id }) => id),
    [first.id, manifest.point],
  )
  assert.deepEqual([manifest.sequence, manifest.previous?.point, manifest.adoptedFrom], [sequence, first.id, second.id])
  assert.deepEqual((await verifyPoints(await open(), { points })).problems, [])
  assert.deepEqual(keysOf(store, 'leases/'), [])
  const { entries } = await readAuditLog(repository.reading, { limit: 9 })
  assert.deepEqual(entries.map(({ action }) => action).sort(), ['adopt', 'forget'])
  assert.deepEqual(
    (await repository.points({ all: true })).map(({ state }) => state).sort(),
    ['committed', 'committed', 'forgotten'],
    'nobody is told of the old one any more',
  )
  const next = await writePoint({ base: manifest.point, disks: disk('c', 10) })
  const { sequence: after, previous } = await repository.manifest(next)
  assert.deepEqual([after, previous?.point], [sequence + 1, manifest.point])
  await refuses(repository, second, 'point-forgotten')
  // Where that mark was lost, the other point is found.
  for (const key of keysOf(store, 'forgotten/')) store.tamper(key, undefined)
  await refuses(repository, second, 'usage')
})

test('where locks are promised, all that it needs is locked for as long when it counts; what cannot be locked makes no point', async () => {
  const { open, store, clock, lock } = await lockedRepository()
  const repository = await open()
  const image = noise('locked', 30 * chunk)
  const { lease } = await backup(repository, { number: 1, disks: [{ name: 'vda', image }] })
  const [point] = await repository.points()
  const fence = { who: 'gc@b', when: 'w', manifest: point!.key }
  await repository.reading.control.put('fence', names.fenceKey(lease, '00000000000000cc'), fence)
  await clock.advance(20 * DAY_MS)
  let refused = 0
  const retain = async () => {
    refused++
    throw new LifeboatError('store-denied', 'no right to PutObjectRetention')
  }
  const poor = await open({ ...store, versioned: { ...store.versioned, retain } })
  await refuses(poor, point!, 'store-denied')
  assert.ok(refused > 0)
  assert.equal((await repository.points()).length, 0)
  const { manifest } = await adopt(await open(), point!)
  const needed = keysOf(store, '').filter(
    key => /^(packs|meta|keys)\/|^config$/.test(key) || key.includes(manifest.point),
  )
  assert.ok(needed.filter(key => key.startsWith('packs/') || key.startsWith('points/')).length >= 2)
  for (const key of needed) {
    const { retainUntil } = await store.versioned.lockOf(key)
    assert.ok(retainUntil && retainUntil.getTime() >= clock.now().getTime() + lock.forMs, key)
  }
  await assert.rejects(
    adoptPoint(await openMemoryRepository(store, { seed: 'wrong', clock: manualClock('2027-01-01T00:00:00.000Z') }), {
      point: point!,
      who: 'a@b',
    }),
    error => isLifeboatError(error, 'clock-skew'),
  )
})

test('what is not whole, condemned, forgotten or not void at all is refused, and nothing is left behind', async () => {
  const { repository, open, store, first, second, basePack, ownPack } = await withVoid()
  const { control } = repository.reading
  const whole = store.snapshot()
  const run = { forget: [], condemned: [], dead: {}, sources: {} }
  const { pack } = names.parsePackKey(basePack)!
  const cases: readonly (readonly [string, () => void | Promise<void>])[] = [
    ['corrupt-object', () => flipBit(store, basePack, 149 * (chunk + 20) + 30)],
    ['missing-object', () => store.tamper(basePack, undefined)],
    ['missing-object', () => store.tamper(ownPack, undefined)],
    ['not-committed', () => control.put('gc', names.gcKey('00000000000000dd'), { ...run, condemned: [ownPack] })],
    ['not-committed', () => control.put('gc', names.gcKey('00000000000000dd'), { ...run, dead: { [pack]: [149] } })],
    ['not-committed', () => store.tamper(names.gcKey('00000000000000dd'), new Uint8Array(50))],
    [
      'point-forgotten',
      () => control.put('forgotten', names.forgottenKey(second.id), { who: 'a', when: 'b', why: 'c' }),
    ],
    ['no-such-point', () => store.tamper(second.key, undefined)],
  ]
  for (const [code, damage] of cases) {
    await damage()
    const before = keysOf(store, '')
    await refuses(await open(), second, code)
    assert.deepEqual(state(keysOf(store, '')), state(before), code)
    for (const key of keysOf(store, '')) if (!whole.has(key)) store.tamper(key, undefined)
    for (const [key, { bytes }] of whole) store.tamper(key, bytes)
  }
  await refuses(repository, first, 'usage')
})

test('what an open run condemns and the point does not need may go, and the point is adopted all the same', async () => {
  const { repository, second, basePack } = await withVoid()
  const { pack } = names.parsePackKey(basePack)!
  // The first 40 chunks were replaced by the second point.
  const dead = Array.from({ length: 40 }, (_, slot) => slot)
  await repository.reading.control.put('gc', names.gcKey('00000000000000dd'), {
    forget: [],
    condemned: [],
    dead: { [pack]: dead },
    sources: {},
  })
  await adopt(repository, second)
  assert.equal((await repository.points()).length, 2)
})

test('a collector that takes the adoption for dead makes it void, and it is marked as given up', async () => {
  const { open, store, second } = await withVoid()
  let fenced = 0
  const repository = await open({
    ...store,
    async put(key, body, options) {
      const receipt = await store.put(key, body, options)
      if (key.startsWith('points/')) {
        const [lease = ''] = keysOf(store, 'leases/')
        store.tamper(`fences/${lease.slice('leases/'.length)}/00000000000000ee`, new Uint8Array(3))
        fenced++
      }
      return receipt
    },
  })
  await refuses(repository, second, 'not-committed')
  assert.equal(fenced, 1, 'the fault fired')
  assert.equal((await repository.points()).length, 1)
  assert.equal(keysOf(store, 'fences/').filter(key => key.endsWith('/self')).length, 1)
  assert.equal(keysOf(store, 'forgotten/').length, 1)
  assert.deepEqual(keysOf(store, 'leases/'), [])
})
