/** Void manifests that nobody has adopted for a month: they are forgotten, or they would keep what they reach for ever. */
import { isIntegrityError } from '../core/errors.ts'
import type { LeaseId, PointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { leaseFencesPrefix, parsePointKey } from '../repository/object-keys.ts'
import type { ForgottenPoints } from './forgotten-points.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { ListedPoint } from './roots.ts'

export interface VoidPoints {
  /** Void manifests by key, each with its fenced lease. */
  readonly voids: ReadonlyMap<string, LeaseId>
  /** Points that have a mark already. */
  readonly marked: ForgottenPoints
  readonly storeNow: Date
}

/**
 * Both the manifest and an authentic fence are a month old by the store's clock, which made both times: a fence that a collector
 * has just put may be withdrawn, and one that a stranger has put says nothing.
 */
export async function abandonedPoints(
  context: Pick<MaintenanceContext, 'store' | 'control'>,
  points: readonly ListedPoint[],
  { voids, marked, storeNow }: VoidPoints,
  options: AbortOptions,
): Promise<ForgottenPoints> {
  const isOld = (date: Date) => storeNow.getTime() - date.getTime() > limits.voidPointLifeMs
  const abandoned = new Map<PointId, string>()
  for (const { key, modifiedAt } of points) {
    const lease = voids.get(key)
    const point = parsePointKey(key)?.point
    if (!lease || !point || marked.has(point) || !isOld(modifiedAt)) continue
    if (await hasOldFence(context, lease, isOld, options)) abandoned.set(point, key)
  }
  return abandoned
}

async function hasOldFence(
  { store, control }: Pick<MaintenanceContext, 'store' | 'control'>,
  lease: LeaseId,
  isOld: (date: Date) => boolean,
  options: AbortOptions,
): Promise<boolean> {
  for await (const { key, modifiedAt } of store.list(leaseFencesPrefix(lease), options))
    try {
      if (isOld(modifiedAt) && (await control.get('fence', key, options))) return true
    } catch (error) {
      if (!isIntegrityError(error)) throw error
    }
  return false
}
