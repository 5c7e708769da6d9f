/** Whom a collection waits for, whose point it leaves, and when it refuses. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LifeboatError } from '../../../src/core/errors.ts'
import { leaseId } from '../../../src/core/ids.ts'
import { limits } from '../../../src/core/limits.ts'
import { collectGarbage } from '../../../src/maintenance/gc.ts'
import { applyGc } from '../../../src/maintenance/gc-apply.ts'
import { planGc } from '../../../src/maintenance/gc-plan.ts'
import type { GcProgress } from '../../../src/maintenance/gc-progress.ts'
import type { MaintenanceContext } from '../../../src/maintenance/maintenance.ts'
import { unlockLeases } from '../../../src/maintenance/unlock.ts'
import { leaseKey, pointKey } from '../../../src/repository/object-keys.ts'
import { assertWhole, collectionTale, forgetPoint } from '../../doubles/collection.ts'
import { intercepted, type StoreRequest } from '../../doubles/intercepted-store.ts'
import { manualClock, passing } from '../../doubles/manual-clock.ts'
import {
  backup,
  beginBackup,
  commitBackup,
  keysOf,
  pointNumber,
  readBack,
  summaryOf,
  timeNumber,
  writeDisk,
} from '../../doubles/memory-repository.ts'

const HOUR_MS = 3_600_000
const C = 4096

const deadLease = leaseId('dead'.repeat(4))

/** What a writer leaves behind that died before its manifest, or behind another point's. */
const dieWith = ({ control }: MaintenanceContext, number = 9, expiryMs = HOUR_MS, vm = 'vm') =>
  control.put('lease', leaseKey(deadLease), {
    counter: 4,
    host: 'dead-host',
    kind: 'backup',
    vm,
    bases: [],
    manifest: pointKey(vm, timeNumber(number), pointNumber(number)),
    refreshMs: expiryMs / 6,
    expiryMs,
    created: '2026-01-02T03:04:05.000Z',
  })

test('readers without a pin are safe for the grace: nothing is deleted before it is over', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  const before = keysOf(tale.store, '')
  const seen: GcProgress[] = []
  const work = collectGarbage(context, { progress: progress => seen.push(progress) })
  await tale.clock.advance(23 * HOUR_MS)
  assert.deepEqual(
    before.filter(key => !tale.store.snapshot().has(key)),
    [],
  )
  const result = await passing(tale.clock, work)
  assert.ok(tale.clock.monotonicMs() >= 24 * HOUR_MS)
  assert.deepEqual(result.removed, [pointNumber(4)])
  const waits = seen.filter(({ phase }) => phase === 'grace')
  assert.ok(waits.length > 10 && waits[0]!.remainingMs === 24 * HOUR_MS)
})

test('a lease that nobody refreshes is fenced after its expiry, and its fence names the manifest', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  await dieWith(context)
  const seen: GcProgress[] = []
  const work = collectGarbage(context, { graceMs: 0, progress: progress => seen.push(progress) })
  await tale.clock.advance(HOUR_MS - 60_000)
  assert.deepEqual(keysOf(tale.store, 'fences/'), [])
  assert.equal(keysOf(tale.store, 'points/').length, 4)
  const result = await passing(tale.clock, work)
  assert.deepEqual(result.leases, { [deadLease]: 'fenced' })
  assert.deepEqual(keysOf(tale.store, 'leases/'), [])
  const [fence] = keysOf(tale.store, 'fences/')
  assert.equal(fence, `fences/${deadLease}/${result.run}`)
  const document = await context.control.get('fence', fence!)
  assert.equal(document?.text('manifest'), pointKey('vm', timeNumber(9), pointNumber(9)))
  assert.deepEqual(seen.find(({ phase }) => phase === 'leases')?.waitsFor, ['backup of vm on dead-host'])
})

test('a lease whose point is there is only removed', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  const repository = await tale.open()
  const { lease } = await repository.manifest(await summaryOf(repository, pointNumber(3)))
  await dieWith(context, 3)
  await tale.store.delete([leaseKey(deadLease)])
  const document = { counter: 1, host: 'h', kind: 'backup', vm: 'vm', bases: [], refreshMs: 1, expiryMs: HOUR_MS }
  await context.control.put('lease', leaseKey(lease), {
    ...document,
    manifest: pointKey('vm', timeNumber(3), pointNumber(3)),
    created: '2026-01-02T03:04:05.000Z',
  })
  const through = intercepted(tale.store, {
    before: ({ key }) => assert.ok(!/^fences\/.*\//.test(key), 'it is not fenced for a moment'),
  })
  const result = await passing(tale.clock, collectGarbage(await tale.context(through), { graceMs: 0 }))
  assert.deepEqual(result.leases, { [lease]: 'committed' })
  assert.deepEqual(keysOf(tale.store, 'fences/'), [])
  await assertWhole(tale, [1, 2, 3])
})

