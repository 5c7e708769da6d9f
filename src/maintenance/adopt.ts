/**
 * A void point whose whole tree is still there becomes a point: under a new id and a new lease, by the WRITER's rules
 * (docs/concurrency.md). The old manifest stays void, for its lease is fenced for ever.
 *
 * Every record is read after the lease was stored and the open GC runs were listed, and none of them is condemned: that is the look
 * at what is reused which step 2 asks for. A run that begins later finds the lease, waits, and marks from the new manifest.
 * Where locks are promised, all that it reaches is locked for as long before the manifest is put.
 */
import { LifeboatError } from '../core/errors.ts'
import { hex, type PointId, pointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { isFenced, listPointKeys } from '../repository/base-points.ts'
import { refuseClockSkew } from '../repository/clock-skew.ts'
import { giveUpPoint, putManifest } from '../repository/commit-manifest.ts'
import { listDamage } from '../repository/damage-marks.ts'
import { Lease } from '../repository/lease.ts'
import { domainKeysKey, forgottenKey, keyTime, pointKey } from '../repository/object-keys.ts'
import type { OpenedRepository } from '../repository/open.ts'
import type { Manifest, PointSummary } from '../repository/repository.ts'
import { type ReuseRules, readReuseRules } from '../repository/reuse-rules.ts'
import { readStoredManifest, sealManifest } from '../repository/stored-manifest.ts'
import { type VerifyRequest, verifyManifest } from '../repository/verify.ts'
import { recordAudit } from './audit.ts'
import { extendLock } from './extend-lock.ts'
import { applyForget } from './forget.ts'
import { type MaintenanceContext, maintenanceContext } from './maintenance.ts'
import { keptObjects, reachedBy } from './reached-objects.ts'

export interface AdoptRequest extends AbortOptions {
  readonly point: PointSummary
  readonly who: string
  readonly leaseExpiryMs?: number
  readonly progress?: VerifyRequest['progress']
}

export interface Adopted {
  readonly manifest: Manifest
  readonly from: PointId
  readonly key: string
  /** Records and bytes that were read. */
  readonly checked: number
  readonly bytes: number
}

/** Throws an integrity error that names what is missing, 'point-forgotten', 'not-committed' where a GC run is at it, or 'usage'. */
export async function adoptPoint(repository: OpenedRepository, request: AdoptRequest): Promise<Adopted> {
  const { point, signal, leaseExpiryMs = limits.leaseExpiryMs } = request
  const { control, clock, random, host } = repository.reading
  if (repository.reading.lock) await refuseClockSkew(repository.reading, { signal })
  const id = pointId(hex(random(8)))
  const key = pointKey(point.vm, point.takenAt, id)
  const lease = await Lease.begin(
    {
      control,
      clock,
      random,
      host,
      kind: 'adopt',
      vm: point.vm,
      bases: [],
      manifest: key,
      refreshMs: Math.min(limits.leaseRefreshMs, leaseExpiryMs / 6),
      expiryMs: leaseExpiryMs,
    },
    { signal },
  )
  let isManifestSent = false
  try {
    const rules = await readReuseRules(control, await listDamage(control, { signal }), { signal })
    const found = await readVoid(repository, point, { signal })
    const { checked, bytes } = await readWhole(repository, found, rules, request)
    const manifest: Manifest = { ...found, point: id, lease: lease.id, adoptedFrom: point.id }
    const audited = { vm: point.vm, from: point.key, points: [key] }
    const context = maintenanceContext(repository, request.who)
    await recordAudit(context, 'adopt', audited, { signal })
    await lockReached(context, point, { signal })
    await lease.check({ signal })
    isManifestSent = true
    await commit(repository, key, manifest, { signal })
    await lease.stop()
    await control.delete([lease.key], { signal }).catch(() => {})
    // The old one has nothing more to say: as long as it is there without a mark people are told of it.
    await applyForget(context, [point], { why: `adopted as ${id}`, signal }).catch(() => {})
    return { manifest, from: point.id, key, checked, bytes }
  } catch (error) {
    await lease.stop()
    await giveUpPoint({ control, clock, host, lease: lease.id, point: id, manifest: key, isManifestSent }, error)
    throw error
  }
}

/** Its manifest, if it may be adopted. Who adopts it a second time would have two points of one instant. */
async function readVoid(
  { reading }: OpenedRepository,
  { id, key, vm, takenAt }: PointSummary,
  options: AbortOptions,
): Promise<Manifest> {
  const { store, control, keyring, random } = reading
  const source = { store, keys: keyring.repository, random }
  if (await store.head(forgottenKey(id), options))
    throw new LifeboatError('point-forgotten', `Point ${id} was forgotten and may be half gone`, {
      details: { object: forgottenKey(id), point: id },
      hint: 'A point that was given up or forgotten cannot be adopted: back the VM up again.',
    })
  const stored = await readStoredManifest(source, key, options)
  if (!stored)
    throw new LifeboatError('no-such-point', `Point ${id} is not there any more`, {
      details: { object: key, point: id },
      hint: '`lifeboat points --all` lists what is there.',
    })
  if (!(await isFenced(control, stored.manifest, options)))
    throw new LifeboatError('usage', `Point ${id} is no void point: it counts as it is`, {
      details: { object: key, point: id },
      hint: '`lifeboat points --all` shows which points are void.',
    })
  for (const [other, otherKey] of await listPointKeys(source, vm, options)) {
    if (other === id || !otherKey.includes(`/${keyTime(takenAt)}-`)) continue
    const twin = await readStoredManifest(source, otherKey, options)
    if (twin?.manifest.adoptedFrom === id && !(await isFenced(control, twin.manifest, options)))
      throw new LifeboatError('usage', `Point ${id} was adopted already, as ${other}`, {
        details: { object: otherKey, point: other },
        hint: `Use ${vm}@${other}.`,
      })
  }
  return stored.manifest
}

async function readWhole(
  repository: OpenedRepository,
  manifest: Manifest,
  rules: ReuseRules,
  { point, progress, signal }: AdoptRequest,
): Promise<{ checked: number; bytes: number }> {
  let condemned: string | undefined
  const visit: VerifyRequest['visit'] = ({ pack, slot }) => {
    if (rules.isCondemned(pack, slot)) condemned ??= pack
  }
  const result = await verifyManifest(repository, point, manifest, { progress, visit, signal })
  const [problem] = result.problems
  if (problem) {
    const code = problem.kind === 'missing' ? 'missing-object' : 'corrupt-object'
    throw new LifeboatError(
      problem.kind === 'unchecked' ? 'store-failed' : code,
      `Point ${point.id} is not whole: ${problem.message}`,
      {
        details: { object: problem.object, point: point.id, problems: result.problems.length },
        hint: 'Nothing was changed. It stays void; back the VM up again.',
      },
    )
  }
  if (condemned !== undefined)
    throw new LifeboatError('not-committed', `A running gc may remove what point ${point.id} needs`, {
      details: { point: point.id, pack: condemned },
      hint: 'Nothing was changed. Try again when that gc has ended.',
    })
  return result
}

/** As a renewal does it, before the point counts. What may not be extended makes no point. */
async function lockReached(context: MaintenanceContext, { key }: PointSummary, options: AbortOptions): Promise<void> {
  const { lock, clock, store } = context
  if (!lock || !store.versioned) return
  const { versioned } = store
  await forEachLimited(
    keptObjects(versioned, await reachedBy(context, [key], options), options),
    limits.getsInFlight,
    async (object, signal) => {
      await extendLock(versioned, object, { lock, clock, signal })
    },
    options,
  )
}

/** Steps 6 and 7. */
async function commit(
  { reading: { store, keyring, control, random } }: OpenedRepository,
  key: string,
  manifest: Manifest,
  options: AbortOptions,
): Promise<void> {
  const bytes = sealManifest({ store, keys: keyring.repository, random }, key, manifest)
  await putManifest(store, key, bytes, options)
  if (await isFenced(control, manifest, options))
    throw new LifeboatError('not-committed', 'A garbage collection took this adoption for dead', {
      details: { object: key },
      hint: 'Nothing is damaged. Try again; if this repeats, look for long pauses of this host.',
    })
  // Whoever destroys the keys of a domain lists its points after that: it has seen ours, or we see here that they are gone.
  const domainKeys = domainKeysKey(manifest.domain, 0)
  if (await store.head(domainKeys, options)) return
  throw new LifeboatError('not-committed', `The keys of ${manifest.vm} were destroyed meanwhile`, {
    details: { object: domainKeys },
    hint: 'What was stored under them cannot be read any more.',
  })
}
