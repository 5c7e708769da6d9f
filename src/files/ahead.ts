/** Work over items whose results are wanted in the items' order, some under way ahead of who takes them. */
import type { AbortOptions } from '../core/scope.ts'

/** At most `width` under way or waiting to be taken. Ending the iteration early ends the work, and waits for it. */
export async function* ahead<T, R>(
  items: Iterable<T> | AsyncIterable<T>,
  width: number,
  work: (item: T, signal: AbortSignal) => Promise<R>,
  options: AbortOptions = {},
): AsyncGenerator<R> {
  const ended = new AbortController()
  const signal = options.signal ? AbortSignal.any([options.signal, ended.signal]) : ended.signal
  const started: Promise<R>[] = []
  const begin = (item: T) => {
    const result = work(item, signal)
    // Whoever takes it is told of its failure; one that nobody takes any more is not one of the process.
    result.catch(() => {})
    started.push(result)
  }
  try {
    for await (const item of items) {
      options.signal?.throwIfAborted()
      begin(item)
      if (started.length >= width) yield await started.shift()!
    }
    while (started.length > 0) yield await started.shift()!
  } finally {
    // An abort makes an error with a stack: where nothing is under way that would be all it does.
    if (started.length > 0) ended.abort()
    await Promise.allSettled(started)
  }
}
