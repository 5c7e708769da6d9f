/** C: what no root reaches. */
import { isIntegrityError } from '../core/errors.ts'
import type { LeaseId, PackId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { openEnvelope } from '../crypto/envelope.ts'
import { getBounded } from '../repository/control-object.ts'
import { parseIndex } from '../repository/index-codec.ts'
import {
  damagedPrefix,
  indexPrefix,
  leasesPrefix,
  parseIndexKey,
  parseLeaseKey,
  parsePointKey,
  parseTraceKey,
  tracesPrefix,
} from '../repository/object-keys.ts'
import type { LockView } from './lock-view.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { PackTable } from './pack-table.ts'

/** All objects of one pack id. */
export interface CondemnedPack {
  readonly pack: PackId
  readonly keys: readonly string[]
  readonly bytes: number
}

export interface CondemnedHint {
  readonly key: string
  readonly bytes: number
}

/** Rows of packs that have objects and no live slot. */
export function* deadRows(table: PackTable): Iterable<number> {
  for (let row = 0; row < table.count; row++) if (table.objectCount(row) > 0 && table.liveCount(row) === 0) yield row
}

export const condemnedPack = (table: PackTable, row: number): CondemnedPack => ({
  pack: table.packAt(row),
  keys: table.objectKeys(row),
  bytes: table.storedBytes(row),
})

/** All objects of a pack or none: what is locked is left for a later run. */
export async function isLocked(
  locks: LockView | undefined,
  keys: readonly string[],
  options: AbortOptions,
): Promise<boolean> {
  for (const key of keys) if (await locks?.lockedUntil(key, options)) return true
  return false
}

/** An index that leads to less than a tenth of what it led to is not worth reading any more. */
const LIVE_SHARE_MIN = 0.1
/** Each may take 64 MiB, and mostly takes a few. */
const INDEXES_AT_ONCE = 2

/**
 * Indexes whose backup has ended and whose packs have nearly all gone. Index objects are listed before leases: one whose lease
 * is not in the later listing belongs to a backup that is over.
 */
export async function deadIndexes(
  { store, keyring }: Pick<MaintenanceContext, 'store' | 'keyring'>,
  table: PackTable,
  options: AbortOptions,
): Promise<readonly CondemnedHint[]> {
  const listed = new Map<LeaseId, { key: string; size: number }>()
  for await (const { key, size } of store.list(indexPrefix, options)) {
    const lease = parseIndexKey(key)
    if (lease && size <= limits.indexObjectMax) listed.set(lease, { key, size })
  }
  for await (const { key } of store.list(leasesPrefix, options)) {
    const lease = parseLeaseKey(key)
    if (lease) listed.delete(lease)
  }
  const dead: CondemnedHint[] = []
  const { repository, metadata } = keyring.repository
  await forEachLimited(
    listed.values(),
    INDEXES_AT_ONCE,
    async ({ key, size }, signal) => {
      const bytes = await getBounded(store, key, limits.indexObjectMax, { signal })
      if (!bytes) return
      try {
        const { packs } = parseIndex(openEnvelope({ repository, kind: 'index', objectKey: key }, metadata, bytes), key)
        const live = packs.filter(pack => isLivePack(table, pack)).length
        if (live < packs.length * LIVE_SHARE_MIN) dead.push({ key, bytes: size })
      } catch (error) {
        // A damaged index costs duplicates and nothing else; verify reports it.
        if (!isIntegrityError(error)) throw error
      }
    },
    options,
  )
  return dead.sort((a, b) => (a.key < b.key ? -1 : 1))
}

/** Traces of boots of VMs that have no points. One that comes back records another. */
export async function orphanTraces(
  { store }: Pick<MaintenanceContext, 'store'>,
  manifests: readonly string[],
  options: AbortOptions,
): Promise<readonly CondemnedHint[]> {
  const vms = new Set(manifests.map(key => parsePointKey(key)?.vm))
  const orphans: CondemnedHint[] = []
  for await (const { key, size } of store.list(tracesPrefix, options)) {
    const vm = parseTraceKey(key)
    if (vm !== undefined && !vms.has(vm)) orphans.push({ key, bytes: size })
  }
  return orphans
}

function isLivePack(table: PackTable, pack: PackId): boolean {
  const row = table.find(pack)
  return row >= 0 && table.liveCount(row) > 0
}

/** Keys of the marks on damaged packs, by pack: such a pack is not compacted, and its marks go with it. */
export async function damageMarks(
  { store }: Pick<MaintenanceContext, 'store'>,
  options: AbortOptions,
): Promise<ReadonlyMap<string, readonly string[]>> {
  const marks = new Map<string, string[]>()
  for await (const { key } of store.list(damagedPrefix, options)) {
    const pack = key.slice(damagedPrefix.length, damagedPrefix.length + 32)
    marks.set(pack, [...(marks.get(pack) ?? []), key])
  }
  return marks
}
