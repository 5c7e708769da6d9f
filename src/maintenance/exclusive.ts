/**
 * What only a collection may remove beside which nobody works: records of runs that died, fences whose backup can have no
 * manifest any more, pins of readers that died, claims on keys. Each takes little room, and keeps something out of use.
 */
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { claimsPrefix, fencesPrefix, leasesPrefix, parseFenceKey, parseLeaseKey } from '../repository/object-keys.ts'
import { recordAudit } from './audit.ts'
import type { GcPlan } from './gc-plan.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { Mark } from './mark.ts'
import { isStale, readPins } from './pinned-points.ts'
import { removeObjects } from './removal.ts'
import { listPointObjects } from './roots.ts'

/** Keys of each. */
export interface Leftovers {
  readonly records: readonly string[]
  readonly fences: readonly string[]
  readonly pins: readonly string[]
  readonly claims: readonly string[]
}

/** Gives what was removed; in the audit before. */
export async function removeLeftovers(
  context: MaintenanceContext,
  { run, plan, mark }: { readonly run: string; readonly plan: GcPlan; readonly mark: Mark },
  options: AbortOptions,
): Promise<Leftovers> {
  const left: Leftovers = {
    // Those that were there before this run began: their processes are dead, by the operator's word, and so are their requests.
    records: plan.others.map(({ key }) => key),
    fences: await staleFences(context, plan, mark, options),
    pins: await deadPins(context, plan, options),
    claims: await staleClaims(context, plan, options),
  }
  const all = Object.values(left).flat()
  if (all.length === 0) return left
  await recordAudit(context, 'gc', { run, leftovers: { ...left, fences: left.fences.length } }, options)
  await removeObjects(context, all, options)
  return left
}

/**
 * A fence must outlive every manifest that its lease may still bring: its lease is gone, no manifest that is there names it, and
 * it is older than any lease may get, so that no request of its writer is under way.
 */
async function staleFences(
  context: MaintenanceContext,
  { storeNow }: Pick<GcPlan, 'storeNow'>,
  mark: Mark,
  options: AbortOptions,
): Promise<readonly string[]> {
  const { store } = context
  const stale: { key: string; lease: string }[] = []
  for await (const { key, modifiedAt } of store.list(fencesPrefix, options)) {
    const fence = parseFenceKey(key)
    if (fence && isOlderThanAnyLease(modifiedAt, storeNow)) stale.push({ key, lease: fence.lease })
  }
  const needed = new Set<string>(mark.leases.values())
  for await (const { key } of store.list(leasesPrefix, options)) {
    const lease = parseLeaseKey(key)
    if (lease) needed.add(lease)
  }
  // Unless all manifests that are there were read, it is not known whose leases they name.
  for (const { key } of await listPointObjects(context, options)) if (!mark.leases.has(key)) return []
  return stale.filter(({ lease }) => !needed.has(lease)).map(({ key }) => key)
}

/** Those that the plan passed over and that have stood still since. A reader that wakes up may find its point gone, as after its expiry. */
async function deadPins(
  context: MaintenanceContext,
  { deadPins: planned }: Pick<GcPlan, 'deadPins'>,
  options: AbortOptions,
): Promise<readonly string[]> {
  if (planned.length === 0) return []
  const counters = new Map(planned.map(({ key, counter }) => [key, counter]))
  const storeNow = await context.store.now(options)
  return (await readPins(context, 'pin', options))
    .filter(pin => counters.get(pin.key) === pin.counter && isStale(pin, storeNow))
    .map(({ key }) => key)
}

/** Of rotations and removals of keys that died. One that goes on after a week is no more to be feared than one of a fenced writer. */
async function staleClaims(
  { store }: MaintenanceContext,
  { storeNow }: Pick<GcPlan, 'storeNow'>,
  options: AbortOptions,
): Promise<readonly string[]> {
  const stale: string[] = []
  for await (const { key, modifiedAt } of store.list(claimsPrefix, options))
    if (isOlderThanAnyLease(modifiedAt, storeNow)) stale.push(key)
  return stale
}

const isOlderThanAnyLease = (time: Date, storeNow: Date): boolean =>
  storeNow.getTime() - time.getTime() > limits.leaseLifeMs
