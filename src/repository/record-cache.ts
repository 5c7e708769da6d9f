/**
 * Sealed records kept beside the store. They are opened like those that come from it, so a cache that lies costs time and
 * never a wrong byte; it holds nothing that the store does not show as well.
 */
import type { PackId, RepositoryId } from '../core/ids.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { PackKind } from './pack-codec.ts'

/** What a record was sealed for, which is its name for ever: a (pack, slot) is sealed once. */
export interface RecordName {
  readonly repository: RepositoryId
  readonly kind: PackKind
  readonly pack: PackId
  readonly slot: number
}

export interface RecordCache {
  /** Told at once and without I/O, so that what is not kept is asked of the store without a detour. */
  has(name: RecordName): boolean
  /** The sealed bytes of each, undefined where they are not there (any more) or damaged. Rejects with the signal's reason only. */
  read(names: readonly RecordName[], options?: AbortOptions): Promise<readonly (Uint8Array | undefined)[]>
  /** Offers bytes that have authenticated. Neither waits nor fails; they must not change afterwards. */
  keep(name: RecordName, stored: Uint8Array): void
  /** What `read` gave did not open. */
  refuse(name: RecordName): void
}
