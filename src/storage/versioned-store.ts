/**
 * What a versioned bucket can do beyond an ObjectStore: asked for as `store.versioned`. Absent where a key has one version
 * by nature (a directory); a bucket always has it, and tells by `features` whether it keeps versions, because that is
 * asked of the bucket, once, when first needed. Without versioning every object has one version, named 'null'. Retention
 * and legal hold belong to one version each.
 */
import type { Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'

export interface ObjectVersion {
  readonly key: string
  readonly versionId: string
  /** Bytes; 0 for a delete marker. */
  readonly size: number
  readonly modifiedAt: Date
  readonly isLatest: boolean
  readonly isDeleteMarker: boolean
}

export type LockMode = 'governance' | 'compliance'

export interface ObjectLock {
  readonly mode?: LockMode
  /** Absent: no retention. One in the past protects nothing any more. */
  readonly retainUntil?: Date
  readonly legalHold: boolean
}

export interface VersionFeatures {
  /** Keys keep their old versions. */
  readonly versioning: boolean
  readonly objectLock: boolean
}

export interface VersionedStore {
  /** What the store says of itself. A store that does not say has not got it. */
  features(options?: AbortOptions): Promise<VersionFeatures>
  /** Versions and delete markers of all keys that start with `prefix` and come after `startAfter`: keys ascending, newest first within a key. */
  versions(prefix: string, options?: { startAfter?: string } & AbortOptions): AsyncIterable<ObjectVersion>
  /** Like ObjectStore.get, of one version. A delete marker is 'store-not-found'. */
  getVersion(key: string, versionId: string, range?: Range, options?: AbortOptions): Promise<Uint8Array>
  /** Removes one version or delete marker for good. Throws 'store-locked' where a lock or hold forbids it; an absent one is no error. */
  deleteVersion(key: string, versionId: string, options?: AbortOptions): Promise<void>
  /** Of one version, by default the newest. Throws 'store-not-found'. Without Object Lock: no retention, no hold. */
  lockOf(key: string, versionId?: string, options?: AbortOptions): Promise<ObjectLock>
  /** Sets or extends; a date before the present one is refused by the store ('store-locked'), and so is another mode on Ceph. */
  retain(key: string, versionId: string | undefined, mode: LockMode, until: Date, options?: AbortOptions): Promise<void>
  legalHold(key: string, versionId: string | undefined, on: boolean, options?: AbortOptions): Promise<void>
}
