/** What verify found damaged is healed by the next backup that holds it, for the points that were harmed as well. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { listDamage } from '../../../src/repository/damage-marks.ts'
import { hasLostNodes } from '../../../src/repository/healing.ts'
import { markDamaged, suspectPoints } from '../../../src/repository/mark-damaged.ts'
import type { OpenedRepository } from '../../../src/repository/open.ts'
import type { PointSummary } from '../../../src/repository/repository.ts'
import { verifyPoints } from '../../../src/repository/verify.ts'
import {
  type FixturePoint,
  flipBit,
  keysOf,
  noise,
  type RepositoryFixture,
  repositoryFixture,
} from '../../doubles/repository-fixture.ts'
import { rewritePack } from '../../doubles/rewritten-pack.ts'

const chunk = 4096
const chunks = 300
const size = chunks * chunk
const content = noise('disk', size)
const record = chunk + 20
const disk = (writes: FixturePoint['disks'][0]['writes']): FixturePoint['disks'] => [{ name: 'vda', size, writes }]
const whole = disk([[0, content]])

async function verified(repository: OpenedRepository) {
  const points = await repository.points()
  const result = await verifyPoints(repository, { points })
  const all = { result, whole: points.map(({ id }) => id), isAll: true, who: 'a@b', now: new Date(0) }
  await markDamaged(repository, all)
  return result.problems
}

async function rotten(damage: (fixture: RepositoryFixture) => void) {
  const fixture = await repositoryFixture()
  const first = await fixture.writePoint({ disks: whole })
  damage(fixture)
  const repository = await fixture.open()
  const problems = await verified(repository)
  assert.ok(problems.length > 0, 'the damage shows')
  assert.deepEqual([...suspectPoints(await listDamage(repository.reading.control))], [first.id])
  return { ...fixture, first, repository }
}

/** Reads it without any memory of what was read before. */
async function readsWhole({ open }: RepositoryFixture, point: PointSummary): Promise<void> {
  const repository = await open()
  const { problems } = await verifyPoints(repository, { points: [point] })
  assert.deepEqual(problems, [])
}

const slots = [0, 1, 17, 63, 64, 150, 299]
const rotData = ({ store }: RepositoryFixture) => {
  const [pack = ''] = keysOf(store, 'packs/')
  for (const slot of slots) flipBit(store, pack, slot * record + 30)
}

test('k rotten chunks, backed up again upon the damaged point: all k heal, the old point reads again and its mark goes', async () => {
  const fixture = await rotten(rotData)
  const { store, first, repository, writePoint } = fixture
  const stored = keysOf(store, 'packs/').length
  const second = await writePoint({ disks: whole, base: first.id })
  assert.equal(keysOf(store, 'packs/').length, stored + 2, 'a pack of what was lost, and a repair object')
  const { bytesNew, bytesChanged } = (await repository.manifest(second)).disks[0]!
  assert.deepEqual([bytesNew, bytesChanged], [slots.length * chunk, 0])
  await readsWhole(fixture, first)
  await readsWhole(fixture, second)
  assert.deepEqual(await verified(await fixture.open()), [])
  assert.deepEqual(await listDamage(repository.reading.control), [])
})

test('the new point does not need the damaged places, even without the repair object', async () => {
  const fixture = await rotten(rotData)
  const second = await fixture.writePoint({ disks: whole, base: fixture.first.id })
  for (const key of keysOf(fixture.store, 'packs/')) if (key.includes('.')) fixture.store.tamper(key, undefined)
  await readsWhole(fixture, second)
})

test('without a base the same contents heal, whatever disk they are met on', async () => {
  const fixture = await rotten(rotData)
  const second = await fixture.writePoint({ disks: whole, vm: 'twin' })
  await readsWhole(fixture, fixture.first)
  await readsWhole(fixture, second)
})

test('an increment heals what it happens to read, and the next one the rest', async () => {
  const fixture = await rotten(rotData)
  const { first, writePoint, open } = fixture
  const part = (from: number, to: number) => disk([[from * chunk, content.subarray(from * chunk, to * chunk)]])
  const second = await writePoint({ base: first.id, disks: part(0, 100) })
  assert.equal((await verified(await open()))[0]?.damage?.slots.length, 2, 'slots 150 and 299 are left')
  await writePoint({ base: second.id, disks: part(100, chunks) })
  assert.deepEqual(await verified(await open()), [])
})

test('a lost data pack is healed from the contents alone', async () => {
  const fixture = await rotten(({ store }) => store.tamper(keysOf(store, 'packs/')[0]!, undefined))
  await fixture.writePoint({ disks: whole })
  await readsWhole(fixture, fixture.first)
})

