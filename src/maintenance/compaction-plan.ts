/** D: packs of which much is dead. Their live records are copied into one new object, and all others are deleted. */
import { isIntegrityError } from '../core/errors.ts'
import { hex, type PackId } from '../core/ids.ts'
import { limits, MiB } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { footerLength, trailerBytes } from '../repository/pack-codec.ts'
import { type PackObject, readPackRows } from '../repository/pack-object.ts'
import { isLocked } from './condemned.ts'
import type { KeptCounts } from './gc-progress.ts'
import type { LockView } from './lock-view.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { PackTable } from './pack-table.ts'

export interface CompactionPlan {
  readonly pack: PackId
  /** All objects of the pack id, the original first. */
  readonly sources: readonly string[]
  readonly bytes: number
  /** About what the copy will take. */
  readonly bytesAfter: number
  /** Slots of this pack that no root reaches, ascending. */
  readonly dead: readonly number[]
}

export interface CompactionChoice {
  readonly table: PackTable
  /** Packs that verify found damaged: what is wrong with them is for healing. */
  readonly damaged: { has(pack: string): boolean }
  readonly locks: LockView | undefined
  readonly kept: KeptCounts
  /** Bytes of the run's record. */
  readonly room: number
  readonly storeNow: Date
}

/** Their objects are in memory, all of one pack at once. Packs are a quarter of it; what claims more is odd, and stays. */
const SOURCES_MAX_BYTES = 64 * MiB

/** Stored bytes of the object that a compaction would make. */
function compactedBytes(liveCount: number, liveBytes: number): number {
  const checked = liveBytes + footerLength(liveCount, true)
  return checked + Math.ceil(checked / MiB) * 32 + trailerBytes
}

/**
 * Which packs to rewrite: those that give back most for what is copied, until what nobody needs is a tenth of what stays. A
 * pack that has been there for long will lose little more by itself, one of yesterday will lose most: so an old pack's dead
 * bytes count for more. In a model of half a year of daily backups with 1 % changed this holds 10 % of garbage for 21 % of all
 * data rewritten, where taking every pack that is half dead holds 14 % and more (docs/decisions/0015-compaction.md).
 */
function worthRewriting(table: PackTable, storeNow: Date): number[] {
  const today = Math.floor(storeNow.getTime() / DAY_MS)
  const rows: number[] = []
  const scores = new Map<number, number>()
  const after = (row: number) => compactedBytes(table.liveCount(row), table.liveBytes(row))
  let stored = 0
  let needed = 0
  for (let row = 0; row < table.count; row++) {
    if (table.objectCount(row) === 0 || table.liveCount(row) === 0) continue
    const bytes = table.storedBytes(row)
    stored += bytes
    needed += after(row)
    if (after(row) > bytes * REWRITE_LIVE_MAX) continue
    const ageDays = Math.min(AGE_DAYS_MAX, Math.max(1, today - table.storedDay(row)))
    rows.push(row)
    scores.set(row, ((bytes - after(row)) * ageDays) / after(row))
  }
  rows.sort((a, b) => scores.get(b)! - scores.get(a)! || a - b)
  const chosen: number[] = []
  for (const row of rows) {
    if (1 - needed / stored <= limits.garbageShare) break
    stored -= table.storedBytes(row) - after(row)
    chosen.push(row)
  }
  return chosen
}

/** Above this a rewrite copies more than four bytes for each that it frees. */
const REWRITE_LIVE_MAX = 0.8
const AGE_DAYS_MAX = 60
const DAY_MS = 24 * 3_600_000

/** As many as the record holds. */
export async function planCompaction(
  context: Pick<MaintenanceContext, 'store' | 'keyring'>,
  { table, damaged, locks, kept, room, storeNow }: CompactionChoice,
  options: AbortOptions,
): Promise<readonly CompactionPlan[]> {
  const rows = worthRewriting(table, storeNow)
  const plans: CompactionPlan[] = []
  let left = room
  await forEachLimited(
    rows,
    limits.getsInFlight,
    async (row, signal) => {
      const pack = table.packAt(row)
      const sources = table.objectKeys(row)
      const bytes = table.storedBytes(row)
      if (left <= 0) kept.add('mostly dead packs that wait for the next run')
      else if (damaged.has(pack) || bytes > SOURCES_MAX_BYTES)
        kept.add('mostly dead packs that are damaged or too large')
      else if (await isLocked(locks, sources, { signal })) kept.add('mostly dead packs that are locked')
      else {
        const dead = await deadSlots(context, table, row, sources, { signal })
        if (dead === 'damaged') kept.add('mostly dead packs that are damaged or too large')
        if (typeof dead === 'string') return
        const size = recordBytes(pack, sources, dead)
        if (size > left) kept.add('mostly dead packs that wait for the next run')
        else {
          left -= size
          const bytesAfter = compactedBytes(table.liveCount(row), table.liveBytes(row))
          plans.push({ pack, sources, bytes, bytesAfter, dead })
        }
      }
    },
    options,
  )
  return plans.sort((a, b) => (a.pack < b.pack ? -1 : 1))
}

async function deadSlots(
  context: Pick<MaintenanceContext, 'store' | 'keyring'>,
  table: PackTable,
  row: number,
  sources: readonly string[],
  options: AbortOptions,
): Promise<number[] | 'gone' | 'damaged'> {
  const pack = table.packAt(row)
  const dead = new Set<number>()
  try {
    for (const source of sources) {
      const object = await readPackRows(context, source, options)
      // Another run compacts it at this moment.
      if (!object) return 'gone'
      for (const slot of slotsOf(object, pack)) if (!table.isLive(row, slot)) dead.add(slot)
    }
  } catch (error) {
    if (!isIntegrityError(error)) throw error
    return 'damaged'
  }
  return [...dead].sort((a, b) => a - b)
}

/** Slots of `pack` that this object holds; what a repair has put there from other packs is not among them. */
function* slotsOf({ rows }: PackObject, pack: PackId): Iterable<number> {
  for (let row = 0; row < rows.count; row++) {
    if (!rows.origins) yield row
    else if (hex(rows.origins.packs.subarray(row * 16, row * 16 + 16)) === pack) yield rows.origins.slots[row]!
  }
}

/** `"<pack>":[1,2],` once for its slots and once for its sources. */
const recordBytes = (pack: PackId, sources: readonly string[], dead: readonly number[]): number =>
  2 * (pack.length + 4) + JSON.stringify(sources).length + JSON.stringify(dead).length
