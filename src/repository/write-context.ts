/** What every part of the write side works with. All of it comes in from outside, so that a test can repeat a whole backup. */
import type { Clock } from '../core/clock.ts'
import type { Random } from '../core/random.ts'
import type { DomainKeys, RepositoryKeys } from '../crypto/keys.ts'
import type { Pipeline } from '../native/pipeline.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import type { Keyring } from './keyring.ts'
import type { RepositoryLock } from './lock-policy.ts'
import type { RecordReader } from './record-reader.ts'

export interface WriteContext {
  readonly store: ObjectStore
  readonly pipeline: Pipeline
  readonly clock: Clock
  /** Drawn from in an order that no timing of the store changes. */
  readonly random: Random
  readonly keys: RepositoryKeys
  /** How bases are read. */
  readonly keyring: Keyring
  readonly records: RecordReader
  /** The epoch that is written. */
  readonly domain: DomainKeys
  readonly chunkSize: number
  /** Named in leases and manifests, for people. */
  readonly host: string
  /** What is promised of the store's locks; undefined where nothing is. */
  readonly lock?: RepositoryLock
  readonly leaseRefreshMs: number
  readonly leaseExpiryMs: number
}
