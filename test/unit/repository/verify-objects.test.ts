/** Every kind of object: flipped, cut short, exchanged for another of its kind; verify finds each and names it. */
import assert from 'node:assert/strict'
import { before, beforeEach, test } from 'node:test'
import { hex } from '../../../src/core/ids.ts'
import * as names from '../../../src/repository/object-keys.ts'
import { sealManifest } from '../../../src/repository/stored-manifest.ts'
import { verifyPoints } from '../../../src/repository/verify.ts'
import { verifyChain } from '../../../src/repository/verify-chain.ts'
import { verifyObjects } from '../../../src/repository/verify-objects.ts'
import type { StoredObject } from '../../../src/storage/memory.ts'
import { type EveryKind, everyKind, kinds, sweepKind } from '../../doubles/every-kind.ts'
import { bytesOf, flipBit, keysOf, noise, repositoryFixture } from '../../doubles/repository-fixture.ts'

const chunk = 4096
const size = 200 * chunk

let fixture: EveryKind
let whole: ReadonlyMap<string, StoredObject>
before(async () => {
  fixture = await everyKind()
  whole = fixture.store.snapshot()
})
beforeEach(() => {
  const { store } = fixture
  for (const key of keysOf(store, '')) if (!whole.has(key)) store.tamper(key, undefined)
  for (const [key, { bytes }] of whole) store.tamper(key, bytes)
})

test('what is whole is no problem, and every object is read', async () => {
  assert.deepEqual(await fixture.found(), [])
  const { repository, store } = fixture
  const { checked } = await verifyObjects(repository.reading, { points: [] })
  assert.equal(checked, keysOf(store, '').filter(key => !names.parsePackKey(key)).length)
})

for (const kind of Object.keys(kinds))
  test(`${kind}: a flipped bit, a truncation, another of its kind under its name: each is found and named`, async () => {
    assert.ok((await sweepKind(fixture, kind, 2)) >= 6)
  })

test('an older version under the same name, and a removed object that comes back: nothing is accepted that was not written there', async () => {
  const { store, repository, random } = fixture
  const { control } = repository.reading
  const key = names.pinKey(hex(random(8)))
  await control.put('pin', key, { counter: 1 })
  const old = bytesOf(store, key)
  await control.put('pin', key, { counter: 2 })
  store.tamper(key, old)
  // It was true once; whoever watches it sees that it does not rise.
  assert.deepEqual(await fixture.found(), [])
  assert.equal((await control.get('pin', key))?.count('counter'), 1)
  store.tamper(key, undefined)
})

test('strangers are named and are no failure', async () => {
  const { store, repository } = fixture
  const strangers = ['lost+found/x', 'pins/readme', 'damaged/00', 'points/web/20260101T000000Z-short', 'traces/web/1']
  for (const key of strangers) store.tamper(key, new Uint8Array(3))
  const { problems, unknown } = await verifyObjects(repository.reading, { points: [] })
  assert.deepEqual(problems, [])
  assert.deepEqual(unknown, strangers.sort())
  for (const key of strangers) store.tamper(key, undefined)
})

test('a manifest that somebody with the keys wrote anew does not fit the one after it', async () => {
  const { store, repository } = fixture
  const points = await repository.points()
  const [other, first] = points
  assert.ok(other?.vm === 'other' && first?.vm === 'web')
  const { reading } = repository
  const good = bytesOf(store, first.key)
  const sealer = { store, keys: reading.keyring.repository, random: fixture.random }
  const manifest = await repository.manifest(first)
  store.tamper(first.key, sealManifest(sealer, first.key, manifest))
  const { problems, links } = await verifyChain(reading, points, points)
  assert.deepEqual(
    problems.map(({ object, points }) => [object, ...points]),
    [[first.key, first.id]],
  )
  assert.equal(links.length, 3)
  store.tamper(first.key, good)
})

test('a footer that is whole and lists other records than the trees say is found', async () => {
  const { store, open, writePoint } = await repositoryFixture({ seed: 'footers' })
  await writePoint({ disks: [{ name: 'vda', size, writes: [[0, noise('a', size)]] }] })
  const [pack = ''] = keysOf(store, 'packs/')
  const whole = bytesOf(store, pack)
  flipBit(store, pack, whole.length - 100 - 32)
  const repository = await open()
  const points = await repository.points()
  const problems = async () => (await verifyPoints(await open(), { points })).problems
  const [problem] = await problems()
  assert.equal(problem?.object, pack)
  assert.deepEqual(problem?.points, [], 'no point needs it to be read')
  assert.equal(problem?.damage?.slots.length, 200)
  store.tamper(pack, whole)
  assert.deepEqual(await problems(), [])
})
