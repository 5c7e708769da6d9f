/**
 * Objects that somebody has hidden under a delete marker or under another version. Readers read past both; this finds them,
 * says so, and uncovers them, for readers that may not list versions and for the day when the lock ends.
 */
import { isIntegrityError, isLifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { withVersion } from '../repository/authentic.ts'
import { controlObjects } from '../repository/control-object.ts'
import {
  auditPrefix,
  configKey,
  holdsPrefix,
  keysPrefix,
  parsePackKey,
  parsePointKey,
  pointsPrefix,
  policiesPrefix,
} from '../repository/object-keys.ts'
import { readWholePack } from '../repository/pack-object.ts'
import type { ReadContext } from '../repository/recovery-point.ts'
import { checkOf } from '../repository/verify-objects.ts'
import type { VerifyProblem } from '../repository/verify-problems.ts'
import type { ObjectVersion, VersionedStore } from '../storage/versioned-store.ts'
import { byKey } from './reached-objects.ts'

export interface CoveredObject {
  readonly key: string
  readonly how: 'hidden' | 'overwritten'
  /** Ours: the oldest version that authenticates. Undefined: none does. */
  readonly ours: ObjectVersion | undefined
  /** Markers and versions over it, the newest first. */
  readonly over: readonly ObjectVersion[]
}

const PREFIXES = [configKey, keysPrefix, pointsPrefix, 'packs/', 'meta/', holdsPrefix, policiesPrefix, auditPrefix]

/** A listing of all versions; what has more than one is read. */
export async function* coveredObjects(context: ReadContext, options: AbortOptions = {}): AsyncGenerator<CoveredObject> {
  const { versioned } = context.store
  if (!versioned || !context.lock) return
  for (const prefix of PREFIXES)
    for await (const versions of byKey(versioned, prefix, options)) {
      const data = versions.filter(({ isDeleteMarker }) => !isDeleteMarker)
      const [newest] = versions
      if (data.length === 0 || versions.length === 1 || !newest || !isOurName(newest.key)) continue
      const ours = await oldestAuthentic(context, versioned, data.toReversed(), options)
      const over = versions.slice(0, ours ? versions.indexOf(ours) : versions.length)
      if (newest.isDeleteMarker) yield { key: newest.key, how: 'hidden', ours, over }
      // An upload that was repeated has left two that are the same.
      else if (!ours || !(await isSame(versioned, ours, newest, options)))
        yield { key: newest.key, how: 'overwritten', ours, over }
    }
}

/** A stranger's names have nothing that could be authentic. */
const isOurName = (key: string): boolean => !key.startsWith(pointsPrefix) || parsePointKey(key) !== undefined

async function oldestAuthentic(
  context: ReadContext,
  versioned: VersionedStore,
  oldestFirst: readonly ObjectVersion[],
  options: AbortOptions,
): Promise<ObjectVersion | undefined> {
  for (const version of oldestFirst.slice(0, limits.versionsTriedMax))
    try {
      const store = withVersion(context.store, versioned, version)
      const { keyring, random } = context
      const control = controlObjects(store, keyring.repository, random)
      if (parsePackKey(version.key)) await readWholePack({ store, keyring }, version.key, options)
      else await checkOf({ ...context, store, control }, version.key)?.(options)
      return version
    } catch (error) {
      if (!isIntegrityError(error) && !isLifeboatError(error, 'newer-format')) throw error
    }
  return undefined
}

async function isSame(
  versioned: VersionedStore,
  a: ObjectVersion,
  b: ObjectVersion,
  options: AbortOptions,
): Promise<boolean> {
  if (a.versionId === b.versionId) return true
  if (a.size !== b.size) return false
  const [one, other] = await Promise.all(
    [a, b].map(({ key, versionId }) => versioned.getVersion(key, versionId, undefined, options)),
  )
  return one !== undefined && other !== undefined && Buffer.compare(one, other) === 0
}

/** For verify. Nobody is harmed as long as ours is there: readers find it. */
export function coveredProblem({ key, how, ours }: CoveredObject): VerifyProblem {
  const point = parsePointKey(key)?.point
  const what = how === 'hidden' ? 'is hidden by a delete marker' : 'lies under a version that somebody put over it'
  const fate = ours ? 'it is still read; `lifeboat lock repair` uncovers it' : 'no version of it authenticates'
  return { object: key, kind: how, message: `${key} ${what}: ${fate}`, points: point ? [point] : [], disks: [] }
}

export interface UncoverResult {
  readonly uncovered: readonly string[]
  /** Keys of which no version authenticates: nothing was done. */
  readonly lost: readonly string[]
}

/** Removes what lies over our versions. What is locked there cannot be removed: then our bytes are put again, on top. */
export async function uncover(
  context: ReadContext,
  { dryRun = false, signal }: { readonly dryRun?: boolean } & AbortOptions = {},
): Promise<UncoverResult> {
  const uncovered: string[] = []
  const lost: string[] = []
  await forEachLimited(
    coveredObjects(context, { signal }),
    limits.putsInFlight,
    async (object, each) => {
      if (!object.ours) lost.push(object.key)
      else {
        if (!dryRun) await uncoverOne(context, object, object.ours, { signal: each })
        uncovered.push(object.key)
      }
    },
    { signal },
  )
  return { uncovered: uncovered.sort(), lost: lost.sort() }
}

async function uncoverOne(
  { store }: ReadContext,
  { key, over }: CoveredObject,
  ours: ObjectVersion,
  options: AbortOptions,
): Promise<void> {
  const { versioned } = store
  if (!versioned) return
  let isLocked = false
  for (const { versionId } of over)
    try {
      await versioned.deleteVersion(key, versionId, options)
    } catch (error) {
      if (!isLifeboatError(error, 'store-locked')) throw error
      isLocked = true
    }
  if (isLocked) await store.put(key, [await versioned.getVersion(key, ours.versionId, undefined, options)], options)
}