test('a backup that runs is waited for, however long, and what it reuses of forgotten points stays', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  const repository = await tale.open()
  const image = tale.images[3]!
  await using writer = await beginBackup(repository, { number: 5, disks: [{ name: 'vda', image }] })
  // It has looked at the packs of point 4 before that is forgotten.
  await writeDisk(repository, writer, { name: 'vda', image })
  await forgetPoint(context, 4, 'other')
  let settled = false
  const work = collectGarbage(context, { graceMs: 0 }).finally(() => {
    settled = true
  })
  for (let hour = 0; hour < 50; hour++) await tale.clock.advance(HOUR_MS / 12)
  assert.equal(settled, false)
  const manifest = await commitBackup(writer)
  assert.equal(manifest.disks[0]?.bytesNew, 0)
  const result = await passing(tale.clock, work)
  assert.deepEqual(result.removed, [pointNumber(4)])
  assert.deepEqual(Object.values(result.leases), ['ended'])
  const after = await tale.open()
  assert.ok(Buffer.compare(await readBack(after, pointNumber(5), 'vda'), image) === 0)
})

/** When a paused writer goes on, and what becomes of its point, its lease and the fence. */
const wakings = [
  { when: 'before the fence', outcome: 'committed', end: 'committed', fences: [] },
  // Both back out: the run finds the manifest and withdraws, the writer finds the fence and puts its own.
  { when: 'between fence and second look', outcome: 'not-committed', end: 'committed', fences: ['self'] },
  { when: 'after its lease was removed', outcome: 'lease-lost', end: 'fenced', fences: ['run'] },
] as const

for (const { when, outcome, end, fences } of wakings)
  test(`a writer that wakes up ${when}: ${outcome}`, async () => {
    const tale = await collectionTale()
    const repository = await tale.open(tale.store, manualClock())
    const image = tale.images[3]!
    const writer = await beginBackup(repository, { number: 5, disks: [{ name: 'vda', image }] })
    await writeDisk(repository, writer, { name: 'vda', image })
    let found: unknown
    const wake = async () => {
      if (found !== undefined) return
      found = 'woken'
      try {
        await commitBackup(writer)
        found = 'committed'
      } catch (error) {
        found = error instanceof LifeboatError ? error.code : error
      }
    }
    const isFence = ({ verb, key }: StoreRequest) => verb === 'put' && key.startsWith('fences/')
    const through = intercepted(tale.store, {
      before: async request => {
        if (when === 'before the fence' && isFence(request)) await wake()
      },
      after: async request => {
        if (when === 'between fence and second look' && isFence(request)) await wake()
        if (request.verb === 'delete' && request.key.startsWith('leases/')) await wake()
      },
    })
    const context = await tale.context(through)
    await forgetPoint(context, 4, 'other')
    const result = await passing(tale.clock, collectGarbage(context, { graceMs: 0 }))
    assert.deepEqual([found, Object.values(result.leases)], [outcome, [end]])
    const left = keysOf(tale.store, 'fences/').map(key => key.split('/')[2])
    assert.deepEqual(
      left.map(by => (by === result.run ? 'run' : by)),
      fences,
    )
    assert.deepEqual(result.removed, [pointNumber(4)])
    const after = await tale.open()
    const isThere = (await after.points()).some(({ id }) => id === pointNumber(5))
    assert.equal(isThere, outcome === 'committed')
    if (isThere) assert.ok(Buffer.compare(await readBack(after, pointNumber(5), 'vda'), image) === 0)
  })

test('stopped while it removes it ends between two deletions; the rest goes with the next run', async () => {
  const tale = await collectionTale()
  const plain = await tale.context()
  await forgetPoint(plain, 1)
  await forgetPoint(plain, 4, 'other')
  const stop = new AbortController()
  const through = intercepted(tale.store, {
    before: ({ verb, key }) => {
      if (verb === 'delete' && key.startsWith('points/'))
        stop.abort(new LifeboatError('interrupted', 'stopped by a test'))
    },
  })
  const work = collectGarbage(await tale.context(through), { graceMs: 0, signal: stop.signal })
  await assert.rejects(work, { code: 'interrupted' })
  assert.equal(keysOf(tale.store, 'points/').length, 2, 'what was begun is finished')
  assert.deepEqual([keysOf(tale.store, 'forgotten/').length, keysOf(tale.store, 'gc/').length], [2, 0])
  await assertWhole(tale, [2, 3])
  assert.equal((await collectGarbage(plain, { graceMs: 0 })).packs, 4)
})

