/**
 * A store as far away as an object store is: each request waits for the latency, and the bytes that are read share one link.
 * Writes, lists and the rest wait for the latency alone.
 */
import { systemClock } from '../src/core/clock.ts'
import type { AbortOptions } from '../src/core/scope.ts'
import type { ObjectStore } from '../src/storage/object-store.ts'

export interface Distance {
  readonly latencyMs: number
  readonly bytesPerSecond: number
}

export function distant(inner: ObjectStore, { latencyMs, bytesPerSecond }: Distance): ObjectStore {
  let linkFreeMs = 0
  const untilMs = async (due: number, { signal }: AbortOptions = {}) => {
    const waitMs = due - performance.now()
    if (waitMs > 0) await systemClock.sleep(waitMs, { signal })
  }
  const far = async <T>(work: () => Promise<T>, options?: AbortOptions): Promise<T> => {
    await untilMs(performance.now() + latencyMs, options)
    return work()
  }
  return {
    url: inner.url,
    async get(key, range, options) {
      const arrivesMs = performance.now() + latencyMs
      const bytes = await inner.get(key, range, options)
      linkFreeMs = Math.max(linkFreeMs, arrivesMs) + (bytes.length / bytesPerSecond) * 1000
      await untilMs(linkFreeMs, options)
      return bytes
    },
    head: (key, options) => far(() => inner.head(key, options), options),
    put: (key, body, options) => far(() => inner.put(key, body, options), options),
    async *list(prefix, options) {
      await untilMs(performance.now() + latencyMs, options)
      yield* inner.list(prefix, options)
    },
    delete: (keys, options) => far(() => inner.delete(keys, options), options),
    now: options => far(() => inner.now(options), options),
    probe: options => far(() => inner.probe(options), options),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
}
