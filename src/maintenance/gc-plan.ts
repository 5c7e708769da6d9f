/**
 * What a collection may remove: steps 1 to 3 of the run (docs/concurrency.md, section 6). It reads and writes nothing; what it
 * gives is a proposal, which `applyGc` announces, waits upon, and looks at again before anything is removed.
 */
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { parsePackKey, parsePointKey } from '../repository/object-keys.ts'
import { abandonedPoints } from './abandoned-points.ts'
import { type CompactionPlan, planCompaction } from './compaction-plan.ts'
import {
  type CondemnedHint,
  type CondemnedPack,
  condemnedPack,
  damageMarks,
  deadIndexes,
  deadRows,
  isLocked,
  orphanTraces,
} from './condemned.ts'
import { type ForgottenPoints, readForgotten, withinRecord, withoutLocked, withoutPinned } from './forgotten-points.ts'
import { type GcOptions, KeptCounts } from './gc-progress.ts'
import { lockView } from './lock-view.ts'
import type { MaintenanceContext } from './maintenance.ts'
import { Mark, storedNodes } from './mark.ts'
import { type OtherRun, readOtherRuns } from './other-runs.ts'
import { PackTable } from './pack-table.ts'
import { isStale, PinWatch, type SeenPin } from './pinned-points.ts'
import { listFences, listPointObjects, markRoots } from './roots.ts'

export interface GcPlan {
  /** F: points that were forgotten and that nobody reads. */
  readonly forget: ForgottenPoints
  /** C: packs without a live slot. */
  readonly condemned: readonly CondemnedPack[]
  /** With them go indexes that name little else, the marks on packs that were damaged, and traces of VMs without points. */
  readonly hints: readonly CondemnedHint[]
  /** D. */
  readonly compact: readonly CompactionPlan[]
  /** Never committed, and nobody has adopted them in a month: they are marked now, and go with the next run. */
  readonly abandoned: ForgottenPoints
  /** What stays although it could go, by reason. */
  readonly kept: Readonly<Record<string, number>>
  /** Manifests that do not count and that nobody has forgotten: their writers may have been told that they do. */
  readonly voids: readonly string[]
  /** What keeps a point until somebody removes it: sessions, holds, and pins of readers that seem to have died. */
  readonly standingPins: readonly SeenPin[]
  /** With --exclusive: of those, the ones that count for nothing, and go at the end. */
  readonly deadPins: readonly SeenPin[]
  /** Other collections, under way or dead. */
  readonly others: readonly OtherRun[]
  /** Leases that were fenced, of backups that never ended. */
  readonly fences: number
  /** The store's clock when the plan was made. */
  readonly storeNow: Date
  readonly objects: number
  readonly bytes: number
  /** What was marked stays marked: `applyGc` adds what is new, and asks the same watch about pins. */
  readonly mark: Mark
  readonly pins: PinWatch
}

/** What the record holds besides names. */
const RECORD_SLACK = 64 * 1024