test('what rots in a rewritten pack heals, and so does what rots in the repair of it', async () => {
  const fixture = await repositoryFixture()
  const { store, writePoint, open } = fixture
  const first = await writePoint({ disks: whole })
  const [pack = ''] = keysOf(store, 'packs/')
  let damaged = await rewritePack(fixture, pack, '00000000000000aa')
  store.tamper(pack, undefined)
  for (const vm of ['twin', 'third']) {
    for (const slot of slots.slice(0, 2)) flipBit(store, damaged, slot * record + 30)
    assert.deepEqual(
      (await verified(await open())).map(({ object }) => object),
      [damaged],
    )
    const before = keysOf(store, 'packs/')
    await writePoint({ disks: whole, vm })
    const repairs = keysOf(store, `${pack}.`).filter(key => !before.includes(key))
    assert.equal(repairs.length, 1, 'a repair object')
    await readsWhole(fixture, first)
    damaged = repairs[0] ?? ''
  }
  assert.deepEqual(await verified(await open()), [])
  assert.deepEqual(await listDamage(fixture.repository.reading.control), [])
})

for (const how of ['rotten', 'lost'] as const)
  test(`${how} tree nodes heal when the same tree is written anew, and only then is sharing trees allowed again`, async () => {
    const fixture = await rotten(({ store }) => {
      const [meta = ''] = keysOf(store, 'meta/')
      if (how === 'lost') store.tamper(meta, undefined)
      else flipBit(store, meta, 100)
    })
    const { reading } = fixture.repository
    const lost = async () => hasLostNodes(reading, await listDamage(reading.control))
    assert.equal(await lost(), true)
    await fixture.writePoint({ disks: whole })
    assert.equal(await lost(), false, 'healed, though nobody has verified it yet')
    await readsWhole(fixture, fixture.first)
    assert.deepEqual(await verified(await fixture.open()), [])
  })

test('a base whose nodes are damaged where an increment does not look is left as it is', async () => {
  const fixture = await rotten(({ store }) => flipBit(store, keysOf(store, 'meta/')[0]!, 100))
  const last = chunks - 1
  const next = disk([[last * chunk, noise('new', chunk)]])
  await fixture.writePoint({ base: fixture.first.id, disks: next })
  assert.equal((await verified(await fixture.open()))[0]?.points.length, 2)
})

test('a repair copies nothing that does not authenticate', async () => {
  const fixture = await rotten(rotData)
  const { store, open, first } = fixture
  let flipped = 0
  const repository = await open({
    ...store,
    async put(key, body, options) {
      const receipt = await store.put(key, body, options)
      // What was stored rots before it is copied.
      if (key.startsWith('packs/') && !key.includes('.')) {
        flipBit(store, key, 30)
        flipped++
      }
      return receipt
    },
  })
  const bases = [first.id]
  const request = {
    vm: 'web',
    point: first.id.replace(/./g, '5') as typeof first.id,
    takenAt: new Date(),
    kind: 'backup',
  }
  await using writer = await repository.beginPoint({ ...request, bases })
  const target = await writer.disk({ name: 'vda', size, base: first.id, description: {} })
  await target.write(0, content.slice())
  await target.finish({ bytesRead: 0 })
  await writer.commit({ kind: 'full', consistency: 'crash', description: {}, omitted: [] })
  assert.ok(flipped > 0, 'the fault fired')
  assert.equal(writer.healed.records, slots.length - 1)
})

test('a store that refuses the repair does not fail the backup', async () => {
  const fixture = await rotten(rotData)
  const { store, open } = fixture
  const repository = await open({
    ...store,
    put: (key, ...rest) => (key.includes('.') ? Promise.reject(new Error('refused')) : store.put(key, ...rest)),
  })
  const point = fixture.first.id.replace(/./g, '6') as typeof fixture.first.id
  await using writer = await repository.beginPoint({ vm: 'web', point, takenAt: new Date(), kind: 'backup', bases: [] })
  const target = await writer.disk({ name: 'vda', size, description: {} })
  await target.write(0, content.slice())
  await target.finish({ bytesRead: 0 })
  await writer.commit({ kind: 'full', consistency: 'crash', description: {}, omitted: [] })
  assert.deepEqual(writer.healed, { records: 0, packs: [], failure: 'refused' })
})

test('a verify of some points adds to the marks and takes away only what it has read', async () => {
  const fixture = await rotten(rotData)
  const { repository, first, writePoint } = fixture
  const other = await writePoint({ vm: 'other', disks: disk([[0, noise('other', 40 * chunk)]]) })
  const marks = () => listDamage(repository.reading.control)
  const before = await marks()
  const some = async (point: PointSummary) => {
    const result = await verifyPoints(await fixture.open(), { points: [point] })
    const who = { who: 'a@b', now: new Date(0) }
    await markDamaged(repository, { result, whole: [point.id], isAll: false, ...who })
  }
  await some(other)
  assert.deepEqual(await marks(), before)
  await writePoint({ base: first.id, disks: whole })
  await some(first)
  assert.deepEqual(
    (await marks()).map(({ known }) => [known?.points.length, known?.slots?.length]),
    [[0, slots.length]],
    'the point is no longer suspect, the pack still is',
  )
})
