/**
 * Repeats what failed for a passing reason ('transient') with growing, jittered pauses, until it works, fails for good, or
 * `retryForMs` is over. Nothing else in the product retries a store, so that waits do not multiply.
 */
import { type Clock, systemClock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type Random, systemRandom } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import { isBody } from './checks.ts'
import type { ObjectInfo, ObjectStore, PutOptions, StoreReceipt } from './object-store.ts'
import type { ObjectVersion, VersionedStore } from './versioned-store.ts'

export interface RetryEvent {
  readonly error: LifeboatError
  /** 1 after the first failure. */
  readonly attempt: number
  readonly delayMs: number
}

export interface RetryOptions {
  readonly clock?: Clock
  readonly random?: Random
  /** The last attempt begins this long after the first failure, so that no shorter outage shows (what waits for --limit-rate has not failed); each attempt is bounded by the store's own time-outs. */
  readonly retryForMs?: number
  readonly firstDelayMs?: number
  readonly delayMaxMs?: number
  /** For the log: an outage is worth a line. */
  readonly onRetry?: (event: RetryEvent) => void
}

export function retrying(inner: ObjectStore, options: RetryOptions = {}): ObjectStore {
  const { clock = systemClock, random = systemRandom, onRetry = () => {} } = options
  const { retryForMs = limits.retryForMs } = options
  const { firstDelayMs = limits.retryFirstDelayMs, delayMaxMs = limits.retryDelayMaxMs } = options

  /** One call's budget: resolves after the pause where another attempt is due, throws `error` where none is. */
  function patience({ signal }: AbortOptions) {
    let failedMs: number | undefined
    let attempt = 0
    return async (error: unknown): Promise<void> => {
      signal?.throwIfAborted()
      if (!(error instanceof LifeboatError) || error.retry !== 'transient') throw error
      failedMs ??= clock.monotonicMs()
      const leftMs = retryForMs - (clock.monotonicMs() - failedMs)
      if (leftMs <= 0) throw error
      const delayMs = Math.min(leftMs, jittered(Math.min(delayMaxMs, firstDelayMs * 2 ** attempt), random))
      attempt++
      onRetry({ error, attempt, delayMs })
      await clock.sleep(delayMs, { signal })
    }
  }

  async function repeat<T>(options: AbortOptions, work: (isFirst: boolean) => Promise<T>): Promise<T> {
    const pause = patience(options)
    for (let isFirst = true; ; isFirst = false) {
      try {
        return await work(isFirst)
      } catch (error) {
        await pause(error)
      }
    }
  }

  /** A put may have been stored although its answer was an error. Then the next ifAbsent meets our own object: that is success. */
  function put(key: string, body: readonly Uint8Array[], options: PutOptions = {}): Promise<StoreReceipt> {
    return repeat(options, async isFirst => {
      try {
        return await inner.put(key, body, options)
      } catch (error) {
        const isConflict = error instanceof LifeboatError && error.code === 'store-conflict'
        if (isFirst || !isConflict || !options.ifAbsent) throw error
        if (isBody(await inner.get(key, undefined, options), body)) return {}
        throw error
      }
    })
  }

  /** Goes on with the keys that a failure names as left; every other one is progress, which renews the patience. */
  async function remove(keys: readonly string[], options: AbortOptions = {}): Promise<void> {
    let wanted = keys
    let pause = patience(options)
    for (;;) {
      try {
        return await inner.delete(wanted, options)
      } catch (error) {
        const left = leftOf(error)
        if (left && left.length < wanted.length) {
          wanted = left
          pause = patience(options)
        }
        await pause(error)
      }
    }
  }

  /** Goes on behind the last key that was handed out; every key is progress, which renews the patience. */
  async function* list(
    prefix: string,
    options: { startAfter?: string } & AbortOptions = {},
  ): AsyncGenerator<ObjectInfo> {
    let { startAfter } = options
    let pause = patience(options)
    for (;;) {
      try {
        for await (const info of inner.list(prefix, { ...options, startAfter })) {
          startAfter = info.key
          yield info
          pause = patience(options)
        }
        return
      } catch (error) {
        await pause(error)
      }
    }
  }

  /** Goes on at the first version that was not handed out: behind the last whole key, without those of the next one that were. */
  async function* versions(
    versioned: VersionedStore,
    prefix: string,
    options: { startAfter?: string } & AbortOptions = {},
  ): AsyncGenerator<ObjectVersion> {
    let { startAfter } = options
    let key: string | undefined
    let seen = new Set<string>()
    let pause = patience(options)
    for (;;) {
      try {
        for await (const version of versioned.versions(prefix, { ...options, startAfter })) {
          if (version.key !== key) {
            startAfter = key ?? startAfter
            key = version.key
            seen = new Set()
          }
          if (seen.has(version.versionId)) continue
          seen.add(version.versionId)
          yield version
          pause = patience(options)
        }
        return
      } catch (error) {
        await pause(error)
      }
    }
  }

  const retryingVersions = (versioned: VersionedStore): VersionedStore => ({
    features: (options = {}) => repeat(options, () => versioned.features(options)),
    versions: (prefix, options) => versions(versioned, prefix, options),
    getVersion: (key, versionId, range, options = {}) =>
      repeat(options, () => versioned.getVersion(key, versionId, range, options)),
    deleteVersion: (key, versionId, options = {}) =>
      repeat(options, () => versioned.deleteVersion(key, versionId, options)),
    lockOf: (key, versionId, options = {}) => repeat(options, () => versioned.lockOf(key, versionId, options)),
    retain: (key, versionId, mode, until, options = {}) =>
      repeat(options, () => versioned.retain(key, versionId, mode, until, options)),
    legalHold: (key, versionId, on, options = {}) =>
      repeat(options, () => versioned.legalHold(key, versionId, on, options)),
  })

  return {
    url: inner.url,
    ...(inner.versioned ? { versioned: retryingVersions(inner.versioned) } : {}),
    get: (key, range, options = {}) => repeat(options, () => inner.get(key, range, options)),
    head: (key, options = {}) => repeat(options, () => inner.head(key, options)),
    put,
    list,
    delete: remove,
    now: (options = {}) => repeat(options, () => inner.now(options)),
    probe: (options = {}) => repeat(options, () => inner.probe(options)),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
}

const leftOf = (error: unknown): readonly string[] | undefined =>
  error instanceof LifeboatError && Array.isArray(error.details.left) ? error.details.left : undefined

/** Between half and all of `ms`, so that hosts which failed together do not come back together. */
function jittered(ms: number, random: Random): number {
  const [low = 0, high = 0] = random(2)
  return Math.round((ms / 2) * (1 + (high * 256 + low) / 65_536))
}
