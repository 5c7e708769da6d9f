/** How long points are locked: by the manifest and the last renewal, or by asking of every object that they need. */
import { isLifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { type RenewalState, renewalState } from '../repository/lock-ledgers.ts'
import type { PointSummary } from '../repository/repository.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { locksNothing } from './lock-renewal.ts'
import type { MaintenanceContext } from './maintenance.ts'
import { keptObjects, reachedBy } from './reached-objects.ts'

export interface PointLock {
  readonly point: PointSummary
  /** Undefined: something that it needs is not locked at all. */
  readonly lockedUntil: Date | undefined
  /** 'every-object': each was asked for. 'manifest-and-renewal': the lesser of the manifest's lock and what the last renewal assures. */
  readonly by: 'every-object' | 'manifest-and-renewal'
}

export interface LockStatus {
  readonly renewal: RenewalState
  readonly points: readonly PointLock[]
}

export async function lockStatus(
  context: MaintenanceContext,
  { points, asked, signal }: { points: readonly PointSummary[]; asked: boolean } & AbortOptions,
): Promise<LockStatus> {
  const { lock } = context
  if (!lock) throw locksNothing(context.store.url)
  const renewal = await renewalState(context.control, lock, context.clock.now(), { signal })
  const found = new Map<string, Date | undefined>()
  const work = async (point: PointSummary, each: AbortSignal) => {
    const until = asked
      ? await leastLock(context, point, { signal: each })
      : earlier(await manifestLock(context.store, point, { signal: each }), renewal.until)
    found.set(point.key, until)
  }
  await forEachLimited(points, asked ? 1 : limits.getsInFlight, work, { signal })
  const by = asked ? 'every-object' : 'manifest-and-renewal'
  return { renewal, points: points.map(point => ({ point, lockedUntil: found.get(point.key), by })) }
}

/** One request a point. */
export async function manifestLock(
  { versioned }: Pick<ObjectStore, 'versioned'>,
  { key }: PointSummary,
  options: AbortOptions = {},
): Promise<Date | undefined> {
  try {
    return (await versioned?.lockOf(key, undefined, options))?.retainUntil
  } catch (error) {
    if (isLifeboatError(error, 'store-not-found') || isLifeboatError(error, 'store-denied')) return undefined
    throw error
  }
}

async function leastLock(
  context: MaintenanceContext,
  { key }: PointSummary,
  options: AbortOptions,
): Promise<Date | undefined> {
  const { versioned } = context.store
  if (!versioned) return undefined
  const reached = await reachedBy(context, [key], options)
  if (reached.damaged.size > 0) return undefined
  let least: Date | undefined
  let isOpen = false
  await forEachLimited(
    keptObjects(versioned, reached, options),
    limits.getsInFlight,
    async ({ key: object, versions }, signal) => {
      const { retainUntil } = await versioned.lockOf(object, versions[0]?.versionId, { signal })
      if (!retainUntil) isOpen = true
      else least = earlier(retainUntil, least ?? retainUntil)
    },
    options,
  )
  return isOpen ? undefined : least
}

const earlier = (a: Date | undefined, b: Date): Date | undefined => a && (a < b ? a : b)
