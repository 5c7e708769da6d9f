/** Extends the lock of one object where it would fall below the promise. A lock only grows. */
import { isLifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import { extendBefore, lockUntil, type RepositoryLock } from '../repository/lock-policy.ts'
import type { VersionedStore } from '../storage/versioned-store.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { KeptObject } from './reached-objects.ts'

export interface LockExtension extends AbortOptions, Pick<MaintenanceContext, 'clock'> {
  readonly lock: RepositoryLock
  /** Only asks. */
  readonly dryRun?: boolean
}

/** All its versions: which of them is ours need not be found out now. */
export async function extendLock(
  versioned: VersionedStore,
  { key, versions }: KeptObject,
  { lock, clock, dryRun = false, signal }: LockExtension,
): Promise<{ readonly isExtended: boolean; readonly requests: number }> {
  let isExtended = false
  let requests = 0
  for (const { versionId } of versions)
    try {
      requests++
      const { retainUntil, mode = lock.mode } = await versioned.lockOf(key, versionId, { signal })
      const now = clock.now()
      if (retainUntil && retainUntil >= extendBefore(lock, now)) continue
      requests++
      isExtended = true
      // What was once in compliance mode stays in it.
      if (!dryRun) await versioned.retain(key, versionId, mode, lockUntil(lock, now), { signal })
    } catch (error) {
      // Rewritten by a collection since it was listed; the copy was put with its lock.
      if (!isLifeboatError(error, 'store-not-found')) throw error
    }
  return { isExtended, requests }
}
