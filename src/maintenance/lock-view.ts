/** Which objects the store would refuse to delete now, asked of the store itself. */
import { isLifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import { firstVersions } from '../repository/unhidden.ts'
import type { ObjectStore } from '../storage/object-store.ts'

export interface LockView {
  /** 'held': a legal hold, without an end. Undefined: not locked, or not there. */
  lockedUntil(key: string, options?: AbortOptions): Promise<Date | 'held' | undefined>
}

/** Undefined where the store locks nothing. The store's word counts, not this host's clock: retention in the past is none. */
export function lockView({ versioned, now }: Pick<ObjectStore, 'versioned' | 'now'>): LockView | undefined {
  if (!versioned) return undefined
  let started: Promise<Date> | undefined
  return {
    async lockedUntil(key, options) {
      if (!(await versioned.features(options)).objectLock) return undefined
      started ??= now(options)
      const storeNow = await started
      const lockOf = async (versionId?: string) => {
        const { retainUntil, legalHold } = await versioned.lockOf(key, versionId, options)
        if (legalHold) return 'held'
        return retainUntil && retainUntil > storeNow ? retainUntil : undefined
      }
      try {
        return await lockOf()
      } catch (error) {
        if (!isLifeboatError(error, 'store-not-found')) throw error
        // Gone, or hidden by a delete marker, under which the lock still stands.
        const [first] = await firstVersions(versioned, key, options)
        return first && (await lockOf(first.versionId))
      }
    },
  }
}
