/** What a collection does about damage, about points that were never committed, and about locks. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type LeaseId, leaseId } from '../../../src/core/ids.ts'
import { limits } from '../../../src/core/limits.ts'
import { collectGarbage } from '../../../src/maintenance/gc.ts'
import { applyGc } from '../../../src/maintenance/gc-apply.ts'
import { planGc } from '../../../src/maintenance/gc-plan.ts'
import { type MaintenanceContext, maintenanceContext } from '../../../src/maintenance/maintenance.ts'
import { fenceKey, gcKey, leaseKey, parsePackKey, pointKey } from '../../../src/repository/object-keys.ts'
import { assertWhole, type CollectionTale, collectionTale, forgetPoint, writeTale } from '../../doubles/collection.ts'
import { DAY_MS, lockedRepository } from '../../doubles/locked-repository.ts'
import { keysOf, pointNumber, summaryOf, timeNumber } from '../../doubles/memory-repository.ts'

/** The meta pack that only point 4, of a VM of its own, has. */
async function metaOfFour(tale: CollectionTale): Promise<string> {
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  const plan = await planGc(context)
  await tale.store.delete(keysOf(tale.store, 'forgotten/'))
  const [key] = plan.condemned.flatMap(({ keys }) => keys).filter(key => key.startsWith('meta/'))
  return key!
}

async function leaseOf(tale: CollectionTale, number: number): Promise<LeaseId> {
  const repository = await tale.open()
  return (await repository.manifest(await summaryOf(repository, pointNumber(number)))).lease
}

const fence = async ({ control }: MaintenanceContext, lease: LeaseId, manifest: string) =>
  control.put('fence', fenceKey(lease, 'self'), { who: 'w', when: '2026-01-02T03:04:05.000Z', manifest })

test('a missing tree node of a kept point stops the run, by name; without that point it goes on', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 1)
  const meta = await metaOfFour(tale)
  await forgetPoint(context, 1)
  tale.store.tamper(meta, undefined)
  await assert.rejects(collectGarbage(context, { graceMs: 0 }), (error: { code: string; details: object }) => {
    assert.equal(error.code, 'missing-object')
    assert.deepEqual(
      { ...error.details, slot: 0, content: '', hint: '', pack: '' },
      {
        object: meta,
        point: pointNumber(4),
        disk: 'vda',
        slot: 0,
        content: '',
        pack: '',
        hint: '',
      },
    )
    return true
  })
  assert.equal(keysOf(tale.store, 'points/').length, 4)
  await forgetPoint(context, 4, 'other')
  const result = await collectGarbage(context, { graceMs: 0 })
  assert.deepEqual(result.removed, [pointNumber(1), pointNumber(4)])
  await assertWhole(tale, [2, 3])
})

test('a corrupt tree node, or a corrupt manifest, stops it too', async () => {
  for (const damage of ['node', 'manifest'] as const) {
    const tale = await collectionTale()
    const context = await tale.context()
    const meta = await metaOfFour(tale)
    await forgetPoint(context, 1)
    const key = damage === 'node' ? meta : pointKey('other', timeNumber(4), pointNumber(4))
    const bytes = tale.store.snapshot().get(key)!.bytes.slice()
    bytes[40]! ^= 1
    tale.store.tamper(key, bytes)
    const before = keysOf(tale.store, '')
    await assert.rejects(collectGarbage(context, { graceMs: 0 }), {
      code: 'corrupt-object',
      message: /Nothing was removed/,
    })
    assert.deepEqual(keysOf(tale.store, ''), before)
    await forgetPoint(context, 4, 'other')
    assert.equal((await collectGarbage(context, { graceMs: 0 })).removed.length, 2)
  }
})

