/** Options that every asynchronous call takes. */
export interface AbortOptions {
  readonly signal?: AbortSignal
}

/**
 * Runs `work` over `items` with at most `width` under way. The first failure aborts the rest, waits until none of them
 * runs any longer, and is thrown: no sibling outlives the call.
 */
export async function forEachLimited<T>(
  items: Iterable<T> | AsyncIterable<T>,
  width: number,
  work: (item: T, signal: AbortSignal) => Promise<void>,
  options: AbortOptions = {},
): Promise<void> {
  const failed = new AbortController()
  const signal = options.signal ? AbortSignal.any([options.signal, failed.signal]) : failed.signal
  const running = new Set<Promise<void>>()
  let failure: { error: unknown } | undefined
  try {
    for await (const item of items) {
      if (failure || signal.aborted) break
      const task: Promise<void> = work(item, signal)
        .catch(error => {
          failure ??= { error }
          failed.abort(error)
        })
        .finally(() => running.delete(task))
      running.add(task)
      if (running.size >= width) await Promise.race(running)
    }
  } catch (error) {
    failure ??= { error }
    failed.abort(error)
  }
  await Promise.all(running)
  if (failure) throw failure.error
  options.signal?.throwIfAborted()
}
