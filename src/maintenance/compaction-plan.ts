/** D: packs that are mostly dead. Their live records are copied into one new object, and all others are deleted. */
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
}

/** Their objects are in memory, all of one pack at once. Packs are a quarter of it; what claims more is odd, and stays. */
const SOURCES_MAX_BYTES = 64 * MiB

/** Stored bytes of the object that a compaction would make. */
function compactedBytes(liveCount: number, liveBytes: number): number {
  const checked = liveBytes + footerLength(liveCount, true)
  return checked + Math.ceil(checked / MiB) * 32 + trailerBytes
}

/** At most half of a pack is live; or several objects hold much twice, as two collections at once may leave them. */
function isWorthCompacting(table: PackTable, row: number): boolean {
  const objects = table.objectCount(row)
  if (objects === 0 || table.liveCount(row) === 0) return false
  const after = compactedBytes(table.liveCount(row), table.liveBytes(row))
  return after <= table.storedBytes(row) * (objects > 1 ? 0.75 : 0.5)
}

/** The emptiest first, as many as the record holds. */
export async function planCompaction(
  context: Pick<MaintenanceContext, 'store' | 'keyring'>,
  { table, damaged, locks, kept, room }: CompactionChoice,
  options: AbortOptions,
): Promise<readonly CompactionPlan[]> {
  const rows: number[] = []
  for (let row = 0; row < table.count; row++) if (isWorthCompacting(table, row)) rows.push(row)
  const share = (row: number) => table.liveBytes(row) / table.storedBytes(row)
  rows.sort((a, b) => share(a) - share(b) || a - b)
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