test('damage that shows only when it marks again stops it before anything is removed', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 1)
  const four = pointKey('other', timeNumber(4), pointNumber(4))
  const { bytes } = tale.store.snapshot().get(four)!
  tale.store.tamper(four, undefined)
  const plan = await planGc(context)
  tale.store.tamper(four, bytes)
  const meta = await metaOfFour(tale)
  await forgetPoint(context, 1)
  tale.store.tamper(meta, undefined)
  const before = keysOf(tale.store, '')
  await assert.rejects(applyGc(context, plan, { graceMs: 0 }), { code: 'missing-object' })
  assert.deepEqual(keysOf(tale.store, ''), before)
})

test('a point that was never committed keeps what it reaches, and its missing nodes are passed over', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  const meta = await metaOfFour(tale)
  await fence(context, await leaseOf(tale, 4), pointKey('other', timeNumber(4), pointNumber(4)))
  const kept = await collectGarbage(context, { graceMs: 0 })
  assert.equal(kept.packs, 0)
  tale.store.tamper(meta, undefined)
  await forgetPoint(context, 1)
  const result = await collectGarbage(context, { graceMs: 0 })
  assert.deepEqual(result.removed, [pointNumber(1)])
  assert.deepEqual((await planGc(context)).voids, [pointKey('other', timeNumber(4), pointNumber(4))])
  await assertWhole(tale, [2, 3])
})

test('a point that was never committed is forgotten a month after its fence, and goes with the run after that', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  const four = pointKey('other', timeNumber(4), pointNumber(4))
  await tale.clock.advance(limits.voidPointLifeMs)
  await fence(context, await leaseOf(tale, 4), four)
  await tale.clock.advance(DAY_MS)
  assert.equal((await planGc(context)).abandoned.size, 0, 'a young fence may be withdrawn')
  await tale.clock.advance(limits.voidPointLifeMs)
  const first = await collectGarbage(context, { graceMs: 0 })
  assert.deepEqual([first.forgotten, first.removed], [[pointNumber(4)], []])
  const mark = await context.control.get('forgotten', `forgotten/${pointNumber(4)}`)
  assert.equal(mark?.text('why'), 'never committed')
  assert.deepEqual((await collectGarbage(context, { graceMs: 0 })).removed, [pointNumber(4)])
  await assertWhole(tale, [1, 2, 3])
})

test('a manifest that arrives long after its fence has its month from then', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await fence(context, await leaseOf(tale, 4), 'points/x')
  await tale.clock.advance(2 * limits.voidPointLifeMs)
  const [manifest = ''] = keysOf(tale.store, 'points/other/')
  tale.store.tamper(manifest, tale.store.snapshot().get(manifest)!.bytes)
  assert.equal((await planGc(context)).abandoned.size, 0)
  await tale.clock.advance(2 * limits.voidPointLifeMs)
  assert.equal((await planGc(context)).abandoned.size, 1)
})

test('the index of a backup that runs stays, whatever it leads to', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  const indexes = async () =>
    (await planGc(context)).hints.map(({ key }) => key).filter(key => key.startsWith('index/'))
  const [index = ''] = await indexes()
  const running = leaseId(index.slice('index/'.length))
  await context.control.put('lease', leaseKey(running), { counter: 1, host: 'h', kind: 'backup' })
  assert.ok(index !== '' && !(await indexes()).includes(index))
})

test('a fence that a stranger planted makes no point go', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  tale.store.tamper(fenceKey(await leaseOf(tale, 4), 'self'), new Uint8Array(90))
  await tale.clock.advance(2 * limits.voidPointLifeMs)
  assert.equal((await planGc(context)).abandoned.size, 0)
})

