/**
 * Step 5 of a collection: waits until each lease that it saw has ended, by itself or by a fence. The step is this long because
 * what a writer looked at before the run was announced may be gone after it, so the run must know what that writer commits.
 */
import { isIntegrityError, LifeboatError } from '../core/errors.ts'
import type { LeaseId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { JsonFields } from '../repository/json-fields.ts'
import { fenceKey, leaseKey, parseLeaseKey, parsePointKey } from '../repository/object-keys.ts'
import { readStoredManifest } from '../repository/stored-manifest.ts'
import type { MaintenanceContext } from './maintenance.ts'

type Context = Pick<MaintenanceContext, 'store' | 'control' | 'keyring' | 'clock' | 'who'>

/** How a lease ended: its writer removed it; its point is there; or it is void for ever. */
export type LeaseEnd = 'ended' | 'committed' | 'fenced'

interface LeaseDocument {
  readonly counter: number
  readonly expiryMs: number
  readonly manifest: string
  readonly kind: string
  readonly host: string
  readonly vm: string
}

/** On this process's own clock: since when it is known, and since when its counter stands still. */
interface SeenLease extends LeaseDocument {
  readonly firstMs: number
  readonly sinceMs: number
}

export interface LeaseState {
  readonly lease: LeaseId
  readonly kind: string
  readonly host: string
  readonly vm: string
  /** Whether its counter was seen to rise. */
  readonly isAlive: boolean
  /** Until it counts as dead, should its counter stand still from now on. */
  readonly remainingMs: number
}

export class LeaseWatch {
  readonly #context: Context
  /** The run's id, under which it fences. */
  readonly #run: string
  readonly #seen = new Map<LeaseId, SeenLease>()

  constructor(context: Context, run: string) {
    this.#context = context
    this.#run = run
  }

  /** Two listings, for stores that may miss an object in one. */
  async list(options: AbortOptions): Promise<ReadonlySet<LeaseId>> {
    const leases = new Set<LeaseId>()
    for (let pass = 0; pass < 2; pass++)
      for await (const key of this.#context.control.list('lease', options)) {
        const lease = parseLeaseKey(key)
        if (lease) leases.add(lease)
      }
    return leases
  }

  /** Looks at the lease once more. Undefined: the object is gone. Throws 'gc-stopped' where it cannot be read. */
  async look(lease: LeaseId, options: AbortOptions): Promise<LeaseState | undefined> {
    const { clock } = this.#context
    const askedMs = clock.monotonicMs()
    const read = await this.#read(lease, options)
    if (!read) return undefined
    const { counter, expiryMs, ...about } = read
    const known = this.#seen.get(lease)
    const isAlive = known !== undefined && known.counter !== counter
    // Time counts from when an answer had come to when the next question was asked: never more than has passed.
    const nowMs = clock.monotonicMs()
    const sinceMs = known && !isAlive ? known.sinceMs : nowMs
    const firstMs = known?.firstMs ?? nowMs
    this.#seen.set(lease, { ...read, sinceMs, firstMs })
    const endsMs = Math.min(sinceMs + expiryMs, firstMs + limits.leaseLifeMs)
    return {
      lease,
      kind: about.kind,
      host: about.host,
      vm: about.vm,
      isAlive,
      remainingMs: Math.max(0, endsMs - askedMs),
    }
  }

  /**
   * Of a lease that was looked at and counts as dead. Once a fence is put this is finished whatever happens, so it takes no
   * signal: a fence that stays by mistake voids a point that its writer believes to be committed.
   */
  async end(lease: LeaseId): Promise<LeaseEnd> {
    const seen = this.#seen.get(lease)
    if (!seen) throw new LifeboatError('internal', `lease ${lease} was never looked at`)
    const { control, clock, who } = this.#context
    const fence = fenceKey(lease, this.#run)
    let end: LeaseEnd = 'committed'
    if (!(await this.#isCommitted(lease, seen.manifest))) {
      await control.put('fence', fence, { who, when: clock.now().toISOString(), manifest: seen.manifest })
      // The writer asks for fences after its manifest is stored, and we for the manifest after our fence: one sees the other.
      if (await this.#isCommitted(lease, seen.manifest)) await control.delete([fence])
      else end = 'fenced'
    }
    await control.delete([leaseKey(lease)])
    this.#seen.delete(lease)
    return end
  }

  async #isCommitted(lease: LeaseId, manifest: string): Promise<boolean> {
    // A lease of other work than a backup names none.
    if (!parsePointKey(manifest)) return false
    const { store, keyring } = this.#context
    const stored = await readStoredManifest({ store, keys: keyring.repository }, manifest)
    return stored?.manifest.lease === lease
  }

  async #read(lease: LeaseId, options: AbortOptions): Promise<LeaseDocument | undefined> {
    const key = leaseKey(lease)
    try {
      const fields = await this.#context.control.get('lease', key, options)
      return fields && parseLease(fields)
    } catch (error) {
      if (!isIntegrityError(error)) throw error
      throw new LifeboatError('gc-stopped', `${key} cannot be read, so it is not known what its backup will commit`, {
        details: { object: key },
        hint: 'Nothing was removed. When no backup runs any more, delete this object from the store and collect again.',
        cause: error,
      })
    }
  }
}

function parseLease(fields: JsonFields): LeaseDocument {
  const text = (name: string) => (fields.has(name) ? fields.text(name) : '')
  return {
    counter: fields.count('counter'),
    expiryMs: Math.min(fields.count('expiryMs'), limits.leaseLifeMs),
    manifest: text('manifest'),
    kind: text('kind'),
    host: text('host'),
    vm: text('vm'),
  }
}
