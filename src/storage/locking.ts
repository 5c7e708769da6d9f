/** Puts what must not be removed before its time with an Object Lock retention, so that no writer can forget to. */
import type { Clock } from '../core/clock.ts'
import type { ObjectStore } from './object-store.ts'
import type { LockMode } from './versioned-store.ts'

export interface LockingOptions {
  readonly clock: Clock
  readonly lockForMs: number
  readonly mode: LockMode
  /** Whether an object of this key is locked; coordination objects never are. */
  readonly isLocked: (key: string) => boolean
}

export function locking(inner: ObjectStore, { clock, lockForMs, mode, isLocked }: LockingOptions): ObjectStore {
  return {
    ...inner,
    put: (key, body, options) =>
      inner.put(
        key,
        body,
        isLocked(key)
          ? { ...options, retainUntil: new Date(clock.now().getTime() + lockForMs), lockMode: mode }
          : options,
      ),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
}