test('a deletion without an answer may still be on its way: the record stays, and nobody reuses what it names', async () => {
  const tale = await collectionTale()
  const plain = await tale.context()
  await forgetPoint(plain, 4, 'other')
  const through = intercepted(tale.store, {
    before: ({ verb, key }) => {
      if (verb === 'delete' && key.startsWith('packs/')) throw new LifeboatError('store-unreachable', 'no answer')
    },
  })
  const image = tale.images[3]!
  const twin = await backup(await tale.open(), { vm: 'twin', number: 5, disks: [{ name: 'vda', image }] })
  assert.equal(twin.disks[0]?.bytesNew, 0, 'before that it is reused')
  await tale.store.delete(keysOf(tale.store, 'points/twin/'))
  await assert.rejects(collectGarbage(await tale.context(through), { graceMs: 0 }), { code: 'store-unreachable' })
  assert.equal(keysOf(tale.store, 'gc/').length, 1)
  const manifest = await backup(await tale.open(), { vm: 'clone', number: 6, disks: [{ name: 'vda', image }] })
  assert.equal(manifest.disks[0]?.bytesNew, image.length)
})

test('a lease that lives longer than any work may take is fenced all the same', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  await dieWith(context, 9, 10 * limits.leaseLifeMs)
  const result = await passing(tale.clock, collectGarbage(context, { graceMs: 0 }), HOUR_MS)
  assert.deepEqual(result.leases, { [deadLease]: 'fenced' })
  assert.ok(tale.clock.monotonicMs() >= limits.leaseLifeMs)
})

test('slots that a running backup reuses are not dead any more when it has committed', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  const repository = await tale.open()
  // Of what only point 1 has, a third.
  const image = tale.images[0]!.slice(0, 180 * C)
  await using writer = await beginBackup(repository, { vm: 'clone', number: 5, disks: [{ name: 'vda', image }] })
  await writeDisk(repository, writer, { name: 'vda', image })
  await forgetPoint(context, 1)
  const plan = await planGc(context)
  const planned = plan.compact.find(({ sources }) => sources[0]!.startsWith('packs/'))!
  const work = applyGc(context, plan, { graceMs: 0 })
  await tale.clock.advance(60_000)
  const manifest = await commitBackup(writer)
  assert.equal(manifest.disks[0]?.bytesNew, 0)
  const result = await passing(tale.clock, work)
  assert.ok(!tale.store.snapshot().has(planned.sources[0]!), 'it was rewritten all the same')
  assert.ok(result.bytesRewritten > 320 * C)
  assert.ok(Buffer.compare(await readBack(await tale.open(), pointNumber(5), 'vda'), image) === 0)
  await tale.store.delete(keysOf(tale.store, 'points/clone/'))
  await assertWhole(tale, [2, 3, 4])
})

test('a lease that cannot be read stops the run before anything is removed', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  tale.store.tamper(leaseKey(deadLease), new Uint8Array(90))
  await assert.rejects(collectGarbage(context, { graceMs: 0 }), { code: 'gc-stopped' })
  assert.equal(keysOf(tale.store, 'points/').length, 4)
  assert.deepEqual(keysOf(tale.store, 'gc/'), [])
})

/** An export on another host of the point of VM 'other'. */
const exportPin = (expiryMs: number) => ({
  counter: 1,
  point: pointNumber(4),
  manifest: pointKey('other', timeNumber(4), pointNumber(4)),
  kind: 'export',
  host: 'h',
  expiryMs,
  created: '2026-01-02T03:04:05.000Z',
})

