/**
 * Shredding: the keys of a VM that has a domain of its own are destroyed, and with them every copy of its chunks, wherever
 * packs of it may lie. Its points are forgotten first: nothing may rely on them, and a collection never needs their nodes.
 */
import { LifeboatError } from '../core/errors.ts'
import type { DomainId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { domainPrefix, leasesPrefix } from '../repository/object-keys.ts'
import { listPoints } from '../repository/points.ts'
import type { PointSummary } from '../repository/repository.ts'
import { readStoredManifest } from '../repository/stored-manifest.ts'
import { recordAudit } from './audit.ts'
import { applyForget } from './forget.ts'
import { lockView } from './lock-view.ts'
import type { MaintenanceContext } from './maintenance.ts'
import { describeProtection, lockOn, readClaims } from './protections.ts'

export interface DestroyContext extends MaintenanceContext {
  readonly defaultDomain: DomainId
}

export interface DestroyPlan {
  readonly vm: string
  /** More than one where the VM was shredded before and backed up again. */
  readonly domains: readonly DomainId[]
  /** What becomes unreadable; those of `forget` are not marked yet. */
  readonly points: readonly PointSummary[]
  readonly forget: readonly PointSummary[]
  /** Keys of the objects to be destroyed, with all their versions. */
  readonly objects: readonly string[]
}

/** Throws 'no-such-vm', 'usage' for a VM that shares its keys, 'point-protected', 'vm-busy' or 'store-locked'. Writes nothing. */
export async function planDestroy(
  context: DestroyContext,
  vm: string,
  options: AbortOptions = {},
): Promise<DestroyPlan> {
  const found = await domainsOf(context, options)
  const own = found.filter(({ point }) => point.vm === vm)
  if (own.length === 0)
    throw new LifeboatError('no-such-vm', `there is no point of a VM '${vm.slice(0, 255)}'`, {
      details: { vm },
      hint: '`lifeboat points --all` lists those of all VMs',
    })
  const domains = new Set(own.map(({ domain }) => domain).filter(domain => domain !== context.defaultDomain))
  const shared = own.find(({ domain, point }) => domain === context.defaultDomain && point.state === 'committed')
  const other = found.find(({ domain, point }) => domains.has(domain) && point.vm !== vm)
  if (domains.size === 0 || shared || other) throw sharesKeys(vm, shared?.point ?? other?.point)
  const points = own.filter(({ domain }) => domains.has(domain)).map(({ point }) => point)
  await refuseRunning(context, vm, options)
  await refuseProtected(context, vm, points, options)
  const objects = (await Promise.all([...domains].map(domain => keyObjects(context, domain, options)))).flat()
  await refuseLocked(context, objects, options)
  const forget = points.filter(({ state }) => state !== 'forgotten')
  return { vm, domains: [...domains], points, forget, objects }
}

/** The audit first, then the marks, another look for readers, and only then the keys. Killed on the way, it is run again. */
export async function applyDestroy(
  context: DestroyContext,
  plan: DestroyPlan,
  options: AbortOptions = {},
): Promise<void> {
  const { vm, domains, points, objects } = plan
  const why = 'the keys of the VM are destroyed'
  await recordAudit(context, 'key-destroy', { vm, domains, points: points.length }, options)
  await applyForget(context, plan.forget, { why, ...options })
  // Whoever pinned a point before its mark reads it still.
  await refuseProtected(context, vm, points, options)
  await context.store.delete(objects, options)
  for (const domain of domains) {
    const [left] = await keyObjects(context, domain, options)
    if (left !== undefined)
      throw new LifeboatError('store-failed', `${left} is still there after it was deleted`, {
        details: { object: left },
        hint: 'Run it again. If it stays, remove all versions of it from the store by other means.',
      })
  }
  // A backup that began after the plan either sees that its keys are gone, or its point is listed here.
  const late = (await domainsOf(context, { vm, ...options }))
    .filter(({ domain, point }) => domains.includes(domain) && point.state !== 'forgotten')
    .map(({ point }) => point)
  await applyForget(context, late, { why, ...options })
}

/** Every manifest of the VM, or of all, whatever became of its point. Throws an integrity error: what is not known may be in any domain. */
async function domainsOf(
  { store, control, keyring }: DestroyContext,
  { vm, signal }: { vm?: string } & AbortOptions = {},
): Promise<readonly { readonly point: PointSummary; readonly domain: DomainId }[]> {
  const keys = keyring.repository
  const found: { point: PointSummary; domain: DomainId }[] = []
  await forEachLimited(
    await listPoints({ store, control, keys }, { vm, all: true, signal }),
    limits.getsInFlight,
    async (point, each) => {
      const stored = await readStoredManifest({ store, keys }, point.key, { signal: each })
      if (stored) found.push({ point, domain: stored.manifest.domain })
    },
    { signal },
  )
  return found.sort((a, b) => (a.point.key < b.point.key ? -1 : 1))
}

const sharesKeys = (vm: string, point: PointSummary | undefined): LifeboatError =>
  new LifeboatError('usage', `${vm} shares its keys with others, which would be lost with them`, {
    details: point ? { object: point.key, point: point.id } : {},
    hint: 'Only a VM whose first backup said --own-domain has keys that can be destroyed. `lifeboat forget` and `lifeboat gc` remove the points of others.',
  })

async function refuseRunning({ control, store }: DestroyContext, vm: string, options: AbortOptions): Promise<void> {
  for await (const { key } of store.list(leasesPrefix, options)) {
    const lease = await control.get('lease', key, options)
    if (lease?.text('vm') !== vm) continue
    throw new LifeboatError('vm-busy', `A ${lease.text('kind')} of ${vm} is at work on ${lease.text('host')}`, {
      details: { object: key },
      hint: 'Wait until it ends; one that died is ended by `lifeboat unlock`.',
    })
  }
}

async function refuseProtected(
  context: DestroyContext,
  vm: string,
  points: readonly PointSummary[],
  options: AbortOptions,
): Promise<void> {
  const claims = await readClaims(context, options)
  const locks = await lockOn(context, points, options)
  const reasons = points.flatMap(point =>
    [...claims.on(point), ...(locks.get(point.id) ?? [])].map(
      protection => `${vm}@${point.id}: ${describeProtection(protection)}`,
    ),
  )
  if (reasons.length === 0) return
  throw new LifeboatError('point-protected', `The keys of ${vm} are needed. ${reasons.slice(0, 20).join('; ')}`, {
    details: { vm },
    hint: '`lifeboat hold remove` lifts a hold; end the commands and discard the sessions that read its points; a lock ends by itself.',
  })
}

/** Where the store keeps versions, also those of keys that seem to be gone. */
async function keyObjects(
  { store }: DestroyContext,
  domain: DomainId,
  options: AbortOptions,
): Promise<readonly string[]> {
  const keys = new Set<string>()
  for await (const { key } of store.list(domainPrefix(domain), options)) keys.add(key)
  if (store.versioned)
    for await (const { key, isDeleteMarker } of store.versioned.versions(domainPrefix(domain), options))
      if (!isDeleteMarker) keys.add(key)
  return [...keys]
}

async function refuseLocked({ store }: DestroyContext, objects: readonly string[], options: AbortOptions) {
  const view = lockView(store)
  for (const key of view ? objects : []) {
    const until = await view?.lockedUntil(key, options)
    if (!until) continue
    const when = until === 'held' ? 'a legal hold is lifted' : until.toISOString()
    throw new LifeboatError('store-locked', `The store keeps ${key} until ${when}: nothing was destroyed`, {
      details: { object: key },
      hint: 'Forget the points now, and destroy the keys when their locks have ended: let no renewal of locks extend them.',
    })
  }
}

/** Of these domains, those whose keys are gone. */
export async function shreddedDomains(
  { store }: Pick<DestroyContext, 'store'>,
  domains: ReadonlySet<DomainId>,
  options: AbortOptions = {},
): Promise<ReadonlySet<DomainId>> {
  const shredded = new Set<DomainId>()
  await forEachLimited(
    domains,
    limits.getsInFlight,
    async (domain, signal) => {
      for await (const _ of store.list(domainPrefix(domain), { signal })) return
      shredded.add(domain)
    },
    options,
  )
  return shredded
}
