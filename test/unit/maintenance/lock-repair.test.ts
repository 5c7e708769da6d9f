/** What somebody has hidden or overwritten is told, and uncovered: by removing what lies over it, or by putting ours on top. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../../../src/core/random.ts'
import { coveredObjects, uncover } from '../../../src/maintenance/covered-objects.ts'
import { addHold } from '../../../src/maintenance/hold.ts'
import { maintenanceContext } from '../../../src/maintenance/maintenance.ts'
import { readStoredManifest, sealManifest } from '../../../src/repository/stored-manifest.ts'
import { DAY_MS, lockedRepository } from '../../doubles/locked-repository.ts'
import { backup, keysOf, pointNumber, readBack, summaryOf } from '../../doubles/memory-repository.ts'

const image = seededRandom('image')(150_000)
const KEPT = /^(config$|keys|points|packs|meta|holds|audit)/

async function prepared() {
  const locked = await lockedRepository()
  const repository = await locked.open()
  await backup(repository, { number: 1, disks: [{ name: 'vda', image }] })
  const point = await summaryOf(repository, pointNumber(1))
  await addHold(maintenanceContext(repository, 'who@host'), point, 'audit')
  return { ...locked, repository, point, keys: keysOf(locked.store, '').filter(key => KEPT.test(key)) }
}

test('every kind of object is found hidden and overwritten, and is as it was after the repair', async () => {
  const { store, keys, open, point } = await prepared()
  const before = new Map([...store.snapshot()].map(([key, { bytes }]) => [key, bytes]))
  for (const [n, key] of [...keys, ...keys].entries())
    store.tamper(key, n % 2 === 0 ? undefined : seededRandom(key)(300))
  const { reading } = await open()
  const found = await Array.fromAsync(coveredObjects(reading))
  assert.deepEqual(found.map(({ key }) => key).sort(), [...keys].sort())
  assert.ok(found.every(({ ours }) => ours))
  assert.deepEqual((await uncover(reading, { dryRun: true })).uncovered, [...keys].sort())
  assert.deepEqual(await uncover(reading), { uncovered: [...keys].sort(), lost: [] })
  for (const key of keys) assert.ok(Buffer.compare(store.snapshot().get(key)!.bytes, before.get(key)!) === 0, key)
  assert.deepEqual(await Array.fromAsync(coveredObjects(reading)), [])
  assert.ok(Buffer.compare(await readBack(await open(), point.id, 'vda'), image) === 0)
})

test('over a version that is itself locked, ours is put again', async () => {
  const { store, open, keys, clock } = await prepared()
  const [pack = ''] = keys.filter(key => key.startsWith('packs/'))
  const before = store.snapshot().get(pack)!.bytes
  const retainUntil = new Date(clock.now().getTime() + 3650 * DAY_MS)
  await store.put(pack, [new Uint8Array(500)], { retainUntil, lockMode: 'compliance' })
  const { reading } = await open()
  assert.deepEqual((await uncover(reading)).uncovered, [pack])
  assert.ok(Buffer.compare(store.snapshot().get(pack)!.bytes, before) === 0)
  assert.deepEqual(await Array.fromAsync(coveredObjects(reading)), [])
})

test('a manifest that somebody with the key has replaced is told, and ours comes back', async () => {
  const { store, repository, open, point } = await prepared()
  const { keyring, random } = repository.reading
  const keys = keyring.repository
  const stored = await readStoredManifest({ store, keys }, point.key)
  const forged = { ...stored!.manifest, description: { forged: true } }
  await store.put(point.key, [sealManifest({ store, keys, random }, point.key, forged)])
  const again = await open()
  const [found, ...others] = await Array.fromAsync(coveredObjects(again.reading))
  assert.equal(found?.key, point.key)
  assert.equal(found?.how, 'overwritten')
  assert.deepEqual(others, [])
  await uncover(again.reading)
  assert.deepEqual((await again.manifest(point)).description, { memory: 1 })
})
