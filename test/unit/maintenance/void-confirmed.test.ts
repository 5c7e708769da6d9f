/** A collector that dies between its fence and its second look takes a point away that somebody was told of: it is seen, and comes back. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../../../src/core/random.ts'
import { adoptPoint } from '../../../src/maintenance/adopt.ts'
import { collectGarbage } from '../../../src/maintenance/gc.ts'
import { planGc } from '../../../src/maintenance/gc-plan.ts'
import { collectionTale, forgetPoint } from '../../doubles/collection.ts'
import { intercepted } from '../../doubles/intercepted-store.ts'
import { manualClock, passing } from '../../doubles/manual-clock.ts'
import {
  beginBackup,
  commitBackup,
  keysOf,
  pointNumber,
  readBack,
  summaryOf,
  writeDisk,
} from '../../doubles/memory-repository.ts'

test('the point is listed as void, named by the next collection, no base, and back after its adoption', async () => {
  const tale = await collectionTale()
  const image = seededRandom('late')(200_000)
  // The writer's host stands still, so that its lease is not refreshed; its own clock says nothing of it.
  const writer = await beginBackup(await tale.open(tale.store, manualClock()), {
    number: 5,
    disks: [{ name: 'vda', image }],
  })
  await writeDisk(await tale.open(), writer, { name: 'vda', image })
  let committed: Promise<unknown> | undefined
  let fences = 0
  const dying = intercepted(tale.store, {
    async before({ verb, key }) {
      if (fences > 0) throw new Error('the host is gone')
      // Between the collector's look for the manifest and its fence the writer stores it, finds no fence, and tells of success.
      if (verb !== 'put' || !key.startsWith('fences/')) return
      committed = commitBackup(writer)
      await committed
    },
    after({ verb, key }) {
      if (verb === 'put' && key.startsWith('fences/')) fences++
    },
  })
  const context = await tale.context(dying)
  await forgetPoint(await tale.context(), 4, 'other')
  await assert.rejects(passing(tale.clock, collectGarbage(context, { graceMs: 0 })))
  await committed
  await writer[Symbol.asyncDispose]()
  assert.equal(fences, 1, 'the story took place')

  const repository = await tale.open()
  const lost = await summaryOf(repository, pointNumber(5))
  assert.equal(lost.state, 'void')
  const plan = await planGc(await tale.context())
  assert.deepEqual(plan.voids, [lost.key])
  await using next = await beginBackup(repository, { number: 6, disks: [], bases: [pointNumber(5)] })
  assert.equal(next.bases.size, 0)
  await next[Symbol.asyncDispose]()
  // Collections leave what it needs alone.
  await passing(tale.clock, collectGarbage(await tale.context(), { graceMs: 0 }))
  const { manifest } = await adoptPoint(repository, { point: lost, who: 'a@b' })
  assert.ok(Buffer.compare(await readBack(repository, manifest.point, 'vda'), image) === 0)
  assert.deepEqual((await planGc(await tale.context())).voids, [], 'nobody is told of it any more')
  assert.equal(keysOf(tale.store, 'points/').length, 5)
})
