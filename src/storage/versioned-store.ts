/**
 * What a versioned bucket can do beyond an ObjectStore: asked for as `store.versioned`, absent where the store keeps one
 * version of a key. Retention and legal hold belong to one version each.
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
  /** Absent: no retention. */
  readonly retainUntil?: Date
  readonly legalHold: boolean
}

export interface VersionedStore {
  /** Versions and delete markers of all keys that start with `prefix`, keys ascending, newest first within a key. */
  versions(prefix: string, options?: AbortOptions): AsyncIterable<ObjectVersion>
  /** Like ObjectStore.get, of one version. */
  getVersion(key: string, versionId: string, range?: Range, options?: AbortOptions): Promise<Uint8Array>
  /** Removes one version or delete marker for good. Throws 'store-locked' where a lock or hold forbids it; an absent one is no error. */
  deleteVersion(key: string, versionId: string, options?: AbortOptions): Promise<void>
  /** Of one version, by default the newest. Throws 'store-not-found'. Without Object Lock: no retention, no hold. */
  lockOf(key: string, versionId?: string, options?: AbortOptions): Promise<ObjectLock>
  /** Extends; a date before the present one is refused by the store ('store-locked'). */
  retain(key: string, versionId: string | undefined, mode: LockMode, until: Date, options?: AbortOptions): Promise<void>
  legalHold(key: string, versionId: string | undefined, on: boolean, options?: AbortOptions): Promise<void>
}
