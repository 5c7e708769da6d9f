/**
 * Writes one point by the WRITER's rules (docs/concurrency.md): the lease first, what may be built upon and reused next, then
 * packs, then the manifest, and only a look at the fences after that makes it a point.
 */
import { isIntegrityError, LifeboatError } from '../core/errors.ts'
import type { PointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { forkedRandom } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import { sealEnvelope } from '../crypto/envelope.ts'
import { type BaseDisk, openBaseDisk } from './base-disk.ts'
import { checkBase, isFenced, listPointKeys, type Succession, succession } from './base-points.ts'
import { giveUpPoint, putManifest } from './commit-manifest.ts'
import { type ControlObjects, controlObjects } from './control-object.ts'
import { listDamage } from './damage-marks.ts'
import { PointDiskWriter } from './disk-writer.ts'
import { Healing } from './healing.ts'
import { Lease } from './lease.ts'
import { manifestDisk } from './manifest-disk.ts'
import { domainKeysKey, indexKey, pointKey } from './object-keys.ts'
import { PointLocks } from './point-locks.ts'
import { PointPacks } from './point-packs.ts'
import type {
  BeginPoint,
  CommitDetails,
  DiskRequest,
  DiskWriter,
  HealResult,
  Manifest,
  PointWriter,
} from './repository.ts'
import { readReuseRules } from './reuse-rules.ts'
import { type StoredManifest, sealManifest } from './stored-manifest.ts'
import type { WriteContext } from './write-context.ts'
import { type DomainlessContext, writeDomain } from './write-domain.ts'

/** WRITER steps 1 to 3. */
export async function beginPoint(outer: DomainlessContext, request: BeginPoint): Promise<PointWriter> {
  const { signal, vm, ownDomain = false } = request
  // One stream for what refreshes by the clock, one for what follows the data: neither disturbs the other's order.
  const locks = outer.lock && new PointLocks(outer.store, outer.lock, outer.clock)
  const early = { ...outer, random: forkedRandom(outer.random), ...(locks ? { store: locks.store } : {}) }
  const control = controlObjects(outer.store, outer.keys, forkedRandom(outer.random))
  const keys = await listPointKeys(early, vm, { signal })
  const bases = request.bases.flatMap(point => keys.get(point) ?? [])
  const lease = await Lease.begin(
    {
      control,
      clock: early.clock,
      random: early.random,
      host: early.host,
      kind: request.kind,
      vm,
      bases,
      manifest: pointKey(vm, request.takenAt, request.point),
      refreshMs: early.leaseRefreshMs,
      expiryMs: early.leaseExpiryMs,
    },
    { signal },
  )
  try {
    const domain = await writeDomain(early, control, { vm, ownDomain, keys, signal })
    const context: WriteContext = { ...early, domain }
    const damage = await listDamage(control, { signal })
    const rules = await readReuseRules(control, damage, { signal })
    const healing = await Healing.begin(context, damage, { signal })
    await locks?.begin(control, { signal })
    const checked = new Map<PointId, StoredManifest>()
    for (const point of request.bases) {
      const key = keys.get(point)
      if (key && locks && !(await locks.mayBuildOn(key, { signal }))) continue
      const stored = key && (await checkBase(context, control, point, key, { signal }).catch(passDamaged))
      if (stored && fitsContext(stored.manifest, context)) checked.set(point, stored)
    }
    const follows = await succession(context, control, keys, checked, { signal })
    const packs = new PointPacks(context, { rules, healing, locks, hasBase: checked.size > 0 })
    const isApart = domain.domain !== outer.defaultDomain
    return new LeasedPointWriter({ context, control, request, lease, bases: checked, follows, packs, locks, isApart })
  } catch (error) {
    await lease.stop()
    await control.delete([lease.key]).catch(() => {})
    throw error
  }
}

/** A base whose manifest is damaged fails like one that is gone: the disk is read whole, and verify reports the damage. */
function passDamaged(error: unknown): undefined {
  if (!isIntegrityError(error)) throw error
}

/** Chunks are shared within one domain and one chunk size. */
const fitsContext = ({ domain, disks }: Manifest, context: WriteContext): boolean =>
  domain === context.domain.domain && disks.every(disk => disk.chunkSize === context.chunkSize)

/** What a reader would refuse is not written. */
function refuseName(name: string, disks: number): void {
  if (name.length === 0 || Buffer.byteLength(name) > limits.diskNameBytesMax || !name.isWellFormed())
    throw new LifeboatError('usage', `a disk cannot be named '${name.slice(0, 40)}${name.length > 40 ? '...' : ''}'`, {
      hint: `Give it a name of 1 to ${limits.diskNameBytesMax} bytes.`,
    })
  if (disks >= limits.disksPerPointMax)
    throw new LifeboatError('usage', `a point holds at most ${limits.disksPerPointMax} disks`, {
      hint: 'Choose disks with --disk, and back the others up under a second name.',
    })
}

interface Begun {
  readonly context: WriteContext
  readonly control: ControlObjects
  readonly request: BeginPoint
  readonly lease: Lease
  readonly bases: ReadonlyMap<PointId, StoredManifest>
  readonly follows: Succession
  readonly packs: PointPacks
  readonly locks: PointLocks | undefined
  /** In a domain of its own, whose keys may be destroyed. */
  readonly isApart: boolean
}

class LeasedPointWriter implements PointWriter {
  readonly point: PointId
  readonly bases: ReadonlyMap<PointId, Manifest>
  readonly #begun: Begun
  readonly #disks: PointDiskWriter[] = []
  readonly #open: BaseDisk[] = []
  readonly #ended = new AbortController()
  #state: 'open' | 'committing' | 'committed' | 'given-up' = 'open'
  #healed: HealResult = { records: 0, packs: [] }
  /** From the first attempt on, the store may hold it, whatever it answered. */
  #isManifestSent = false

  constructor(begun: Begun) {
    this.#begun = begun
    this.point = begun.request.point
    this.bases = new Map([...begun.bases].map(([point, { manifest }]) => [point, manifest]))
  }

  get healed(): HealResult {
    return this.#healed
  }

  async disk({ name, size, base, description }: DiskRequest): Promise<DiskWriter> {
    if (this.#state !== 'open') throw new RangeError('the point takes no more disks')
    refuseName(name, this.#disks.length)
    const { context, packs, lease } = this.#begun
    const writer = new PointDiskWriter(context, packs, {
      name,
      size,
      base: base && this.#baseDisk(base, name),
      description,
      throwIfLost: () => lease.throwIfLost(),
      signal: this.#ended.signal,
    })
    this.#disks.push(writer)
    return writer
  }

  async commit(details: CommitDetails, options: AbortOptions = {}): Promise<Manifest> {
    if (this.#state !== 'open') throw new RangeError('the point was committed or given up')
    this.#state = 'committing'
    try {
      return await this.#commit(details, options)
    } catch (error) {
      await this.#giveUp(error)
      throw error
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state === 'open')
      await this.#giveUp(new LifeboatError('interrupted', 'The point was given up before it was complete'))
  }

  async #commit(details: CommitDetails, options: AbortOptions): Promise<Manifest> {
    const { context, control, lease, packs, locks } = this.#begun
    await packs.finish(options) // 4
    await this.#putIndex(options)
    const manifest = this.#manifest(details)
    const key = pointKey(manifest.vm, manifest.takenAt, manifest.point)
    const bytes = sealManifest(context, key, manifest)
    await locks?.settle(options)
    await lease.check(options) // 5
    this.#isManifestSent = true
    await putManifest(context.store, key, bytes, options) // 6
    if (await isFenced(control, manifest, options))
      // 7
      throw new LifeboatError('not-committed', `A garbage collection took this backup of ${manifest.vm} for dead`, {
        details: { object: key },
        hint: 'Nothing is damaged. Run the backup again; if this repeats, look for long pauses of this host.',
      })
    await this.#checkKeys(manifest, options)
    this.#state = 'committed'
    // Whatever comes of it, the point stands; the lease still says that work is under way.
    const stands = async (asked: AbortOptions) =>
      (await checkBase(context, control, manifest.point, key, asked)) !== undefined
    this.#healed = await packs.healing.store({ throwIfLost: () => lease.throwIfLost(), stands }, options)
    await this.#settle(new LifeboatError('interrupted', 'the point is committed'))
    // A lease that stays behind expires and is removed by the next GC, which finds the manifest.
    await control.delete([lease.key], options).catch(() => {})
    return manifest
  }

  /**
   * Whoever destroys the keys of a domain lists its points after that: it sees ours, and forgets it, or we see here that the keys
   * are gone. A point that nobody can read is none.
   */
  async #checkKeys({ vm, domain }: Manifest, options: AbortOptions): Promise<void> {
    const { context, isApart } = this.#begun
    if (!isApart || (await context.store.head(domainKeysKey(domain, context.domain.epoch), options))) return
    throw new LifeboatError('not-committed', `The keys of ${vm} were destroyed during this backup`, {
      details: { object: domainKeysKey(domain, context.domain.epoch) },
      hint: 'Run the backup again if the VM is still to be protected: it begins with new keys.',
    })
  }

  async #putIndex(options: AbortOptions): Promise<void> {
    const { context, packs, lease } = this.#begun
    const index = packs.dedup.encode(context.domain.domain)
    if (!index) return
    const place = { repository: context.keys.repository, kind: 'index', objectKey: indexKey(lease.id) } as const
    await context.store.put(
      place.objectKey,
      [sealEnvelope(place, context.keys.metadata, index, context.random)],
      options,
    )
  }

  #manifest({ kind, consistency, description, firmwareVariables, omitted }: CommitDetails): Manifest {
    const { context, request, lease, follows } = this.#begun
    const disks = this.#disks.map(({ finished }) => {
      if (!finished) throw new RangeError('a disk of the point is not finished')
      return manifestDisk(finished, context.random(16))
    })
    return {
      point: request.point,
      vm: request.vm,
      takenAt: request.takenAt,
      ...follows,
      kind,
      consistency,
      lease: lease.id,
      domain: context.domain.domain,
      host: context.host,
      description,
      ...(firmwareVariables ? { firmwareVariables } : {}),
      disks,
      omitted,
    }
  }

  /** Step 8. It waits for everything that still runs, so that nothing of this point is written after it. */
  async #giveUp(reason: unknown): Promise<void> {
    this.#state = 'given-up'
    await this.#settle(reason)
    const { context, control, lease, request } = this.#begun
    const manifest = pointKey(request.vm, request.takenAt, request.point)
    const isManifestSent = this.#isManifestSent
    const { clock, host } = context
    await giveUpPoint({ control, clock, host, lease: lease.id, point: request.point, manifest, isManifestSent }, reason)
  }

  /** Ends everything that goes on behind the calls. */
  async #settle(reason: unknown): Promise<void> {
    const { packs, lease } = this.#begun
    if (!this.#ended.signal.aborted) this.#ended.abort(reason)
    await packs.abandon(reason)
    await Promise.all(this.#disks.map(disk => disk.settled()))
    await Promise.all(this.#open.splice(0).map(base => base[Symbol.asyncDispose]()))
    await lease.stop()
  }

  #baseDisk(point: PointId, name: string): { point: PointId; disk: BaseDisk } | undefined {
    const stored = this.#begun.bases.get(point)
    if (!stored) throw new RangeError(`point ${point} is not among the bases that passed`)
    const disk = stored.manifest.disks.find(held => held.name === name)
    if (!disk) return undefined
    const base = openBaseDisk(this.#begun.context, stored.manifest, disk)
    this.#open.push(base)
    return { point, disk: base }
  }
}
