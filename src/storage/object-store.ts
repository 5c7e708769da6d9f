/**
 * Storage: durable, immutable objects under string keys.
 *
 * What it is: a flat map from key to bytes in a directory, a bucket or memory, and decorators over one (`retrying`,
 * `throttled`, `metered`, `faulty`), each an ObjectStore itself.
 * What it guarantees: `put` is atomic (an object is there whole or not at all) and durable before it resolves; what was
 * put is seen by the next `get`, `head` and `list` of any process. Failures are LifeboatErrors: 'store-not-found' for an
 * absent key, with `retry` telling whether the same call may succeed later.
 * What it does not know: keys of cryptography, chunks, points. It never retries by itself; only `retrying` does.
 */
import type { Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { LockMode, VersionedStore } from './versioned-store.ts'

export interface ObjectInfo {
  readonly key: string
  readonly size: number
  readonly modifiedAt: Date
  /** A delete marker lies over it; told only where somebody looks beneath. */
  readonly isHidden?: boolean
}

export interface StoreReceipt {
  /** The store's own tag for what it stored, where it gives one. */
  readonly etag?: string
  readonly versionId?: string
}

export interface PutOptions extends AbortOptions {
  /** Ask the store to refuse an existing key ('store-conflict'). Some ignore it: never relied upon for safety. */
  readonly ifAbsent?: boolean
  /** Object Lock: nobody can remove this version before. */
  readonly retainUntil?: Date
  /** Of `retainUntil`; without it governance. */
  readonly lockMode?: LockMode
}

/** What a store says of itself. */
export interface StoreRules {
  readonly objectLock: boolean
  readonly versioning: boolean
  /** Rules of the bucket itself that would break a repository; `init` refuses them. Absent: none that the store tells. */
  readonly concerns?: readonly StoreConcern[]
}

/** What a store was seen to honour, found out by `init` (`probeStore`) and recorded in `config`. */
export interface StoreCapabilities extends StoreRules {
  readonly conditionalPut: boolean
}

/** In words for people: what the rule is, and what to do about it. */
export interface StoreConcern {
  readonly what: 'default-retention' | 'lifecycle-expiry' | 'lifecycle-archive'
  readonly message: string
  readonly hint: string
}

export interface ObjectStore extends AsyncDisposable {
  /** How people name this store, without credentials: 'file:///backup', 's3://bucket/prefix'. */
  readonly url: string
  /**
   * The object's bytes, or `range` of them. A range that ends past the object gives what there is; one that starts past
   * it gives empty bytes. An absent key is 'store-not-found' whatever the range. The result is the caller's own memory.
   */
  get(key: string, range?: Range, options?: AbortOptions): Promise<Uint8Array>
  /** Undefined where the key is absent; an error where that could not be found out. */
  head(key: string, options?: AbortOptions): Promise<ObjectInfo | undefined>
  /**
   * Stores the concatenation of `body`; the arrays belong to the store until the promise settles. Overwrites unless
   * `ifAbsent`. After an error, also an abort, the object may be there all the same, whole.
   */
  put(key: string, body: readonly Uint8Array[], options?: PutOptions): Promise<StoreReceipt>
  /**
   * Keys that start with `prefix` (which need not end at a '/'), in ascending order of their UTF-8 bytes, after
   * `startAfter`. A failed page throws; it never ends the listing early. Objects of others are listed too, whatever
   * their names. Keys put or deleted while it runs may or may not be seen.
   */
  list(prefix: string, options?: { startAfter?: string } & AbortOptions): AsyncIterable<ObjectInfo>
  /**
   * Removes keys with all their versions, in no order; an absent one is no error. After an error some may be gone; its
   * `details.left`, where a store gives it, are those that may not be. What Object Lock protects is 'store-locked', after
   * all others were removed, with its keys in `details.keys`.
   */
  delete(keys: readonly string[], options?: AbortOptions): Promise<void>
  /** The store's clock, for progress and display only. */
  now(options?: AbortOptions): Promise<Date>
  /** Asks and writes nothing. What was answered once is not asked again. */
  probe(options?: AbortOptions): Promise<StoreRules>
  /** Present where keys may have versions; `features` tells. Decorators pass it on, decorated alike. */
  readonly versioned?: VersionedStore
}

/**
 * A key is 1 to 1,024 bytes of [A-Za-z0-9._~%/=-]; parts are not empty, '.' or '..' and do not begin with '.tmp-', which
 * names the unfinished files of a directory store. Anything else is refused before it reaches a store.
 */
export const isSafeKey = (key: string): boolean =>
  key.length > 0 &&
  key.length <= 1024 &&
  /^[A-Za-z0-9._~%=-]+(\/[A-Za-z0-9._~%=-]+)*$/.test(key) &&
  !/(^|\/)(\.\.?(\/|$)|\.tmp-)/.test(key)
