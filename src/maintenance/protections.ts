/**
 * Why a point may not be removed now (docs/concurrency.md, section 5). None of this is needed for the safety of what a reader
 * or writer does, which see marks themselves; it keeps people from removing what is in use or promised.
 */
import { isIntegrityError, LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { type Hold, listHolds } from '../repository/holds.ts'
import type { JsonFields } from '../repository/json-fields.ts'
import { leasesPrefix, pinsPrefix } from '../repository/object-keys.ts'
import type { PointSummary } from '../repository/repository.ts'
import { lockView } from './lock-view.ts'
import type { MaintenanceContext } from './maintenance.ts'

export type Protection =
  | ({ readonly kind: 'held' } & Pick<Hold, 'who' | 'reason'>)
  | { readonly kind: 'pinned'; readonly by: string; readonly host: string }
  | { readonly kind: 'base'; readonly work: string; readonly host: string }
  | { readonly kind: 'being-written'; readonly work: string; readonly host: string }
  | { readonly kind: 'locked'; readonly until: Date | 'held' }
  | { readonly kind: 'newest' }

export function describeProtection(protection: Protection): string {
  switch (protection.kind) {
    case 'held':
      return `held by ${protection.who} (${protection.reason})`
    case 'pinned':
      return `pinned by ${protection.by} on ${protection.host}`
    case 'base':
      return `base of a running ${protection.work} on ${protection.host}`
    case 'being-written':
      return `its ${protection.work} on ${protection.host} has not ended`
    case 'locked':
      return protection.until === 'held'
        ? 'under a legal hold in the store'
        : `locked until ${protection.until.toISOString()}`
    case 'newest':
      return 'newest'
  }
}

/** What people, readers and writers hold on to, as it was when it was read. Locks are asked for one by one: `lockOn`. */
export interface Claims {
  on(point: PointSummary): readonly Protection[]
  /** True while the lease is there under which this point was written: whether it counts is not settled. */
  isBeingWritten(point: PointSummary): boolean
}

/**
 * A pin that expires counts until the store itself says that nobody refreshed it for this many expiries. A reader that is
 * wrongly taken for dead loses nothing by it: a collector looks at pins by its own clock, twice, before it removes anything.
 */
const PIN_DEAD_EXPIRIES = 2

/** Throws an integrity error where something does not authenticate: it may protect any point. */
export async function readClaims(context: MaintenanceContext, options: AbortOptions = {}): Promise<Claims> {
  const [pins, leases, { holds, damaged }] = await Promise.all([
    readPins(context, options),
    readAll(context, 'lease', leasesPrefix, readLease, options),
    listHolds(context.control, options),
  ])
  if (damaged[0] !== undefined) throw unreadable(damaged[0])
  const claims = new Map<string, Protection[]>()
  const claim = (key: string, protection: Protection) => claims.set(key, [...(claims.get(key) ?? []), protection])
  for (const { point, who, reason } of holds) claim(point, { kind: 'held', who, reason })
  for (const { point, by, host } of pins) claim(point, { kind: 'pinned', by, host })
  for (const { bases, manifest, work, host } of leases) {
    for (const base of bases) claim(base, { kind: 'base', work, host })
    claim(manifest, { kind: 'being-written', work, host })
  }
  const written = new Set(leases.map(({ manifest }) => manifest))
  return {
    on: ({ id, key }) => [...(claims.get(id) ?? []), ...(claims.get(key) ?? [])],
    isBeingWritten: ({ key }) => written.has(key),
  }
}

/** Asks the store, where it locks anything. */
export async function lockOn(
  { store }: Pick<MaintenanceContext, 'store'>,
  points: readonly PointSummary[],
  options: AbortOptions = {},
): Promise<ReadonlyMap<string, readonly Protection[]>> {
  const locks = new Map<string, readonly Protection[]>()
  const view = lockView(store)
  if (!view) return locks
  await forEachLimited(
    points,
    limits.getsInFlight,
    async ({ id, key }, signal) => {
      const until = await view.lockedUntil(key, { signal })
      if (until) locks.set(id, [{ kind: 'locked', until }])
    },
    options,
  )
  return locks
}

const readLease = (lease: JsonFields) => ({
  bases: lease.texts('bases', limits.disksPerPointMax),
  manifest: lease.text('manifest'),
  work: lease.text('kind'),
  host: lease.text('host'),
})

async function readPins(context: MaintenanceContext, options: AbortOptions) {
  const storeNow = await context.store.now(options)
  const read = (pin: JsonFields, modifiedAt: Date) => {
    const expiryMs = pin.has('expiryMs') ? pin.count('expiryMs') : Number.POSITIVE_INFINITY
    const isDead = storeNow.getTime() - modifiedAt.getTime() > expiryMs * PIN_DEAD_EXPIRIES
    return { point: pin.hex('point', 8), by: pin.text('kind'), host: pin.text('host'), isDead }
  }
  return (await readAll(context, 'pin', pinsPrefix, read, options)).filter(({ isDead }) => !isDead)
}

/** One that goes between the listing and its GET has ended. */
async function readAll<T>(
  { store, control }: MaintenanceContext,
  kind: 'pin' | 'lease',
  prefix: string,
  read: (fields: JsonFields, modifiedAt: Date) => T,
  options: AbortOptions,
): Promise<readonly T[]> {
  const found: T[] = []
  await forEachLimited(
    store.list(prefix, options),
    limits.getsInFlight,
    async ({ key, modifiedAt }, signal) => {
      try {
        const fields = await control.get(kind, key, { signal })
        if (fields) found.push(read(fields, modifiedAt))
      } catch (error) {
        throw isIntegrityError(error) ? unreadable(key, error) : error
      }
    },
    options,
  )
  return found
}

const unreadable = (object: string, cause?: unknown): LifeboatError =>
  new LifeboatError('corrupt-object', `${object} does not authenticate: it may protect any point`, {
    details: { object },
    hint: 'Nothing was forgotten. Find out what damaged it; when you know that nobody relies on it, remove a hold with `lifeboat hold remove --hold ID`, anything else from the store.',
    cause,
  })
