/** A store whose GETs take time by a clock: the time to the first byte and the speed of the body are asked for each one. */
import type { Clock } from '../../src/core/clock.ts'
import { LifeboatError } from '../../src/core/errors.ts'
import type { AbortOptions } from '../../src/core/scope.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'

export interface GetTiming {
  readonly firstByteMs: number
  readonly bytesPerSecond: number
}

export interface TimedStoreOptions {
  readonly clock: Clock
  readonly timing: (key: string) => GetTiming
  /** While it gives true every request is refused after 5 ms. */
  readonly isAway?: () => boolean
}

export function timedStore(
  inner: ObjectStore,
  { clock, timing, isAway = () => false }: TimedStoreOptions,
): ObjectStore {
  return {
    ...inner,
    async get(key, range, { signal }: AbortOptions = {}) {
      if (isAway()) {
        await clock.sleep(5, { signal })
        throw new LifeboatError('store-unreachable', 'connection refused', { retry: 'transient' })
      }
      const { firstByteMs, bytesPerSecond } = timing(key)
      await clock.sleep(firstByteMs, { signal })
      const bytes = await inner.get(key, range)
      await clock.sleep((bytes.length / bytesPerSecond) * 1000, { signal })
      return bytes
    },
  }
}
