/**
 * Keeps a store's traffic below a rate: --limit-rate for people, requests per second for stores that bill or refuse more.
 * A call pays when it starts and waits until the calls before it are paid for, so they go in order and none starves. A
 * whole object's size is not known before it is read; it is paid afterwards, by the next call's wait.
 */
import { type Clock, systemClock } from '../core/clock.ts'
import type { Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import { bodyLength } from './checks.ts'
import type { ObjectStore } from './object-store.ts'
import type { VersionedStore } from './versioned-store.ts'

interface TokenBucket {
  /** Waits until everything charged before is paid, and charges `count`. */
  take(count: number, options?: AbortOptions): Promise<void>
  /** Charges without a wait; a negative count gives back. */
  charge(count: number): void
}

/** `ratePerSecond` tokens a second, of which a quarter second's worth is saved up in idle times. */
function tokenBucket(ratePerSecond: number, clock: Clock): TokenBucket {
  const burstMs = 250
  const msPerToken = 1000 / ratePerSecond
  let paidUntilMs = Number.NEGATIVE_INFINITY
  const charge = (count: number) => {
    paidUntilMs = Math.max(paidUntilMs, clock.monotonicMs() - burstMs) + count * msPerToken
  }
  return {
    charge,
    async take(count, { signal } = {}) {
      signal?.throwIfAborted()
      const waitMs = paidUntilMs - clock.monotonicMs()
      charge(count)
      if (waitMs <= 0) return
      try {
        await clock.sleep(waitMs, { signal })
      } catch (error) {
        charge(-count)
        throw error
      }
    },
  }
}

export interface ThrottleOptions {
  readonly bytesPerSecond?: number
  readonly requestsPerSecond?: number
  readonly clock?: Clock
}

export function throttled(inner: ObjectStore, options: ThrottleOptions): ObjectStore {
  const { clock = systemClock, bytesPerSecond, requestsPerSecond } = options
  const bytes = bytesPerSecond === undefined ? undefined : tokenBucket(bytesPerSecond, clock)
  const requests = requestsPerSecond === undefined ? undefined : tokenBucket(requestsPerSecond, clock)

  async function admit(count: number, options?: AbortOptions): Promise<void> {
    await requests?.take(1, options)
    await bytes?.take(count, options)
  }

  /** What carries no contents does not wait for those of others: whoever gives up removes its lease at once. */
  async function admitSmall(options?: AbortOptions): Promise<void> {
    await requests?.take(1, options)
  }

  async function read(
    range: Range | undefined,
    options: AbortOptions | undefined,
    work: () => Promise<Uint8Array>,
  ): Promise<Uint8Array> {
    const expected = range?.length ?? 0
    await admit(expected, options)
    const found = await work()
    bytes?.charge(found.length - expected)
    return found
  }

  const small = async <T>(options: AbortOptions | undefined, work: () => Promise<T>): Promise<T> => {
    await admitSmall(options)
    return work()
  }

  const throttledVersions = (versioned: VersionedStore): VersionedStore => ({
    features: options => small(options, () => versioned.features(options)),
    async *versions(prefix, options) {
      await admitSmall(options)
      yield* versioned.versions(prefix, options)
    },
    getVersion: (key, versionId, range, options) =>
      read(range, options, () => versioned.getVersion(key, versionId, range, options)),
    deleteVersion: (key, versionId, options) => small(options, () => versioned.deleteVersion(key, versionId, options)),
    lockOf: (key, versionId, options) => small(options, () => versioned.lockOf(key, versionId, options)),
    retain: (key, versionId, mode, until, options) =>
      small(options, () => versioned.retain(key, versionId, mode, until, options)),
    legalHold: (key, versionId, on, options) => small(options, () => versioned.legalHold(key, versionId, on, options)),
  })

  return {
    url: inner.url,
    ...(inner.versioned ? { versioned: throttledVersions(inner.versioned) } : {}),
    get: (key, range, options) => read(range, options, () => inner.get(key, range, options)),
    head: (key, options) => small(options, () => inner.head(key, options)),
    async put(key, body, options) {
      await admit(bodyLength(body), options)
      return inner.put(key, body, options)
    },
    async *list(prefix, options) {
      await admitSmall(options)
      yield* inner.list(prefix, options)
    },
    delete: (keys, options) => small(options, () => inner.delete(keys, options)),
    now: options => small(options, () => inner.now(options)),
    probe: options => small(options, () => inner.probe(options)),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
}
