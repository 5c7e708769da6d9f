/** A bound in time for one call, by the injected clock. */
import type { Clock } from '../../core/clock.ts'
import type { AbortOptions } from '../../core/scope.ts'

/** Runs `work` with a signal that also falls after `ms`, with `late()` as its reason. `work` must honour the signal. */
export async function withDeadline<T>(
  clock: Clock,
  ms: number,
  late: () => Error,
  work: (signal: AbortSignal) => Promise<T>,
  options: AbortOptions = {},
): Promise<T> {
  const done = new AbortController()
  const expired = new AbortController()
  const signal = options.signal ? AbortSignal.any([options.signal, expired.signal]) : expired.signal
  const timer = clock.sleep(ms, { signal: done.signal }).then(
    () => expired.abort(late()),
    () => undefined,
  )
  try {
    return await work(signal)
  } finally {
    done.abort()
    await timer
  }
}
