/**
 * Renewal of locks (docs/decisions/0013-object-lock.md): what kept points reach and would fall below the promise is extended.
 * It ends anywhere without harm: a lock only grows, the ledger comes last, and the next renewal passes over what is done.
 */
import { isIntegrityError, isLifeboatError, LifeboatError } from '../core/errors.ts'
import { hex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { refuseClockSkew } from '../repository/clock-skew.ts'
import { Lease } from '../repository/lease.ts'
import { assuredBy } from '../repository/lock-ledgers.ts'
import { lockUntil, type RepositoryLock } from '../repository/lock-policy.ts'
import { leasesPrefix, lockLedgerKey, locksPrefix, parsePointKey, pointsPrefix } from '../repository/object-keys.ts'
import { listPoints } from '../repository/points.ts'
import type { VersionedStore } from '../storage/versioned-store.ts'
import { recordAudit } from './audit.ts'
import { extendLock } from './extend-lock.ts'
import type { MaintenanceContext } from './maintenance.ts'
import { listPolicies } from './policy.ts'
import type { WorkOptions } from './progress.ts'
import { planPrune } from './prune.ts'
import { keptObjects, reachedBy } from './reached-objects.ts'

export interface RenewalResult {
  readonly run: string
  /** Points that are kept. */
  readonly points: number
  /** Points that nothing but their lock keeps: they are let go when it ends, or they would stay for ever. */
  readonly outlived: number
  /** Objects that they need. */
  readonly objects: number
  /** Of those, what was extended; in a dry run, what would be. */
  readonly extended: number
  /** Everything is locked until then at least. */
  readonly until: Date
  /** Requests about locks: one question for each version, one more for each that is extended. */
  readonly requests: number
  /** Keys of objects that are hidden by a delete marker or lie under other versions; `lock repair` uncovers them. */
  readonly covered: readonly string[]
  /** Points that are damaged: what of them is lost cannot be locked. */
  readonly damaged: readonly { readonly manifest: string; readonly what: string }[]
}

export interface RenewalOptions extends WorkOptions {
  readonly dryRun?: boolean
}

const COVERED_NAMED = 1000

export async function renewLocks(context: MaintenanceContext, options: RenewalOptions = {}): Promise<RenewalResult> {
  const { dryRun = false, signal } = options
  const { lock } = context
  const { versioned } = context.store
  if (!lock || !versioned) throw locksNothing(context.store.url)
  await refuseClockSkew(context, { signal })
  const run = hex(context.random(8))
  if (dryRun) return await renew(context, lock, versioned, run, options)
  const lease = await renewalLease(context, options)
  try {
    const until = lockUntil(lock, context.clock.now()).toISOString()
    await recordAudit(context, 'lock-renew', { run, until }, { signal })
    return await renew(context, lock, versioned, run, options)
  } finally {
    await lease.stop()
    // One that stays behind expires.
    await context.control.delete([lease.key]).catch(() => {})
  }
}

export const locksNothing = (url: string): LifeboatError =>
  new LifeboatError('usage', `${url} promises no locks`, {
    hint: 'Locks are chosen when a repository is made: `lifeboat init --lock-mode compliance --lock-for 30d`, in a bucket with Object Lock.',
  })

/** It writes no point, so nothing can be void; while it stands no collection begins to remove what is being extended. */
const renewalLease = ({ control, clock, random, who }: MaintenanceContext, { signal }: AbortOptions): Promise<Lease> =>
  Lease.begin(
    {
      control,
      clock,
      random,
      host: who,
      kind: 'lock-renew',
      vm: '',
      bases: [],
      manifest: '',
      refreshMs: limits.leaseRefreshMs,
      expiryMs: limits.leaseExpiryMs,
    },
    { signal },
  )

async function renew(
  context: MaintenanceContext,
  lock: RepositoryLock,
  versioned: VersionedStore,
  run: string,
  { dryRun = false, progress, signal }: RenewalOptions,
): Promise<RenewalResult> {
  const began = context.clock.now()
  const outlived = await outlivedManifests(context, { progress, signal })
  const manifests = (await keptManifests(context, { signal })).filter(key => !outlived.has(key))
  const reached = await reachedBy(context, manifests, { progress, signal })
  const extended: string[] = []
  const covered: string[] = []
  let objects = 0
  let requests = 0
  let extendedCount = 0
  await forEachLimited(
    keptObjects(versioned, reached, { signal }),
    limits.getsInFlight,
    async (object, each) => {
      const done = await extendLock(versioned, object, { lock, clock: context.clock, dryRun, signal: each })
      objects++
      requests += done.requests
      if (object.isCovered && covered.length < COVERED_NAMED) covered.push(object.key)
      if (done.isExtended && ++extendedCount <= limits.ledgerKeysMax) extended.push(object.key)
      progress?.('extending locks', objects, Math.max(objects, reached.objectCount))
    },
    { signal },
  )
  const until = assuredBy(lock, began)
  if (!dryRun)
    await putLedger(
      context,
      run,
      { until, began, extended: extended.sort(), count: extendedCount, requests },
      { signal },
    )
  return {
    run,
    points: manifests.length,
    outlived: outlived.size,
    objects,
    extended: extendedCount,
    until,
    requests,
    covered: covered.sort(),
    damaged: [...reached.damaged].map(([manifest, what]) => ({ manifest, what })),
  }
}

/**
 * Points that are not forgotten, and bases of backups that are under way. The order is the rule: marks, then leases, then
 * points. A base whose mark is in the first listing had passed its writer's look before that, so that the writer's lease, or the
 * point that it became, is in a later one.
 */
async function keptManifests(context: MaintenanceContext, options: AbortOptions): Promise<readonly string[]> {
  const { store, control, keyring } = context
  const points = { store, control, keys: keyring.repository }
  const before = new Set((await listPoints(points, { all: true, ...options })).flatMap(stays))
  const bases = await basesOfLeases(context, options)
  const kept = new Set((await listPoints(points, { all: true, ...options })).flatMap(stays))
  for await (const { key } of store.list(pointsPrefix, options))
    if (parsePointKey(key) && (before.has(key) || bases.has(key))) kept.add(key)
  return [...kept].sort()
}

/** What the stored policies let go and nobody holds, reads or builds upon. Without a policy all points are kept. */
async function outlivedManifests(context: MaintenanceContext, options: WorkOptions): Promise<ReadonlySet<string>> {
  try {
    if ((await listPolicies(context, options)).length === 0) return new Set()
    const { keep, remove } = await planPrune(context, options)
    const locked = keep.filter(({ isOutlived }) => isOutlived)
    return new Set([...locked, ...remove].map(({ point }) => point.key))
  } catch (error) {
    // Something that cannot be read may protect any point. A policy that keeps nothing, or for VMs that are not there, lets go nothing.
    if (isIntegrityError(error) || isLifeboatError(error, 'usage')) return new Set()
    throw error
  }
}

const stays = ({ key, state }: { readonly key: string; readonly state: string }): string[] =>
  state === 'committed' ? [key] : []

async function basesOfLeases({ control }: MaintenanceContext, options: AbortOptions): Promise<ReadonlySet<string>> {
  const bases = new Set<string>()
  for await (const key of control.list('lease', { prefix: leasesPrefix, ...options }))
    try {
      const lease = await control.get('lease', key, options)
      for (const base of lease?.texts('bases', limits.disksPerPointMax) ?? []) bases.add(base)
    } catch (error) {
      if (!isIntegrityError(error)) throw error
    }
  return bases
}

async function putLedger(
  { control, who }: MaintenanceContext,
  run: string,
  {
    until,
    began,
    ...figures
  }: { until: Date; began: Date; extended: readonly string[]; count: number; requests: number },
  options: AbortOptions,
): Promise<void> {
  const document = { until: until.toISOString(), ...figures, who, when: began.toISOString() }
  await control.put('lock-ledger', lockLedgerKey(run), document, options)
  await removeOldLedgers(control, options)
}

/** By the times that they tell; those that tell none go first. */
async function removeOldLedgers(control: MaintenanceContext['control'], options: AbortOptions): Promise<void> {
  const found: { key: string; when: number }[] = []
  for await (const key of control.list('lock-ledger', { prefix: locksPrefix, ...options }))
    try {
      const ledger = await control.get('lock-ledger', key, options)
      if (ledger) found.push({ key, when: ledger.date('when').getTime() })
    } catch (error) {
      if (!isIntegrityError(error)) throw error
      found.push({ key, when: 0 })
    }
  const old = found.sort((a, b) => b.when - a.when).slice(limits.ledgersKept)
  if (old.length > 0)
    await control.delete(
      old.map(({ key }) => key),
      options,
    )
}
