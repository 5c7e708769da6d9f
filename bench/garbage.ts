/**
 * Half a year of daily backups under a GFS policy, with prune and collection each day, on simulated days and shipped code: how
 * much of what is stored nobody needs any more, and how much was rewritten to keep it there.
 */
import { hex, type PointId, pointId } from '../src/core/ids.ts'
import { GiB, KiB, limits, MiB } from '../src/core/limits.ts'
import { seededRandom } from '../src/core/random.ts'
import { collectGarbage } from '../src/maintenance/gc.ts'
import { planGc } from '../src/maintenance/gc-plan.ts'
import { type MaintenanceContext, maintenanceContext } from '../src/maintenance/maintenance.ts'
import { applyPrune, planPrune } from '../src/maintenance/prune.ts'
import { loadPipeline } from '../src/native/native.ts'
import { initRepository } from '../src/repository/init.ts'
import { type OpenedRepository, openRepository } from '../src/repository/open.ts'
import { type MemoryStore, memoryStore } from '../src/storage/memory.ts'
import { manualClock } from '../test/doubles/manual-clock.ts'
import { type Goal, judge } from './goal.ts'

const DAYS = 180
const VMS = ['web1', 'web2', 'db']
const DISK = GiB / 2
const CHUNK = 64 * KiB
/** Of the disk each day; four fifths of the changes fall on a fifth of it. */
const CHANGED = 0.01
const HOT = 0.2
const POLICY = { keepDaily: 7, keepWeekly: 4, keepMonthly: 6 }
const DAY_MS = 24 * 3_600_000

export const goal: Goal = {
  id: 'garbage',
  title: 'retention',
  async run({ record, say }) {
    const clock = manualClock('2026-01-01T03:00:00.000Z')
    const random = seededRandom('half a year')
    const store = memoryStore({ clock })
    const credential = { kind: 'file', secret: random(32) } as const
    await initRepository({ store, credential, random, clock })
    const pipeline = loadPipeline()
    await using repository = await openRepository({ store, credential, clock, random, host: 'bench', pipeline })
    const context = maintenanceContext(repository, 'bench')
    const bases = new Map<string, PointId>()
    const sums = { new: 0, rewritten: 0, freed: 0 }
    const shares: number[] = []
    for (let day = 0; day < DAYS; day++) {
      for (const vm of VMS) sums.new += await backup(repository, vm, bases, clock.now(), random)
      await clock.advance(3_600_000)
      await applyPrune(context, await planPrune(context, { policy: POLICY, zone: 'UTC' }))
      const { bytesFreed, bytesRewritten } = await collectGarbage(context, { graceMs: 0 })
      sums.rewritten += bytesRewritten
      sums.freed += bytesFreed
      await clock.advance(DAY_MS - 3_600_000)
      if (day >= 30 && day % 10 === 0) shares.push(await garbageShare(context))
      if (day % 30 === 0)
        say(
          `day ${day}: ${(sums.new / MiB).toFixed(0)} MiB written, ${((shares.at(-1) ?? 0) * 100).toFixed(1)} % garbage`,
        )
    }
    const objects = packObjects(store)
    record('objects', objects)
    say(
      `${objects.count} data packs, ${objects.rewritten} of them rewritten (${(objects.rewrittenBytes / objects.rewritten / MiB).toFixed(1)} MiB each); ` +
        `as full packs the rewritten ones would be ${Math.ceil(objects.rewrittenBytes / limits.packTargetBytes)}`,
    )
    const rewritten = sums.rewritten / sums.new
    const ofIncrements = sums.rewritten / (sums.new - VMS.length * DISK)
    record('figures', { ...sums, shares, rewritten, ofIncrements })
    say(
      `rewritten: ${(rewritten * 100).toFixed(0)} % of all that was stored, ${(ofIncrements * 100).toFixed(0)} % of the increments`,
    )
    const row = (what: string, ratios: readonly number[], atMost: number) =>
      judge({ goal: `garbage: ${what}`, product: 'repository', peer: '180 days of GFS', ratios, target: { atMost } })
    return [row('garbage / stored', shares, 0.1), row('rewritten / new', [rewritten], 0.3)]
  },
}

/** How many objects compaction leaves: survivors of a pack stay in an object of their own. */
function packObjects(store: MemoryStore) {
  const sizes = [...store.snapshot()]
    .filter(([key]) => key.startsWith('packs/'))
    .map(([key, { bytes }]) => [key, bytes.length] as const)
  const rewritten = sizes.filter(([key]) => key.includes('.'))
  const sum = (some: readonly (readonly [string, number])[]) => some.reduce((total, [, size]) => total + size, 0)
  return { count: sizes.length, bytes: sum(sizes), rewritten: rewritten.length, rewrittenBytes: sum(rewritten) }
}

/** Gives the bytes stored. */
async function backup(
  repository: OpenedRepository,
  vm: string,
  bases: Map<string, PointId>,
  takenAt: Date,
  random: (length: number) => Uint8Array,
): Promise<number> {
  const base = bases.get(vm)
  const point = pointId(hex(random(8)))
  const request = { vm, point, takenAt, kind: 'backup', bases: base ? [base] : [] }
  await using writer = await repository.beginPoint(request)
  const disk = await writer.disk({ name: 'vda', size: DISK, base, description: {} })
  if (base) for (const chunk of changes(random)) await disk.write(chunk * CHUNK, random(CHUNK).slice())
  else for (let at = 0; at < DISK; at += MiB) await disk.write(at, random(MiB).slice())
  const { bytesStored } = await disk.finish({ bytesRead: 0 })
  await writer.commit({ kind: base ? 'incremental' : 'full', consistency: 'crash', description: {}, omitted: [] })
  bases.set(vm, point)
  return bytesStored
}

function changes(random: (length: number) => Uint8Array): number[] {
  const chunks = DISK / CHUNK
  const picked = new Set<number>()
  while (picked.size < chunks * CHANGED) {
    const draw = new Uint32Array(random(8).slice().buffer)
    const isHot = draw[0]! / 2 ** 32 < 0.8
    picked.add(Math.floor((draw[1]! / 2 ** 32) * chunks * (isHot ? HOT : 1)))
  }
  return [...picked].sort((a, b) => a - b)
}

/** Of all packs: what no root reaches. Footers and checksums of packs that live count as needed. */
async function garbageShare(context: MaintenanceContext): Promise<number> {
  const { mark } = await planGc(context, { graceMs: 0 })
  let stored = 0
  let live = 0
  for (let row = 0; row < mark.table.count; row++) {
    stored += mark.table.storedBytes(row)
    live += mark.table.liveBytes(row)
  }
  return 1 - live / stored
}
