/**
 * What a repository with Object Lock promises (docs/decisions/0013-object-lock.md): all that a kept point reaches is locked for
 * at least `forMs - renewEveryMs` from now, at any time, as long as renewals run every `renewEveryMs` or sooner.
 */
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { LockMode } from '../storage/versioned-store.ts'
import { holdsPrefix } from './object-keys.ts'

export interface LockPolicy {
  readonly mode: LockMode
  readonly forMs: number
  readonly renewEveryMs: number
}

/** The policy of a repository that has one. */
export interface RepositoryLock extends LockPolicy {
  /** When the repository was made: everything in it was put later. */
  readonly since: Date
}

/** Throws 'usage' with the arithmetic. */
export function checkLockPolicy({ forMs, renewEveryMs }: LockPolicy): void {
  if (renewEveryMs <= 0 || forMs < 2 * renewEveryMs)
    throw new LifeboatError(
      'usage',
      `--lock-for ${days(forMs)} is less than twice --renew-every ${days(renewEveryMs)} (2 x ${days(renewEveryMs)} = ${days(2 * renewEveryMs)})`,
      {
        hint: `Between two renewals a lock loses ${days(renewEveryMs)}, and one renewal may be missed. Lock for at least ${days(2 * renewEveryMs)}, or renew every ${days(forMs / 4)}.`,
      },
    )
  if (forMs + renewEveryMs > limits.lockForMaxMs)
    throw new LifeboatError('usage', `--lock-for ${days(forMs)} is more than ${days(limits.lockForMaxMs)}`, {
      hint: 'Nobody could remove what was stored by mistake. Locks are renewed as long as a point is kept: 30d is enough for points that are kept for years.',
    })
}

/** 2592000000 -> '30d', 4800000 -> '80m': the largest unit that needs at most two decimals. */
export function days(ms: number): string {
  for (const [unit, unitMs] of UNITS) {
    const count = Math.round((ms / unitMs) * 100) / 100
    if (count >= 1 && count * unitMs === ms) return `${count}${unit}`
  }
  return `${ms / 1000}s`
}

const HOUR_MS = 3_600_000
const UNITS = [
  ['d', 24 * HOUR_MS],
  ['h', HOUR_MS],
  ['m', 60_000],
] as const

/** With which lock an object is put, and to which one a renewal extends it. */
export const lockUntil = ({ forMs, renewEveryMs }: LockPolicy, now: Date): Date =>
  new Date(now.getTime() + forMs + renewEveryMs)

/**
 * What ends before this is extended, by a renewal or by a writer that wants to reuse it: it would fall below the promise
 * before the next renewal, or before one that is late by a quarter of its interval.
 */
export const extendBefore = ({ forMs, renewEveryMs }: LockPolicy, now: Date): Date =>
  new Date(now.getTime() + forMs + renewEveryMs / 4)

/** The promise: nothing that a kept point reaches may be unlocked before this. */
export const promisedUntil = ({ forMs, renewEveryMs }: LockPolicy, now: Date): Date =>
  new Date(now.getTime() + forMs - renewEveryMs)

/** What points are restored from. Renewed as long as a kept point reaches it. */
const RENEWED = /^(config$|(keys|points|packs|meta)\/)/
/** What people are held to. Locked once; a hold is kept by the store's legal hold instead, which can be lifted. */
const EVIDENCE = /^(audit|policies)\//

/**
 * Coordination objects are never locked: leases, pins and records of collectors must be removable by their owners, index
 * objects and traces can be made again.
 */
export const isLockedKey = (key: string): boolean => RENEWED.test(key) || EVIDENCE.test(key)

/** What readers look for under delete markers: whatever is locked, and holds. */
export const isKeptKey = (key: string): boolean => isLockedKey(key) || key.startsWith(holdsPrefix)

/** Whether keys below this prefix of a listing are such. */
export const hasKeptKeys = (prefix: string): boolean => prefix === '' || isKeptKey(`${prefix}x`)

export const OVERDUE_RENEWAL =
  'the renewal of locks is overdue: run `lifeboat lock renew`, best from a timer. Until then backups read disks whole'
