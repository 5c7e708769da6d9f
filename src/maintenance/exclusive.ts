/**
 * What only a collection may remove beside which nobody works: records of runs that died, and fences whose backup can have no
 * manifest any more. Neither takes much room; they are removed because a record keeps what it names out of dedup.
 */
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { fencesPrefix, leasesPrefix, parseFenceKey, parseLeaseKey } from '../repository/object-keys.ts'
import type { GcPlan } from './gc-plan.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { Mark } from './mark.ts'
import { removeObjects } from './removal.ts'
import { listPointObjects } from './roots.ts'

/** Those that were there before this run began: their processes are dead, by the operator's word, and so are their requests. */
export async function removeDeadRuns(
  context: MaintenanceContext,
  { others }: Pick<GcPlan, 'others'>,
  options: AbortOptions,
): Promise<number> {
  await removeObjects(
    context,
    others.map(({ key }) => key),
    options,
  )
  return others.length
}

/**
 * A fence must outlive every manifest that its lease may still bring: its lease is gone, no manifest that is there names it, and
 * it is older than any lease may get, so that no request of its writer is under way.
 */
export async function removeStaleFences(
  context: MaintenanceContext,
  { storeNow }: Pick<GcPlan, 'storeNow'>,
  mark: Mark,
  options: AbortOptions,
): Promise<number> {
  const { store } = context
  const stale: { key: string; lease: string }[] = []
  for await (const { key, modifiedAt } of store.list(fencesPrefix, options)) {
    const fence = parseFenceKey(key)
    if (fence && storeNow.getTime() - modifiedAt.getTime() > limits.leaseLifeMs) stale.push({ key, lease: fence.lease })
  }
  const needed = new Set<string>(mark.leases.values())
  for await (const { key } of store.list(leasesPrefix, options)) {
    const lease = parseLeaseKey(key)
    if (lease) needed.add(lease)
  }
  // Unless all manifests that are there were read, it is not known whose leases they name.
  for (const { key } of await listPointObjects(context, options)) if (!mark.leases.has(key)) return 0
  const removable = stale.filter(({ lease }) => !needed.has(lease)).map(({ key }) => key)
  await removeObjects(context, removable, options)
  return removable.length
}
