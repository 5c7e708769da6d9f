import type { Clock } from '../core/clock.ts'
import { locking } from '../storage/locking.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { isLockedKey, type LockPolicy } from './lock-policy.ts'

/** Everything that the policy promises is put with its lock, whoever puts it. */
export const lockedStore = (store: ObjectStore, policy: LockPolicy, clock: Clock): ObjectStore =>
  locking(store, {
    clock,
    lockForMs: policy.forMs + policy.renewEveryMs,
    mode: policy.mode,
    isLocked: isLockedKey,
  })
