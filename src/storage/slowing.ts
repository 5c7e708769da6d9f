/**
 * Asks a store less often after it said that it was asked too much ('store-throttled'). `retrying` above it spaces the
 * attempts of one call; this spaces all calls, or a hundred of them would come back together and be refused together.
 */
import { type Clock, systemClock } from '../core/clock.ts'
import { isLifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import { adaptiveRate } from './adaptive-rate.ts'
import type { ObjectStore } from './object-store.ts'
import type { VersionedStore } from './versioned-store.ts'

export function slowing(inner: ObjectStore, { clock = systemClock }: { readonly clock?: Clock } = {}): ObjectStore {
  const rate = adaptiveRate(clock)

  function ended(takenMs: number, error?: unknown): void {
    rate.ended(takenMs, isLifeboatError(error, 'store-throttled') ? 'refused' : 'accepted')
  }

  async function paced<T>(options: AbortOptions | undefined, work: () => Promise<T>): Promise<T> {
    const takenMs = await rate.take(options)
    try {
      const result = await work()
      ended(takenMs)
      return result
    } catch (error) {
      ended(takenMs, error)
      throw error
    }
  }

  /** One request for the rate, however many pages it takes: a caller asks for the next page when it has used this one. */
  async function* listing<T>(options: AbortOptions | undefined, entries: AsyncIterable<T>): AsyncGenerator<T> {
    const takenMs = await rate.take(options)
    try {
      yield* entries
      ended(takenMs)
    } catch (error) {
      ended(takenMs, error)
      throw error
    }
  }

  const slowingVersions = (versioned: VersionedStore): VersionedStore => ({
    features: options => paced(options, () => versioned.features(options)),
    versions: (prefix, options) => listing(options, versioned.versions(prefix, options)),
    getVersion: (key, versionId, range, options) =>
      paced(options, () => versioned.getVersion(key, versionId, range, options)),
    deleteVersion: (key, versionId, options) => paced(options, () => versioned.deleteVersion(key, versionId, options)),
    lockOf: (key, versionId, options) => paced(options, () => versioned.lockOf(key, versionId, options)),
    retain: (key, versionId, mode, until, options) =>
      paced(options, () => versioned.retain(key, versionId, mode, until, options)),
    legalHold: (key, versionId, on, options) => paced(options, () => versioned.legalHold(key, versionId, on, options)),
  })

  return {
    url: inner.url,
    ...(inner.versioned ? { versioned: slowingVersions(inner.versioned) } : {}),
    get: (key, range, options) => paced(options, () => inner.get(key, range, options)),
    head: (key, options) => paced(options, () => inner.head(key, options)),
    put: (key, body, options) => paced(options, () => inner.put(key, body, options)),
    list: (prefix, options) => listing(options, inner.list(prefix, options)),
    delete: (keys, options) => paced(options, () => inner.delete(keys, options)),
    now: options => paced(options, () => inner.now(options)),
    probe: options => paced(options, () => inner.probe(options)),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
}
