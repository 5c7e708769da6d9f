/**
 * Real processes that are killed before and after each change that maintenance makes to a disk: at every point a key opens the
 * repository, every listed point restores bit for bit, the work done again ends, and one collection leaves nothing that nothing needs.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { isIntegrityError } from '../../src/core/errors.ts'
import { seededRandom } from '../../src/core/random.ts'
import { deadIndexes } from '../../src/maintenance/condemned.ts'
import { collectGarbage } from '../../src/maintenance/gc.ts'
import { isEmptyPlan, planGc } from '../../src/maintenance/gc-plan.ts'
import { maintenanceContext } from '../../src/maintenance/maintenance.ts'
import { reachedBy } from '../../src/maintenance/reached-objects.ts'
import { unlockLeases } from '../../src/maintenance/unlock.ts'
import { initRepository } from '../../src/repository/init.ts'
import { parsePackKey, pointsPrefix } from '../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import { filesystemStore } from '../../src/storage/filesystem.ts'
import { forgetPoint, writeTale } from '../doubles/collection.ts'
import { crashEverywhere } from '../doubles/crash.ts'
import {
  backUpNext,
  CHUNK,
  firstKey,
  nextImage,
  openAny,
  opens,
  openWith,
  verifyAndMark,
  type Worker,
  type WorkName,
  works,
} from '../doubles/maintenance-works.ts'
import { manualClock, passing } from '../doubles/manual-clock.ts'
import { readBack } from '../doubles/memory-repository.ts'

const copy = (from: string, to: string) => promisify(execFile)('cp', ['-r', '--reflink=auto', from, to])

interface Scene {
  /** Before the work, in addition to points 1 to 3 of 'vm' and 4 of 'other'. */
  readonly set?: (repository: OpenedRepository, root: string) => Promise<void>
  /** Points that are there when it is done: 5 and what follows are those that the work adds. */
  readonly left: readonly number[]
  readonly isDamaged?: boolean
}

const scenes: Readonly<Record<WorkName, Scene>> = {
  'incremental backup': { left: [1, 2, 3, 4] },
  'forget and prune': { left: [3] },
  'garbage collection': {
    async set(repository) {
      await forgetPoint(maintenanceContext(repository, 'jane@box'), 1)
      await forgetPoint(maintenanceContext(repository, 'jane@box'), 4, 'other')
    },
    left: [2, 3],
  },
  'exchange of keys': { left: [1, 2, 3, 4] },
  'new data keys': { left: [1, 2, 3, 4] },
  'a hold, and its end': { left: [1, 2, 3, 4] },
  'marks of damage, and healing': {
    async set({ reading: { store } }, root) {
      const packs = (await Array.fromAsync(store.list('packs/'))).toSorted((a, b) => b.size - a.size)
      const file = path.join(root, packs[0]!.key)
      const bytes = await readFile(file)
      // Records that point 3 still needs.
      for (const slot of [1, 25, 29]) bytes[slot * (CHUNK + 20) + 40]! ^= 1
      await writeFile(file, bytes)
    },
    left: [1, 2, 3, 4],
    isDamaged: true,
  },
}

/** Numbers of the points that are listed, each of which was read whole and is what it was, or fails where its pack has rotted. */
async function restored(repository: OpenedRepository, images: readonly Uint8Array[], isDamaged: boolean) {
  const numbers: number[] = []
  for (const { id } of await repository.points()) {
    const number = Number.parseInt(id, 16)
    numbers.push(number)
    try {
      const bytes = await readBack(repository, id, 'vda')
      assert.ok(Buffer.compare(bytes, images[Math.min(number, images.length) - 1]!) === 0, `point ${number} differs`)
    } catch (error) {
      if (!isDamaged || !isIntegrityError(error)) throw error
    }
  }
  return numbers.sort((a, b) => a - b)
}

async function assertNothingIsLeft({ reading: { store, keyring, records } }: OpenedRepository): Promise<void> {
  const keys = async (prefix: string) => (await Array.fromAsync(store.list(prefix))).map(({ key }) => key)
  for (const prefix of ['leases/', 'gc/', 'forgotten/', 'holds/', 'damaged/'])
    assert.deepEqual(await keys(prefix), [], prefix)
  const needed = await reachedBy({ store, keyring, records }, await keys(pointsPrefix), {})
  for (const key of [...(await keys('packs/')), ...(await keys('meta/'))])
    assert.ok(needed.has(parsePackKey(key)!.pack), `nothing needs ${key}`)
}

for (const [name, { set, left, isDamaged = false }] of Object.entries(scenes) as [WorkName, Scene][])
  test(`${name}: killed before and after each change of the disk`, { timeout: 600_000 }, async t => {
    const dir = await mkdtemp(path.join(tmpdir(), 'lifeboat-killed-'))
    t.after(() => rm(dir, { recursive: true, force: true }))
    const template = path.join(dir, 'template')
    const random = seededRandom(name)
    const made = filesystemStore(template, { create: true, random })
    await initRepository({ store: made, credential: firstKey, chunkSize: CHUNK, random, clock: manualClock() })
    const writer = await openWith({ store: made, random })
    const images = [...(await writeTale(writer, CHUNK))]
    await set?.(writer, template)
    await writeFile(path.join(dir, 'image'), images[2]!)
    images.push(isDamaged ? images[2]! : nextImage(images[2]!))
    let runs = 0
    const seen = new Map<string, number>()
    const count = await crashEverywhere({
      program: new URL('../doubles/killed-maintenance-child.ts', import.meta.url),
      async prepare() {
        const root = path.join(dir, `run-${runs++}`)
        await copy(template, root)
        return [root, path.join(dir, 'image'), name]
      },
      async inspect({ lines, place }, [root = '']) {
        const clock = manualClock(new Date().toISOString())
        const worker: Worker = { store: filesystemStore(root), random: seededRandom(`after ${runs}`), clock }
        const isDone = lines.includes('done')
        assert.equal(isDone, place === undefined)
        const listed = await restored(await openAny(worker), images, isDamaged && !isDone)
        for (const number of left) assert.ok(listed.includes(number), `point ${number} is gone`)
        const what = `${listed.join(' ')} by ${(await opens(worker, firstKey)) ? 'the first key' : 'the later key'}`
        seen.set(what, (seen.get(what) ?? 0) + 1)
        await works[name](worker, images[2]!)
        if (name === 'new data keys') await backUpNext(await openAny(worker), images[4]!)
        const repository = await openAny(worker)
        if (isDamaged) assert.deepEqual(await verifyAndMark(repository), [], 'healed')
        await passing(clock, unlockLeases(maintenanceContext(repository, 'a@b')), 1000)
        await passing(
          clock,
          collectGarbage(maintenanceContext(repository, 'a@b'), { graceMs: 0, exclusive: true }),
          1000,
        )
        const last = await restored(await openAny(worker), images, false)
        assert.deepEqual(
          last.filter(number => number < 5),
          left,
        )
        const after = maintenanceContext(await openAny(worker), 'a@b')
        const plan = await planGc(after)
        assert.ok(isEmptyPlan(plan), 'a second collection finds nothing')
        assert.deepEqual(await deadIndexes(after, plan.mark.table, {}), [])
        await assertNothingIsLeft(await openAny(worker))
        await rm(root, { recursive: true })
      },
    })
    t.diagnostic(`${count} changes of the disk, ${2 * count} kills; points found: ${JSON.stringify([...seen])}`)
    assert.ok(count >= 12, `${count} changes`)
  })
