/** A store whose requests a test sees before they are made: it may wait, throw, or count them. */
import type { AbortOptions } from '../../src/core/scope.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import type { VersionedStore } from '../../src/storage/versioned-store.ts'

export interface StoreRequest {
  /** As a meter counts them: 'lock' is about retention, legal holds and what the bucket can do. */
  readonly verb: 'get' | 'head' | 'put' | 'list' | 'delete' | 'lock'
  /** The key, the prefix of a list, or the first key of a delete. */
  readonly key: string
}

export interface Interceptor {
  before?(request: StoreRequest, options?: AbortOptions): Promise<void> | void
  after?(request: StoreRequest): Promise<void> | void
}

export function intercepted(store: ObjectStore, { before, after }: Interceptor): ObjectStore {
  const around = async <T>(request: StoreRequest, options: AbortOptions | undefined, work: () => Promise<T>) => {
    await before?.(request, options)
    const result = await work()
    await after?.(request)
    return result
  }
  async function* listing<T>(prefix: string, options: AbortOptions | undefined, entries: AsyncIterable<T>) {
    await before?.({ verb: 'list', key: prefix }, options)
    yield* entries
  }
  const interceptedVersions = (versioned: VersionedStore): VersionedStore => ({
    features: options => around({ verb: 'lock', key: '' }, options, () => versioned.features(options)),
    versions: (prefix, options) => listing(prefix, options, versioned.versions(prefix, options)),
    getVersion: (key, versionId, range, options) =>
      around({ verb: 'get', key }, options, () => versioned.getVersion(key, versionId, range, options)),
    deleteVersion: (key, versionId, options) =>
      around({ verb: 'delete', key }, options, () => versioned.deleteVersion(key, versionId, options)),
    lockOf: (key, versionId, options) =>
      around({ verb: 'lock', key }, options, () => versioned.lockOf(key, versionId, options)),
    retain: (key, versionId, mode, until, options) =>
      around({ verb: 'lock', key }, options, () => versioned.retain(key, versionId, mode, until, options)),
    legalHold: (key, versionId, on, options) =>
      around({ verb: 'lock', key }, options, () => versioned.legalHold(key, versionId, on, options)),
  })
  return {
    ...store,
    ...(store.versioned ? { versioned: interceptedVersions(store.versioned) } : {}),
    get: (key, range, options) => around({ verb: 'get', key }, options, () => store.get(key, range, options)),
    head: (key, options) => around({ verb: 'head', key }, options, () => store.head(key, options)),
    put: (key, body, options) => around({ verb: 'put', key }, options, () => store.put(key, body, options)),
    list: (prefix, options) => listing(prefix, options, store.list(prefix, options)),
    delete: (keys, options) =>
      around({ verb: 'delete', key: keys[0] ?? '' }, options, () => store.delete(keys, options)),
  }
}
