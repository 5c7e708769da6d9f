/** What a collection removes, rewrites and leaves. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { limits } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { readAuditLog } from '../../../src/maintenance/audit-log.ts'
import { collectGarbage } from '../../../src/maintenance/gc.ts'
import { planGc } from '../../../src/maintenance/gc-plan.ts'
import { twinPipeline } from '../../../src/native/twin.ts'
import { putTrace } from '../../../src/repository/boot-trace.ts'
import { keyring, metadataOnly } from '../../../src/repository/keyring.ts'
import {
  damagedKey,
  forgottenKey,
  gcKey,
  packKey,
  parsePackKey,
  pointKey,
} from '../../../src/repository/object-keys.ts'
import { RecordReader } from '../../../src/repository/record-reader.ts'
import { assertWhole, type CollectionTale, collectionTale, forgetPoint } from '../../doubles/collection.ts'
import { intercepted } from '../../doubles/intercepted-store.ts'
import { backup, keysOf, pointNumber, readBack, storedBytes, timeNumber } from '../../doubles/memory-repository.ts'

const packBytes = ({ store }: CollectionTale) => storedBytes(store, 'packs/') + storedBytes(store, 'meta/')
const packKeys = ({ store }: CollectionTale) => [...keysOf(store, 'packs/'), ...keysOf(store, 'meta/')]

test('a forgotten point goes with what only it needs, mostly dead packs are rewritten, and every other point is whole', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 1)
  await forgetPoint(context, 4, 'other')
  const before = packBytes(tale)
  const plan = await planGc(context)
  const untouched = tale.store.snapshot()
  assert.equal(plan.condemned.length, 2)
  assert.equal(plan.compact.length, 2)
  const result = await collectGarbage(context, { graceMs: 0 })
  assert.deepEqual(result.removed, [pointNumber(1), pointNumber(4)])
  assert.equal(result.packs, 4)
  const indexes = [...untouched].filter(([key]) => key.startsWith('index/') && !tale.store.snapshot().has(key))
  assert.equal(indexes.length, 1, 'the index of the point whose packs are all gone')
  const indexBytes = indexes.reduce((sum, [, { bytes }]) => sum + bytes.length, 0)
  assert.equal(before - packBytes(tale), result.bytesFreed - indexBytes)
  assert.ok(result.bytesRewritten > 0 && packBytes(tale) < before * 0.55)
  assert.deepEqual(keysOf(tale.store, 'forgotten/'), [])
  assert.deepEqual(keysOf(tale.store, 'gc/'), [])
  await assertWhole(tale, [2, 3])
  const rewritten = packKeys(tale).filter(key => parsePackKey(key)?.run === result.run)
  assert.equal(rewritten.length, 2)
  const again = await collectGarbage(context, { graceMs: 0 })
  assert.deepEqual([again.packs, again.bytesFreed, again.bytesRewritten], [0, 0, 0], 'a second one has nothing to do')
})

test('traces of boots go with the last point of their VM, and no sooner', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  for (const vm of ['vm', 'other', 'never seen'])
    await putTrace(
      context.control,
      vm,
      { point: pointNumber(1), chunkSize: 4096, disks: ['vda'], touches: [{ disk: 0, chunk: 1 }] },
      { now: tale.clock.now(), random: seededRandom(vm) },
    )
  const tracedVms = () => keysOf(tale.store, 'traces/').map(key => key.split('/')[1])
  await forgetPoint(context, 1)
  await collectGarbage(context, { graceMs: 0 })
  assert.deepEqual(tracedVms(), ['other', 'vm'])
  await forgetPoint(context, 4, 'other')
  await collectGarbage(context, { graceMs: 0 })
  assert.deepEqual(tracedVms(), ['vm'])
  const before = tale.store.snapshot().size
  await collectGarbage(context, { graceMs: 0 })
  assert.equal(tale.store.snapshot().size, before, 'nothing is left to do')
})

test('the plan writes nothing', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 1)
  const before = tale.store.snapshot()
  await planGc(context)
  assert.deepEqual([...tale.store.snapshot().keys()], [...before.keys()])
})

test('a rewritten pack is rewritten again, and goes when its last point does', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 1)
  await collectGarbage(context, { graceMs: 0 })
  const copies = packKeys(tale).filter(key => parsePackKey(key)?.run)
  assert.ok(copies.length > 0)
  const repository = await tale.open()
  // Nearly all of what 2 and 3 had is overwritten.
  const image = tale.images[2]!.slice()
  image.fill(7, 0, 540 * 4096)
  await backup(repository, { number: 5, disks: [{ name: 'vda', image }] })
  await forgetPoint(context, 2)
  await forgetPoint(context, 3)
  const result = await collectGarbage(context, { graceMs: 0 })
  assert.ok(result.packs >= 2)
  for (const key of copies) assert.ok(!packKeys(tale).includes(key), `${key} is gone`)
  const now = await tale.open()
  assert.ok(Buffer.compare(await readBack(now, pointNumber(5), 'vda'), image) === 0)
  await forgetPoint(context, 4, 'other')
  await forgetPoint(context, 5)
  await collectGarbage(context, { graceMs: 0 })
  assert.deepEqual(packKeys(tale), [])
  assert.deepEqual(keysOf(tale.store, 'index/').length <= 1, true)
})

test('what is left of a rewritten pack is found again by backups that hold the same', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 1)
  await collectGarbage(context, { graceMs: 0 })
  assert.ok(packKeys(tale).some(key => key.startsWith('packs/') && parsePackKey(key)?.run))
  const image = tale.images[2]!
  const manifest = await backup(await tale.open(), { vm: 'clone', number: 6, disks: [{ name: 'vda', image }] })
  // But for the chunks of point 3, should no hook lead to its small pack; 180 lie in the rewritten one.
  assert.ok(manifest.disks[0]!.bytesNew <= 20 * 4096, `${manifest.disks[0]?.bytesNew}`)
  assert.ok(Buffer.compare(await readBack(await tale.open(), pointNumber(6), 'vda'), image) === 0)
  // The clone is now all that needs them.
  await forgetPoint(context, 2)
  await forgetPoint(context, 3)
  await collectGarbage(context, { graceMs: 0 })
  assert.ok(Buffer.compare(await readBack(await tale.open(), pointNumber(6), 'vda'), image) === 0)
})

test('the right to data is not needed', async () => {
  const tale = await collectionTale()
  const full = await tale.context()
  await forgetPoint(full, 1)
  await forgetPoint(full, 4, 'other')
  const keys = metadataOnly(full.keyring.repository)
  assert.equal(keys.data, undefined)
  const blind = keyring(full.store, keys)
  const records = new RecordReader({ store: full.store, keyring: blind, pipeline: twinPipeline, random: full.random })
  const result = await collectGarbage({ ...full, keyring: blind, records }, { graceMs: 0 })
  assert.equal(result.packs, 4)
  assert.ok(result.bytesRewritten > 0)
  await assertWhole(tale, [2, 3])
})

test('packs that verify found damaged are not rewritten, and their marks go with them', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  const [pack] = (
    await (async () => {
      await forgetPoint(context, 1)
      return (await planGc(context)).compact
    })()
  ).map(planned => planned.pack)
  const mark = { slots: null, who: 'tester', when: '2026-01-02T03:04:05.000Z', what: 'rot' }
  await context.control.put('damaged', damagedKey(pack!), mark)
  const result = await collectGarbage(context, { graceMs: 0 })
  assert.equal(result.kept['mostly dead packs that are damaged or too large'], 1)
  await forgetPoint(context, 2)
  await forgetPoint(context, 3)
  await collectGarbage(context, { graceMs: 0 })
  assert.deepEqual(keysOf(tale.store, 'damaged/'), [])
})

test('a pack whose bytes are not what its checksums say is left as it is', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 1)
  const planned = (await planGc(context)).compact.find(({ sources }) => sources[0]!.startsWith('packs/'))!
  const [source] = planned.sources
  const bytes = tale.store.snapshot().get(source!)!.bytes.slice()
  bytes[1000]! ^= 1
  tale.store.tamper(source!, bytes)
  const result = await collectGarbage(context, { graceMs: 0 })
  assert.equal(result.kept['mostly dead packs that are damaged or too large'], 1)
  assert.deepEqual(tale.store.snapshot().get(source!)!.bytes, bytes)
  assert.ok(!packKeys(tale).some(key => key.startsWith(`${source}.`)))
  assert.deepEqual(keysOf(tale.store, 'gc/'), [])
})

test('a copy that is not what was stored removes nothing', async () => {
  const tale = await collectionTale()
  const plain = await tale.context()
  await forgetPoint(plain, 1)
  const lying = {
    ...tale.store,
    get: async (...args: Parameters<typeof tale.store.get>) => {
      const bytes = await tale.store.get(...args)
      if (parsePackKey(args[0])?.run) bytes[10]! ^= 1
      return bytes
    },
  }
  const before = packKeys(tale)
  await assert.rejects(collectGarbage(await tale.context(lying), { graceMs: 0 }), { code: 'store-failed' })
  for (const key of before) assert.ok(packKeys(tale).includes(key))
  await collectGarbage(plain, { graceMs: 0 })
  await assertWhole(tale, [2, 3, 4])
})

test('what does not fit into the record waits for the next run, and is told', async t => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 1)
  await forgetPoint(context, 4, 'other')
  const max = limits.runRecordMax
  t.after(() => Object.assign(limits, { runRecordMax: max }))
  // Room for the two points and one pack.
  Object.assign(limits, { runRecordMax: 64 * 1024 + 2 * 55 + 100 })
  const first = await collectGarbage(context, { graceMs: 0 })
  assert.ok(first.kept['dead objects that wait for the next run']! > 0, JSON.stringify(first.kept))
  Object.assign(limits, { runRecordMax: max })
  const second = await collectGarbage(context, { graceMs: 0 })
  assert.equal(first.packs + second.packs, 4)
  await assertWhole(tale, [2, 3])
})

test('a forged or misplaced mark removes nothing', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  tale.store.tamper(forgottenKey(pointNumber(1)), new Uint8Array(100))
  await context.control.put('forgotten', forgottenKey(pointNumber(2)), {
    who: 'x',
    when: '2026-01-02T03:04:05.000Z',
    why: 'x',
    manifest: keysOf(tale.store, 'points/')[0]!,
  })
  const result = await collectGarbage(context, { graceMs: 0 })
  assert.deepEqual(result.removed, [])
  assert.equal(result.kept['points with an unreadable mark'], 2)
  assert.equal(keysOf(tale.store, 'points/').length, 4)
})

test('objects of strangers stay', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  const strange = [
    packKey('data', '00'.repeat(8) as never, '00'.repeat(16) as never).replace('packs/', 'packs/x'),
    'meta/readme.txt',
  ]
  for (const key of strange) await tale.store.put(key, [new Uint8Array(3)])
  await collectGarbage(context, { graceMs: 0 })
  for (const key of strange) assert.ok(tale.store.snapshot().has(key))
  assert.equal(tale.store.snapshot().has(gcKey('x')), false)
})

test('before it removes anything a collection says in the audit what', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  let audited = 0
  const through = intercepted(tale.store, {
    before({ verb, key }) {
      if (verb === 'delete' && key.startsWith('points/')) audited = keysOf(tale.store, 'audit/').length
    },
  })
  const { run, packs } = await collectGarbage(await tale.context(through), { graceMs: 0 })
  assert.equal(audited, 1)
  const { entries } = await readAuditLog(context, { limit: 9 })
  const [entry] = entries
  assert.deepEqual([entries.length, entry?.action, entry?.who, entry?.details.run], [1, 'gc', 'tester@host', run])
  assert.deepEqual(entry?.details.points, [pointKey('other', timeNumber(4), pointNumber(4))])
  assert.ok(packs > 0)
})

test('a subtree that several points share is read once', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  const { mark } = await planGc(context)
  const together = mark.nodes
  assert.ok(together > 0)
  // Point 1 again, as another one: all of its nodes are known.
  const repository = await tale.open()
  await backup(repository, {
    number: 9,
    disks: [{ name: 'vda', image: tale.images[0]!, base: pointNumber(1), changed: [] }],
  })
  const { mark: again } = await planGc(context)
  assert.equal(again.nodes, together)
  assert.equal(again.manifests.size, mark.manifests.size + 1)
})
