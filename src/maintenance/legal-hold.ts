/**
 * Holds in a store with Object Lock are the store's legal holds as well: on the hold itself and on all that its point is
 * restored from, so that nobody removes it, whatever becomes of retention. Set whole or not reported.
 */
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { listHolds } from '../repository/holds.ts'
import { holdKey, parsePointKey, pointsPrefix, policiesPrefix } from '../repository/object-keys.ts'
import type { VersionedStore } from '../storage/versioned-store.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { WorkOptions } from './progress.ts'
import { keptObjects, type Reached, reachedBy } from './reached-objects.ts'

/** A collection may rewrite a pack between the listing and the request; from the hold on it begins no more. */
const PASSES_MAX = 3

/** Wherever the store can hold anything, whether or not this repository promises locks. */
async function lockingStore({ store }: MaintenanceContext, options: AbortOptions): Promise<VersionedStore | undefined> {
  return (await store.versioned?.features(options))?.objectLock ? store.versioned : undefined
}

/** Resolves when everything is held. The hold object must be stored before, so that no later collection moves anything. */
export async function setLegalHold(
  context: MaintenanceContext,
  hold: { readonly id: string; readonly manifest: string },
  options: WorkOptions = {},
): Promise<void> {
  const versioned = await lockingStore(context, options)
  if (!versioned) return
  await versioned.legalHold(holdKey(hold.id), undefined, true, options)
  await holdReached(context, versioned, hold.manifest, options)
}

/**
 * Lifts it, but for what other holds need. The hold object is free to go when this resolves. Throws where another hold cannot be
 * read: it may be one of anything.
 */
export async function clearLegalHold(
  context: MaintenanceContext,
  { id, point }: { readonly id: string; readonly point?: string },
  { progress, ...options }: WorkOptions = {},
): Promise<void> {
  const versioned = await lockingStore(context, options)
  if (!versioned) return
  const manifest = point === undefined ? undefined : (await manifestsOf(context, new Set([point]), options))[0]
  if (manifest !== undefined) {
    const others = await heldManifests(context, id, options)
    const kept = await reachedBy(context, others, options)
    const isKept = (key: string, pack: Parameters<Reached['has']>[0] | undefined) =>
      pack === undefined ? kept.manifests.has(key) || !isOfPoint(key) : kept.has(pack)
    const reached = await reachedBy(context, [manifest], options)
    let done = 0
    await forEachLimited(
      keptObjects(versioned, reached, options),
      limits.getsInFlight,
      async ({ key, pack, versions }, signal) => {
        progress?.('lifting legal holds', ++done, Math.max(done, reached.objectCount))
        if (key.startsWith(policiesPrefix) || (others.length > 0 && isKept(key, pack))) return
        for (const { versionId } of versions) await change(versioned, key, versionId, false, { signal })
      },
      options,
    )
    // One that was added since we looked has set its flags before or after we took them away.
    const added = (await heldManifests(context, id, options)).filter(other => !others.includes(other))
    for (const other of added) await holdReached(context, versioned, other, options)
  }
  await change(versioned, holdKey(id), undefined, false, options)
}

const isOfPoint = (key: string): boolean => key.startsWith(pointsPrefix)

async function holdReached(
  context: MaintenanceContext,
  versioned: VersionedStore,
  manifest: string,
  { progress, ...options }: WorkOptions,
): Promise<void> {
  const reached = await reachedBy(context, [manifest], options)
  for (const what of reached.damaged.values())
    throw new LifeboatError('corrupt-object', `${manifest} cannot be held whole: ${what}`, {
      details: { object: manifest },
      hint: 'Run `lifeboat verify` on it; hold another point of this VM.',
    })
  for (let pass = 0; pass < PASSES_MAX; pass++) {
    let isWhole = true
    let done = 0
    await forEachLimited(
      keptObjects(versioned, reached, options),
      limits.getsInFlight,
      async ({ key, versions }, signal) => {
        if (key.startsWith(policiesPrefix)) return
        for (const { versionId } of versions)
          if (!(await change(versioned, key, versionId, true, { signal }))) isWhole = false
        progress?.('setting legal holds', ++done, Math.max(done, reached.objectCount))
      },
      options,
    )
    if (isWhole) return
  }
  throw new LifeboatError('gc-stopped', 'Packs of this point are being rewritten, and could not all be held', {
    details: { object: manifest },
    hint: 'Try again when the collection has ended.',
  })
}

/** Whether the object was there. */
async function change(
  versioned: VersionedStore,
  key: string,
  versionId: string | undefined,
  on: boolean,
  options: AbortOptions,
): Promise<boolean> {
  try {
    await versioned.legalHold(key, versionId, on, options)
    return true
  } catch (error) {
    if (isLifeboatError(error, 'store-not-found')) return false
    throw error
  }
}

/** Of all holds but this one. */
async function heldManifests(
  context: MaintenanceContext,
  except: string,
  options: AbortOptions,
): Promise<readonly string[]> {
  const { holds, damaged } = await listHolds(context.control, options)
  const unreadable = damaged.find(key => key !== holdKey(except))
  if (unreadable !== undefined)
    throw new LifeboatError('corrupt-object', `${unreadable} does not authenticate: what it holds is not known`, {
      details: { object: unreadable },
      hint: 'Nothing was lifted. When you know that nobody relies on it, remove it with `lifeboat hold remove --hold ID`.',
    })
  return await manifestsOf(context, new Set(holds.filter(({ id }) => id !== except).map(({ point }) => point)), options)
}

async function manifestsOf(
  { store }: MaintenanceContext,
  points: ReadonlySet<string>,
  options: AbortOptions,
): Promise<readonly string[]> {
  const found: string[] = []
  if (points.size === 0) return found
  for await (const { key } of store.list(pointsPrefix, options))
    if (points.has(parsePointKey(key)?.point ?? '')) found.push(key)
  return found
}