test('records of dead runs and fences that can meet no manifest go when nobody else works there', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  const nothing = {
    forget: [],
    condemned: [],
    dead: {},
    sources: {},
    when: '2026-01-02T03:04:05.000Z',
    who: 'dead@host',
  }
  await context.control.put('gc', gcKey('dead'.repeat(4)), nothing)
  const gone = leaseId('0a'.repeat(8))
  const leased = leaseId('0b'.repeat(8))
  const four = await leaseOf(tale, 4)
  for (const lease of [gone, leased, four]) await fence(context, lease, 'points/x')
  await tale.clock.advance(limits.leaseLifeMs + DAY_MS)
  const young = leaseId('0c'.repeat(8))
  await fence(context, young, 'points/x')
  await tale.clock.advance(DAY_MS)
  const document = { counter: 1, host: 'h', kind: 'backup', vm: 'vm', bases: [], manifest: 'points/x', refreshMs: 1 }
  await context.control.put('lease', leaseKey(leased), {
    ...document,
    expiryMs: 1000,
    created: '2026-01-02T03:04:05.000Z',
  })
  await collectGarbage(context, { graceMs: 0 })
  assert.equal(keysOf(tale.store, 'gc/').length, 1, 'not without that word')
  await collectGarbage(context, { graceMs: 0, exclusive: true })
  assert.deepEqual(keysOf(tale.store, 'gc/'), [])
  assert.deepEqual(
    new Set(keysOf(tale.store, 'fences/').map(key => key.split('/')[1])),
    new Set([leased, four, young]),
    'of a lease that is there, of a manifest that is there, and one whose writer may still send it',
  )
})

test('what a lock protects stays whole, and goes when the lock has ended', async () => {
  const { store, clock, open } = await lockedRepository()
  const repository = await open()
  await writeTale(repository)
  const context = maintenanceContext(repository, 'tester@host')
  await forgetPoint(context, 1)
  await forgetPoint(context, 4, 'other')
  const before = keysOf(store, 'packs/')
  assert.equal((await planGc(context)).forget.size, 0, 'it is not even announced')
  const locked = await collectGarbage(context, { graceMs: 0 })
  assert.deepEqual([locked.removed, locked.packs], [[], 0])
  assert.equal(locked.kept['points that are locked'], 2)
  await clock.advance(60 * DAY_MS)
  const plan = await planGc(context)
  assert.equal(plan.forget.size, 2)
  // Somebody locks it at the last moment: a manifest that stays keeps its packs.
  const four = pointKey('other', timeNumber(4), pointNumber(4))
  const until = new Date(clock.now().getTime() + 10 * DAY_MS)
  await store.versioned.retain(four, undefined, 'compliance', until)
  const [pack] = plan.condemned.flatMap(({ keys }) => keys).filter(key => key.startsWith('packs/'))
  const result = await applyGc(context, plan, { graceMs: 0 })
  assert.deepEqual(result.removed, [pointNumber(1)])
  assert.equal(result.kept['points that are locked'], 1)
  assert.ok(store.snapshot().has(pack!) && store.snapshot().has(four))
  assert.equal(keysOf(store, 'forgotten/').length, 1)
  assert.ok(keysOf(store, 'packs/').some(key => parsePackKey(key)?.run))
  await clock.advance(60 * DAY_MS)
  assert.deepEqual((await collectGarbage(context, { graceMs: 0 })).removed, [pointNumber(4)])
  assert.ok(keysOf(store, 'packs/').length < before.length)
})

test('a pack that is locked between plan and deletion is told, and all else goes', async () => {
  const { store, clock, open } = await lockedRepository()
  const repository = await open()
  await writeTale(repository)
  const context = maintenanceContext(repository, 'tester@host')
  await clock.advance(60 * DAY_MS)
  await forgetPoint(context, 4, 'other')
  const plan = await planGc(context)
  const [pack] = plan.condemned.flatMap(({ keys }) => keys).filter(key => key.startsWith('packs/'))
  await store.versioned.legalHold(pack!, undefined, true)
  const result = await applyGc(context, plan, { graceMs: 0 })
  assert.equal(result.kept['dead objects that are locked'], 1)
  assert.equal(result.packs, 1)
  assert.ok(store.snapshot().has(pack!))
})
