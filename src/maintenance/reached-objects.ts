/** The stored objects, with all their versions, that points are restored from: what locks and legal holds are set on. */
import { isIntegrityError, messageOf } from '../core/errors.ts'
import type { PackId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { configKey, keysPrefix, parsePackKey, pointsPrefix, policiesPrefix } from '../repository/object-keys.ts'
import { readStoredManifest } from '../repository/stored-manifest.ts'
import type { ObjectVersion, VersionedStore } from '../storage/versioned-store.ts'
import type { MaintenanceContext } from './maintenance.ts'
import { Mark, storedNodes } from './mark.ts'
import { PackTable } from './pack-table.ts'
import type { WorkOptions } from './progress.ts'

export interface Reached {
  /** Keys of manifests. */
  readonly manifests: ReadonlySet<string>
  has(pack: PackId): boolean
  /** What was reached, without what lies beside it in any repository (keys, policies). A pack may have several objects. */
  readonly objectCount: number
  /** Manifests whose points cannot be walked whole, each with what is wrong; what could be reached of them is in it. */
  readonly damaged: ReadonlyMap<string, string>
}

/** What these points reach. One that is damaged keeps nobody from the others. */
export async function reachedBy(
  context: Pick<MaintenanceContext, 'store' | 'keyring' | 'records'>,
  manifests: readonly string[],
  { progress, ...options }: WorkOptions,
): Promise<Reached> {
  const damaged = new Map<string, string>()
  const shared = new Mark(new PackTable(), storedNodes(context))
  for (const [done, key] of manifests.entries()) {
    progress?.('marking points', done, manifests.length)
    const problem = await markPoint(context, shared, key, options)
    if (problem !== undefined) damaged.set(key, problem)
  }
  const { table } = shared
  if (damaged.size === 0)
    return {
      manifests: new Set(manifests),
      damaged,
      has: pack => isLive(table, pack),
      objectCount: manifests.length + table.count,
    }
  // Below what could not be read others may have stopped, taking it for done: each gets a walk of its own.
  const packs = new Set<PackId>()
  for (const key of manifests) {
    const own = new Mark(new PackTable(), storedNodes(context))
    await markPoint(context, own, key, options)
    for (let row = 0; row < own.table.count; row++) if (own.table.liveCount(row) > 0) packs.add(own.table.packAt(row))
  }
  return {
    manifests: new Set(manifests),
    damaged,
    has: pack => packs.has(pack),
    objectCount: manifests.length + packs.size,
  }
}

/** What is wrong with it, if anything is. */
async function markPoint(
  { store, keyring }: Pick<MaintenanceContext, 'store' | 'keyring'>,
  mark: Mark,
  key: string,
  options: AbortOptions,
): Promise<string | undefined> {
  try {
    const stored = await readStoredManifest({ store, keys: keyring.repository }, key, options)
    const missing = stored && (await mark.add(key, stored.manifest, options))
    return missing && messageOf(missing)
  } catch (error) {
    if (!isIntegrityError(error)) throw error
    return messageOf(error)
  }
}

function isLive(table: PackTable, pack: PackId): boolean {
  const row = table.find(pack)
  return row >= 0 && table.liveCount(row) > 0
}

/** Packs before manifests: a point that is locked has all that it needs locked. */
const PREFIXES = ['packs/', 'meta/', pointsPrefix, policiesPrefix, keysPrefix, configKey]

export interface KeptObject {
  readonly key: string
  /** Where it is an object of a pack. */
  readonly pack: PackId | undefined
  /** Data versions, the oldest first: ours is the first, unless it has rotted and a person has put a good copy over it. */
  readonly versions: readonly ObjectVersion[]
  /** A delete marker, or another version, lies over it. */
  readonly isCovered: boolean
}

/** All objects that these points need, in the order of PREFIXES. */
export async function* keptObjects(
  versioned: VersionedStore,
  reached: Reached,
  options: AbortOptions,
): AsyncGenerator<KeptObject> {
  const isNeeded = (key: string, pack: PackId | undefined): boolean => {
    if (pack) return reached.has(pack)
    return key.startsWith(pointsPrefix) ? reached.manifests.has(key) : true
  }
  for (const prefix of PREFIXES)
    for await (const versions of byKey(versioned, prefix, options)) {
      const data = versions.filter(({ isDeleteMarker }) => !isDeleteMarker).reverse()
      const key = versions[0]!.key
      const pack = parsePackKey(key)?.pack
      if (data.length === 0 || !isNeeded(key, pack)) continue
      const isCovered = data.length > 1 || versions[0]!.isDeleteMarker
      yield { key, pack, versions: data.slice(0, limits.versionsTriedMax), isCovered }
    }
}

/** All versions of one key after another, the newest first. */
export async function* byKey(
  versioned: VersionedStore,
  prefix: string,
  options: AbortOptions,
): AsyncGenerator<readonly ObjectVersion[]> {
  let group: ObjectVersion[] = []
  for await (const version of versioned.versions(prefix, options)) {
    if (group.length > 0 && group[0]!.key !== version.key) {
      yield group
      group = []
    }
    // Anybody may put any number of versions; the last of a group is the oldest.
    if (group.length >= VERSIONS_HELD) group.splice(1, 1)
    group.push(version)
  }
  if (group.length > 0) yield group
}

const VERSIONS_HELD = 64
