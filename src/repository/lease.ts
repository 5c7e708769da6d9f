/**
 * A writer's lease (docs/concurrency.md, WRITER steps 1, 5 and 8): says that work is under way which GC must wait for. It is kept
 * alive by raising its counter. Losing it costs the work and never data.
 */
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { hex, type LeaseId, leaseId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ControlObjects } from './control-object.ts'
import { leaseKey } from './object-keys.ts'

export interface LeaseRequest {
  readonly control: ControlObjects
  readonly clock: Clock
  readonly random: Random
  readonly host: string
  readonly kind: string
  readonly vm: string
  /** Manifest keys of the points that are built upon. */
  readonly bases: readonly string[]
  /** The key that will be written. */
  readonly manifest: string
  readonly refreshMs: number
  readonly expiryMs: number
}

export class Lease {
  readonly id: LeaseId
  readonly #request: LeaseRequest
  readonly #created: Date
  readonly #stopped = new AbortController()
  readonly #beganMs: number
  #counter = 0
  /** When the last refresh that succeeded was begun: it may have been stored as early as that. */
  #refreshedMs: number
  #isGone = false
  #refreshing: Promise<void> = Promise.resolve()

  private constructor(request: LeaseRequest) {
    this.#request = request
    this.id = leaseId(hex(request.random(8)))
    this.#created = request.clock.now()
    this.#beganMs = request.clock.monotonicMs()
    this.#refreshedMs = this.#beganMs
  }

  /** Resolves when the lease is stored; from then on it refreshes itself until `stop`. */
  static async begin(request: LeaseRequest, options: AbortOptions): Promise<Lease> {
    const lease = new Lease(request)
    try {
      await lease.#put(options)
    } catch (error) {
      // It may have been stored all the same; nobody would refresh it.
      await request.control.delete([lease.key]).catch(() => {})
      throw error
    }
    lease.#refreshing = lease.#refresh()
    return lease
  }

  get key(): string {
    return leaseKey(this.id)
  }

  /** Step 5: throws 'lease-lost' where a GC may have taken this lease for dead, so that going on would be in vain. */
  async check(options: AbortOptions): Promise<void> {
    this.throwIfLost()
    if ((await this.#request.control.get('lease', this.key, options)) === undefined) this.#isGone = true
    this.throwIfLost()
  }

  /** The part of step 5 that asks nobody. */
  throwIfLost(): void {
    const { clock, expiryMs } = this.#request
    const nowMs = clock.monotonicMs()
    if (this.#isGone) throw this.#lost('it was removed')
    if (nowMs - this.#refreshedMs > expiryMs / 2) throw this.#lost('it could not be refreshed in time')
    if (nowMs - this.#beganMs > limits.leaseLifeMs) throw this.#lost('it is older than any work may take')
  }

  /** Ends the refreshing and waits for one that is under way. The object stays. */
  async stop(): Promise<void> {
    this.#stopped.abort()
    await this.#refreshing
  }

  async #refresh(): Promise<void> {
    const { clock, refreshMs, control } = this.#request
    const { signal } = this.#stopped
    let waitMs = refreshMs
    while (!signal.aborted && !this.#isGone)
      try {
        await clock.sleep(waitMs, { signal })
        // A lease that GC has removed must not come back: a later GC would wait for it in vain.
        if ((await control.get('lease', this.key, { signal })) === undefined) this.#isGone = true
        else await this.#put({ signal })
        waitMs = refreshMs
      } catch {
        // Whether it matters is decided by the clock in throwIfLost; until then, sooner again.
        waitMs = refreshMs / 4
      }
  }

  async #put(options: AbortOptions): Promise<void> {
    const { control, clock, host, kind, vm, bases, manifest, refreshMs, expiryMs } = this.#request
    const beganMs = clock.monotonicMs()
    const created = this.#created.toISOString()
    const document = { counter: this.#counter, host, kind, vm, bases, manifest, refreshMs, expiryMs, created }
    await control.put('lease', this.key, document, options)
    this.#counter++
    this.#refreshedMs = beganMs
  }

  #lost(why: string): LifeboatError {
    return new LifeboatError('lease-lost', `The lease of this backup was lost: ${why}`, {
      details: { object: this.key },
      hint: 'Nothing was committed and nothing is damaged. Run the backup again; if this repeats, look at the connection to the store.',
    })
  }
}