test('what is pinned or held stays, and goes when it is not any more', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  const repository = await tale.open()
  const pinned = await repository.openPoint(await summaryOf(repository, pointNumber(4)), { pin: 'session' })
  await context.control.put('hold', 'holds/00000000000000aa', {
    counter: 0,
    point: pointNumber(1),
    manifest: pointKey('vm', timeNumber(1), pointNumber(1)),
    kind: 'hold',
    host: 'h',
    who: 'w',
    reason: 'r',
    expiryMs: null,
    created: '2026-01-02T03:04:05.000Z',
  })
  await forgetPoint(context, 4, 'other')
  await forgetPoint(context, 1)
  const plan = await planGc(context)
  assert.deepEqual(plan.standingPins.map(({ kind }) => kind).sort(), ['hold', 'session'])
  const result = await collectGarbage(context, { graceMs: 0 })
  assert.deepEqual([result.removed, result.packs], [[], 0])
  assert.equal(result.kept['points that are pinned or held'], 2)
  await pinned[Symbol.asyncDispose]()
  await tale.store.delete(['holds/00000000000000aa'])
  assert.deepEqual((await collectGarbage(context, { graceMs: 0 })).removed, [pointNumber(1), pointNumber(4)])
})

test('a pin that is put while the run waits keeps its point', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  const work = collectGarbage(context, { graceMs: HOUR_MS })
  await tale.clock.advance(HOUR_MS / 2)
  await context.control.put('pin', 'pins/00000000000000bb', exportPin(limits.pinExpiryMs))
  const result = await passing(tale.clock, work)
  assert.deepEqual([result.removed, result.packs], [[], 0])
  assert.equal(keysOf(tale.store, 'forgotten/').length, 1)
  const repository = await tale.open()
  const { manifest } = { manifest: await repository.manifest(await summaryOf(repository, pointNumber(4))) }
  assert.equal(manifest.vm, 'other')
})

test('a pin that nobody refreshes for its whole expiry, as this process saw, pins nothing', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  const work = collectGarbage(context, { graceMs: HOUR_MS })
  await tale.clock.advance(60_000)
  await context.control.put('pin', 'pins/00000000000000bb', exportPin(5000))
  // Seen for the first time in step 7, it counts, however old it is.
  assert.deepEqual((await passing(tale.clock, work)).removed, [])
  const plan = await planGc(context)
  assert.equal(plan.forget.size, 0)
  await tale.clock.advance(5000)
  assert.deepEqual(await plan.pins.list({}), [])
})

test('a pin that cannot be read may pin any point', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  tale.store.tamper('pins/00000000000000bb', new Uint8Array(90))
  const result = await collectGarbage(context, { graceMs: 0 })
  assert.deepEqual(result.removed, [])
  assert.equal(result.kept['points that an unreadable pin may pin'], 1)
})

for (const stage of ['leases', 'grace'] as const)
  test(`stopped while it waits (${stage}) it has deleted nothing, and takes back its record`, async () => {
    const tale = await collectionTale()
    const context = await tale.context()
    await forgetPoint(context, 4, 'other')
    if (stage === 'leases') await dieWith(context)
    const before = keysOf(tale.store, '')
    const stop = new AbortController()
    const work = collectGarbage(context, { signal: stop.signal })
    await tale.clock.advance(60_000)
    assert.equal(keysOf(tale.store, 'gc/').length, 1)
    stop.abort(new LifeboatError('interrupted', 'stopped by a test'))
    await assert.rejects(work, { code: 'interrupted' })
    assert.deepEqual(keysOf(tale.store, ''), before)
  })

