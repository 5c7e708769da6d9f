import type { AbortOptions } from './scope.ts'

/** Waits for work that has another owner, who goes on with it: only the waiting ends with the signal. */
export async function abortable<T>(work: Promise<T>, { signal }: AbortOptions): Promise<T> {
  if (!signal) return await work
  // Whoever stops waiting does not look at the outcome any more.
  work.catch(() => {})
  signal.throwIfAborted()
  const { promise, reject } = Promise.withResolvers<never>()
  const onAbort = () => reject(signal.reason)
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    return await Promise.race([work, promise])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}
