/**
 * The locks that a new point relies upon (docs/concurrency.md, section 10). What it stores is put with its lock; what it reuses
 * is extended where too little is left; a base counts only while renewals have kept all that it reaches. So whatever the
 * committed point reaches is locked for as long as is promised.
 */
import type { Clock } from '../core/clock.ts'
import { isLifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { refuseClockSkew } from './clock-skew.ts'
import type { ControlObjects } from './control-object.ts'
import { renewalState } from './lock-ledgers.ts'
import { extendBefore, isLockedKey, lockUntil, promisedUntil, type RepositoryLock } from './lock-policy.ts'

export class PointLocks {
  /** Notes what is put. */
  readonly store: ObjectStore
  readonly #lock: RepositoryLock
  readonly #clock: Clock
  /** What the point relies upon, and how long it is locked. */
  readonly #until = new Map<string, Date>()
  #hasRenewals = true

  constructor(store: ObjectStore, lock: RepositoryLock, clock: Clock) {
    this.#lock = lock
    this.#clock = clock
    this.store = {
      ...store,
      put: async (key, body, options) => {
        const until = lockUntil(lock, clock.now())
        const receipt = await store.put(key, body, options)
        if (isLockedKey(key)) this.#until.set(key, until)
        return receipt
      },
      [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
    }
  }

  /** Throws 'clock-skew': a lock that is dated by a wrong clock ends too early, or too late for anybody to remove it. */
  async begin(control: ControlObjects, options: AbortOptions): Promise<void> {
    const { store } = this
    await refuseClockSkew({ store, clock: this.#clock }, options)
    this.#hasRenewals = !(await renewalState(control, this.#lock, this.#clock.now(), options)).isOverdue
  }

  /** Whether all that the point with this manifest reaches is locked as promised. A point that is no longer renewed tells by its manifest. */
  async mayBuildOn(manifest: string, options: AbortOptions): Promise<boolean> {
    if (!this.#hasRenewals) return false
    const until = await this.#lockedUntil(manifest, options)
    return until !== undefined && until >= promisedUntil(this.#lock, this.#clock.now())
  }

  /** Whether this object may be reused; its lock is then long enough. Asked once for each. */
  async mayReuse(key: string, options: AbortOptions): Promise<boolean> {
    if (this.#until.has(key)) return true
    const until = await this.#lockedUntil(key, options)
    if (!until) return false
    if (until < extendBefore(this.#lock, this.#clock.now())) return await this.#extend(key, options)
    this.#until.set(key, until)
    return true
  }

  /** Before the manifest is put: what a long backup has stored or found at its beginning has its full time again. */
  async settle(options: AbortOptions): Promise<void> {
    const before = extendBefore(this.#lock, this.#clock.now())
    const short = [...this.#until].filter(([, until]) => until < before).map(([key]) => key)
    await forEachLimited(short, limits.putsInFlight, (key, signal) => this.#retain(key, { signal }), options)
  }

  /** Undefined: without a lock, gone, or not to be told to this user. */
  async #lockedUntil(key: string, options: AbortOptions): Promise<Date | undefined> {
    try {
      return (await this.store.versioned?.lockOf(key, undefined, options))?.retainUntil
    } catch (error) {
      if (isLifeboatError(error, 'store-not-found') || isLifeboatError(error, 'store-denied')) return undefined
      throw error
    }
  }

  async #extend(key: string, options: AbortOptions): Promise<boolean> {
    try {
      await this.#retain(key, options)
      return true
    } catch (error) {
      if (isLifeboatError(error, 'store-not-found') || isLifeboatError(error, 'store-denied')) return false
      throw error
    }
  }

  async #retain(key: string, options: AbortOptions): Promise<void> {
    const until = lockUntil(this.#lock, this.#clock.now())
    await this.store.versioned?.retain(key, undefined, this.#lock.mode, until, options)
    this.#until.set(key, until)
  }
}