export async function planGc(context: MaintenanceContext, options: GcOptions = {}): Promise<GcPlan> {
  const { signal } = options
  const kept = new KeptCounts()
  const locks = lockView(context.store)
  const pins = new PinWatch(context)
  const storeNow = await context.store.now({ signal })
  const others = await readOtherRuns(context, { signal })
  const marked = await readForgotten(context, kept, { signal }) // 1
  const seen = await pins.list({ signal }) // 2
  const unpinned = withinRecord(withoutPinned(marked, countingPins(seen, storeNow, options), kept), kept)
  const forget = await withoutLocked(unpinned, locks, kept, { signal })
  const { mark, bytes, points, fences, voids } = await markAll(context, forget, options) // 3
  const { table } = mark
  const damaged = await damageMarks(context, { signal })
  let room = limits.runRecordMax - RECORD_SLACK - jsonBytes([...forget.values()])
  const takeRoom = (keys: readonly string[]): boolean => {
    const size = jsonBytes(keys)
    const fits = size <= room
    if (fits) room -= size
    else kept.add('dead objects that wait for the next run', keys.length)
    return fits
  }
  const condemned: CondemnedPack[] = []
  for (const row of deadRows(table)) {
    const pack = condemnedPack(table, row)
    if (await isLocked(locks, pack.keys, { signal })) kept.add('dead objects that are locked', pack.keys.length)
    else if (takeRoom(pack.keys)) condemned.push(pack)
  }
  const hints: CondemnedHint[] = condemned
    .flatMap(({ pack }) => damaged.get(pack) ?? [])
    .map(key => ({ key, bytes: 0 }))
  if (condemned.length > 0) hints.push(...(await deadIndexes(context, table, { signal })))
  const removed = new Set(forget.values())
  const remaining = points.map(({ key }) => key).filter(key => !removed.has(key))
  hints.push(...(await orphanTraces(context, remaining, { signal })))
  const fitting = hints.filter(({ key }) => takeRoom([key]))
  const compact = await planCompaction(context, { table, damaged, locks, kept, room, storeNow }, { signal })
  return {
    forget,
    condemned,
    hints: fitting,
    compact,
    abandoned: await abandonedPoints(context, points, { voids, marked, storeNow }, { signal }),
    kept: kept.all(),
    voids: [...voids.keys()].filter(key => !marked.has(parsePointKey(key)!.point)),
    standingPins: seen.filter(pin => pin.expiryMs === null || isStale(pin, storeNow)),
    deadPins: options.exclusive ? seen.filter(pin => isStale(pin, storeNow)) : [],
    others,
    fences: fences.size,
    storeNow,
    objects: table.objects,
    bytes,
    mark,
    pins,
  }
}

/** Whether there is anything to announce. */
export const isEmptyPlan = ({ forget, condemned, hints, compact }: GcPlan): boolean =>
  forget.size + condemned.length + hints.length + compact.length === 0

/** Packs are listed before points: one that was stored between is named by no point yet, and is not in the listing. */
async function markAll(context: MaintenanceContext, forget: ForgottenPoints, { signal, progress }: GcOptions) {
  const removed = new Set(forget.values())
  for (;;) {
    const table = new PackTable()
    const bytes = await listPacks(context, table, { signal }, objects =>
      progress?.({ phase: 'listing', done: objects, total: objects }),
    )
    const points = await listPointObjects(context, { signal })
    const fences = await listFences(context, { signal })
    const mark = new Mark(table, storedNodes(context))
    const keys = points.map(({ key }) => key).filter(key => !removed.has(key))
    const { outcome, voids } = await markRoots(context, mark, keys, {
      fences,
      signal,
      progress: (done, total) => progress?.({ phase: 'marking', done, total }),
    })
    // A manifest that another run has removed meanwhile needs nothing. Half a walk of one is no mark.
    if (outcome !== 'torn') return { mark, bytes, points, fences, voids }
  }
}

const LISTED_PER_REPORT = 10_000

async function listPacks(
  { store }: MaintenanceContext,
  table: PackTable,
  options: AbortOptions,
  report: (objects: number) => void,
): Promise<number> {
  let bytes = 0
  for (const prefix of ['packs/', 'meta/'])
    for await (const info of store.list(prefix, options)) {
      const place = parsePackKey(info.key)
      // A stranger's object is nobody's garbage.
      if (!place) continue
      table.addObject(place.kind, place.domain, place.pack, place.run, info)
      bytes += info.size
      if (table.objects % LISTED_PER_REPORT === 0) report(table.objects)
    }
  return bytes
}

/** With --exclusive, that nobody reads is the operator's word, and the store's that nobody refreshed the pin for its whole expiry. */
export const countingPins = (pins: readonly SeenPin[], storeNow: Date, { exclusive = false }: GcOptions) =>
  exclusive ? pins.filter(pin => !isStale(pin, storeNow)) : pins

/** Keys need no escapes. */
const jsonBytes = (keys: readonly string[]): number => keys.reduce((sum, key) => sum + key.length + 3, 0)
