/** A repaired node points to the packs of whoever healed it: a collection keeps what any version of a node reaches. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { collectGarbage } from '../../../src/maintenance/gc.ts'
import { markDamaged } from '../../../src/repository/mark-damaged.ts'
import { verifyPoints } from '../../../src/repository/verify.ts'
import { type CollectionTale, collectionTale, forgetPoint } from '../../doubles/collection.ts'
import { backup, keysOf, pointNumber, readBack } from '../../doubles/memory-repository.ts'
import { bytesOf } from '../../doubles/repository-fixture.ts'

/** Point 1's first leaf is lost, and another VM that holds the same disk has healed it. */
async function healed() {
  const tale = await collectionTale()
  const { store, images } = tale
  const meta = keysOf(store, 'meta/')
  const whole = new Map(meta.map(key => [key, bytesOf(store, key)]))
  for (const [key, bytes] of whole) {
    const rotten = bytes.slice()
    rotten[40]! ^= 1
    store.tamper(key, rotten)
  }
  const repository = await tale.open()
  const points = (await repository.points()).filter(({ id }) => id === pointNumber(1))
  const result = await verifyPoints(repository, { points })
  assert.equal(result.problems.length, 1)
  const now = new Date(0)
  await markDamaged(repository, { result, whole: [], isAll: true, who: 'a@b', now })
  // What others wrote is found by samples only; here by none, so that the twin stores all of it again.
  for (const key of keysOf(store, 'index/')) store.tamper(key, undefined)
  await backup(await tale.open(), { vm: 'twin', number: 9, disks: [{ name: 'vda', image: images[0]! }] })
  assert.ok(keysOf(store, 'meta/').some(key => key.includes('.')))
  for (const [key, bytes] of whole) if (!result.problems.some(({ object }) => object === key)) store.tamper(key, bytes)
  const [object = ''] = result.problems.map(problem => problem.object)
  return { tale, object, rotten: bytesOf(store, object), sound: whole.get(object)! }
}

const isWhole = async (tale: CollectionTale) =>
  assert.ok(Buffer.compare(await readBack(await tale.open(), pointNumber(1), 'vda'), tale.images[0]!) === 0)

test('the point that was healed outlives the one that healed it', async () => {
  const { tale } = await healed()
  await isWhole(tale)
  const context = await tale.context()
  await forgetPoint(context, 9, 'twin')
  const { removed } = await collectGarbage(context, { graceMs: 0 })
  assert.deepEqual(removed, [pointNumber(9)])
  await isWhole(tale)
})

test('a node that was unreadable for a while: neither the original nor its repair loses what it points to', async () => {
  const { tale, object, rotten, sound } = await healed()
  // The collector sees the original, and readers see it or not.
  tale.store.tamper(object, sound)
  const context = await tale.context()
  await forgetPoint(context, 9, 'twin')
  await collectGarbage(context, { graceMs: 0 })
  await isWhole(tale)
  tale.store.tamper(object, rotten)
  await isWhole(tale)
})

test('when all points are forgotten repair objects go as well', async () => {
  const { tale } = await healed()
  const context = await tale.context()
  for (const [number, vm] of [[1], [2], [3], [4, 'other'], [9, 'twin']] as const) await forgetPoint(context, number, vm)
  await collectGarbage(context, { graceMs: 0 })
  assert.deepEqual([...keysOf(tale.store, 'packs/'), ...keysOf(tale.store, 'meta/')], [])
})
