/** Time comes in through a parameter. Wall time is for display and names; every safety argument uses `monotonicMs`. */
export interface Clock {
  now(): Date
  /** Milliseconds since some start, never backwards. */
  monotonicMs(): number
  /** Resolves after `ms`, rejects with the signal's reason. */
  sleep(ms: number, options?: { signal?: AbortSignal }): Promise<void>
}

/** `process.hrtime` is CLOCK_MONOTONIC; /proc/uptime (CLOCK_BOOTTIME) also counts time spent suspended, see docs/concurrency.md. */
export const systemClock: Clock = {
  now: () => new Date(),
  monotonicMs: () => Number(process.hrtime.bigint() / 1_000_000n),
  sleep: (ms, { signal } = {}) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason)
      const onAbort = () => {
        clearTimeout(timer)
        reject(signal?.reason)
      }
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', onAbort)
        resolve()
      }, ms)
      signal?.addEventListener('abort', onAbort, { once: true })
    }),
}
