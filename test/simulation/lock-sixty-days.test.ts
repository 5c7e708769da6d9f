/**
 * Sixty days of a repository with locks: a backup a day, prune by policy, renewals and collections, on a clock that a test moves.
 * Each day nothing that a kept point needs is locked for less than is promised, everything that is listed restores, and what
 * retention lets go is gone soon after its lock.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../../src/core/random.ts'
import { collectGarbage } from '../../src/maintenance/gc.ts'
import { renewLocks } from '../../src/maintenance/lock-renewal.ts'
import { maintenanceContext } from '../../src/maintenance/maintenance.ts'
import { setPolicy } from '../../src/maintenance/policy.ts'
import { applyPrune, planPrune } from '../../src/maintenance/prune.ts'
import { keptObjects, reachedBy } from '../../src/maintenance/reached-objects.ts'
import { promisedUntil } from '../../src/repository/lock-policy.ts'
import { DAY_MS, lockedRepository } from '../doubles/locked-repository.ts'
import { commitBackup, pointNumber, readBack, storedBytes, writeDisk } from '../doubles/memory-repository.ts'

const C = 4096
const DISK_CHUNKS = 96
const DAYS = 60
const lock = { mode: 'compliance', forMs: 8 * DAY_MS, renewEveryMs: 2 * DAY_MS } as const

test('sixty days of backups, retention, renewals and collections under locks', async t => {
  const seed = process.env.SEED ?? 'sixty'
  const random = seededRandom(seed)
  const { store, clock, open } = await lockedRepository(lock, seed)
  const first = maintenanceContext(await open(), 'who@host')
  await setPolicy(first, undefined, { keepDaily: 5, keepWeekly: 3 })
  const images = new Map<string, Uint8Array>()
  let image = random(DISK_CHUNKS * C)
  let before: string | undefined
  const seen = { extended: 0, removed: 0, forgotten: 0, refused: 0, leastMarginMs: Number.POSITIVE_INFINITY }
  for (let day = 1; day <= DAYS; day++) {
    const repository = await open()
    const context = maintenanceContext(repository, 'who@host')

    image = image.slice()
    const at = (random(1)[0]! % (DISK_CHUNKS - 16)) * C
    image.set(random(16 * C), at)
    const point = pointNumber(day)
    {
      const bases = before === undefined ? [] : [pointNumber(day - 1)]
      const takenAt = clock.now()
      await using writer = await repository.beginPoint({ vm: 'vm', point, takenAt, kind: 'backup', bases })
      assert.equal(writer.bases.size, bases.length, `day ${day}: the base does not count`)
      const base = bases[0]
      const changed = base && [{ offset: at, length: 16 * C }]
      await writeDisk(repository, writer, { name: 'vda', image, base, changed })
      await commitBackup(writer)
    }
    before = point
    images.set(point, image)

    const plan = await planPrune(context, { zone: 'UTC' })
    await applyPrune(context, plan)
    seen.forgotten += plan.remove.length
    seen.refused += plan.keep.filter(({ isOutlived }) => isOutlived).length
    // Every second day, at times half a day late.
    if (day % 2 === 0) seen.extended += (await renewLocks(context)).extended
    seen.removed += (await collectGarbage(context, { graceMs: 0 })).removed.length

    const kept = plan.keep.filter(({ isOutlived }) => !isOutlived).map(entry => entry.point.key)
    const reached = await reachedBy(context, kept, {})
    assert.equal(reached.damaged.size, 0, `day ${day}`)
    for await (const { key, versions } of keptObjects(store.versioned, reached, {})) {
      const { retainUntil } = await store.versioned.lockOf(key, versions[0]?.versionId)
      const marginMs = (retainUntil?.getTime() ?? 0) - promisedUntil(lock, clock.now()).getTime()
      seen.leastMarginMs = Math.min(seen.leastMarginMs, marginMs)
      assert.ok(marginMs >= 0, `day ${day}: ${key} is ${-marginMs} ms short of the promise`)
    }
    if (day % 20 === 0)
      for (const { id } of await repository.points())
        assert.ok(Buffer.compare(await readBack(repository, id, 'vda'), images.get(id)!) === 0, `day ${day}: ${id}`)
    await clock.advance(day % 7 === 0 ? DAY_MS * 1.25 : DAY_MS)
  }
  const repository = await open()
  const points = await repository.points()
  // 5 daily and 3 weekly, and those that left retention less than a lock ago.
  assert.ok(points.length <= 8 + 12, `${points.length} points are left`)
  assert.ok(seen.removed >= DAYS - 20 && seen.extended > 0 && seen.refused > 0, JSON.stringify(seen))
  const bytes = storedBytes(store, 'packs/')
  t.diagnostic(`${JSON.stringify(seen)}, ${points.length} points in ${bytes} bytes of packs`)
  assert.ok(bytes < DAYS * 16 * C, 'garbage stays')
})