test('a host that may not delete is told so at once, and waits for nothing', async () => {
  const tale = await collectionTale()
  const plain = await tale.context()
  await forgetPoint(plain, 4, 'other')
  const denying = {
    ...tale.store,
    delete: async () => {
      throw new LifeboatError('store-denied', 'AccessDenied')
    },
  }
  const context = await tale.context(denying)
  await assert.rejects(collectGarbage(context), { code: 'store-denied', message: /may not delete gc\// })
  // What it leaves is a record of nothing.
  const [record] = keysOf(tale.store, 'gc/')
  assert.deepEqual((await plain.control.get('gc', record!))?.texts('condemned', 10), [])
})

test('a store whose listings are late is refused, unless nobody else works there', async () => {
  const tale = await collectionTale()
  const plain = await tale.context()
  await forgetPoint(plain, 4, 'other')
  let newest = ''
  const late = {
    ...intercepted(tale.store, {
      after: ({ verb, key }) => {
        if (verb === 'put') newest = key
      },
    }),
    async *list(...args: Parameters<typeof tale.store.list>) {
      for await (const info of tale.store.list(...args)) if (info.key !== newest) yield info
    },
  }
  const context = await tale.context(late)
  await assert.rejects(collectGarbage(context, { graceMs: 0 }), { code: 'gc-stopped' })
  assert.equal(keysOf(tale.store, 'points/').length, 4)
  assert.deepEqual((await collectGarbage(context, { graceMs: 0, exclusive: true })).removed, [pointNumber(4)])
})

test('a run whose record somebody removed while it waited removes nothing', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  await forgetPoint(context, 4, 'other')
  const work = collectGarbage(context, { graceMs: HOUR_MS })
  await tale.clock.advance(60_000)
  await tale.store.delete(keysOf(tale.store, 'gc/'))
  await assert.rejects(passing(tale.clock, work), { code: 'gc-stopped' })
  assert.equal(keysOf(tale.store, 'points/').length, 4)
})

test('two collections may overlap, and say so', async () => {
  const tale = await collectionTale()
  const [one, two] = [
    await tale.context(),
    { ...(await tale.context()), random: (n: number) => new Uint8Array(n).fill(5) },
  ]
  await forgetPoint(one, 1)
  await forgetPoint(one, 4, 'other')
  const first = collectGarbage(one, { graceMs: HOUR_MS })
  await tale.clock.advance(60_000)
  const plan = await planGc(two)
  assert.deepEqual(
    plan.others.map(({ who }) => who),
    ['tester@host'],
  )
  const second = applyGc(two, plan, { graceMs: HOUR_MS })
  await passing(tale.clock, Promise.all([first, second]))
  assert.deepEqual(keysOf(tale.store, 'gc/'), [])
  await assertWhole(tale, [2, 3])
  const last = await collectGarbage(one, { graceMs: 0 })
  await assertWhole(tale, [2, 3])
  assert.equal((await collectGarbage(one, { graceMs: 0 })).packs, 0, JSON.stringify(last))
})

test('unlock fences what died, leaves alone what lives, and is in the audit', async () => {
  const tale = await collectionTale()
  const context = await tale.context()
  const repository = await tale.open()
  const image = new Uint8Array(10 * C).fill(1)
  await using writer = await beginBackup(repository, { number: 5, disks: [{ name: 'vda', image }] })
  await dieWith(context)
  const ends = await passing(tale.clock, unlockLeases(context))
  assert.equal(ends[deadLease], 'fenced')
  assert.deepEqual(Object.values(ends).sort(), ['alive', 'fenced'])
  const audits = await Promise.all(keysOf(tale.store, 'audit/').map(key => context.control.get('audit', key)))
  assert.deepEqual(
    audits.map(audit => audit?.text('action')),
    ['unlock'],
  )
  await writeDisk(repository, writer, { name: 'vda', image })
  await commitBackup(writer)
})

test('a second mark that takes longer than half the grace, or meets a manifest that goes, is done again after another look at pins', async () => {
  for (const why of ['slow', 'gone'] as const) {
    const tale = await collectionTale()
    const context = await tale.context()
    await forgetPoint(context, 4, 'other')
    const vanishing = pointKey('vm', timeNumber(9), pointNumber(9))
    await backup(await tale.open(), { number: 9, disks: [{ name: 'vda', image: tale.images[0]! }] })
    const pin = {
      counter: 1,
      point: pointNumber(4),
      manifest: 'points/x',
      kind: 'export',
      host: 'h',
      expiryMs: HOUR_MS,
      created: '2026-01-02T03:04:05.000Z',
    }
    let looks = 0
    let times = 0
    const watched = intercepted(tale.store, {
      async before({ verb, key }) {
        if (keysOf(tale.store, 'audit/').length > 0 || looks === 0) return
        const isIt = why === 'slow' ? verb === 'list' && key === 'points/' : verb === 'get' && key === vanishing
        if (!isIt || times++ > 0) return
        // A reader that had looked for the mark before it was put.
        await context.control.put('pin', 'pins/00000000000000bb', pin)
        if (why === 'slow') await tale.clock.advance(2 * 60_000)
        else tale.store.tamper(vanishing, undefined)
      },
    })
    const counting = intercepted(watched, {
      before({ verb, key }) {
        if (verb === 'list' && key === 'pins/' && keysOf(tale.store, 'gc/').length > 0) looks++
      },
    })
    const plan = await planGc(await tale.context(counting))
    // Manifests never change, so that only one which is new to the second mark is read by it.
    plan.mark.manifests.delete(vanishing)
    const { removed } = await applyGc(await tale.context(counting), { ...plan }, { graceMs: 0 })
    assert.deepEqual([removed, times > 0], [[], true], why)
  }
})
