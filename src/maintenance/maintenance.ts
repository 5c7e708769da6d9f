/**
 * Maintenance: what is done to a repository by people and timers, not by backups: retention, forget, holds, GC, compaction,
 * locks, keys, scrub.
 *
 * What it is: each a `plan…` that reads and gives a printable value, and an `apply…` of that value that writes.
 * What it guarantees: nothing that a committed and kept point needs is removed, by the rules of docs/concurrency.md, from
 * however many hosts it runs and wherever it is interrupted; every action leaves an audit object before it takes effect.
 * What it does not know: hypervisors, NBD, people's terminals.
 */
import type { Clock } from '../core/clock.ts'
import type { Random } from '../core/random.ts'
import type { ControlObjects } from '../repository/control-object.ts'
import type { Keyring } from '../repository/keyring.ts'
import type { RepositoryLock } from '../repository/lock-policy.ts'
import type { OpenedRepository } from '../repository/open.ts'
import type { RecordReader } from '../repository/record-reader.ts'
import type { ObjectStore } from '../storage/object-store.ts'

export interface MaintenanceContext {
  readonly store: ObjectStore
  readonly control: ControlObjects
  /** Need not give data keys: nothing but `verify` and key rotation asks for them. */
  readonly keyring: Keyring
  readonly records: RecordReader
  readonly clock: Clock
  readonly random: Random
  /** What is promised of the store's locks; undefined where nothing is. */
  readonly lock?: RepositoryLock
  /** Named in marks and the audit: 'user@host'. */
  readonly who: string
}

export const maintenanceContext = ({ reading }: Pick<OpenedRepository, 'reading'>, who: string): MaintenanceContext => {
  const { store, control, keyring, records, clock, random, lock } = reading
  return { store, control, keyring, records, clock, random, lock, who }
}
