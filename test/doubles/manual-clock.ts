/** A clock that stands still until it is told to go on. */
import type { Clock } from '../../src/core/clock.ts'

export interface ManualClock extends Clock {
  /** Lets time pass; whoever sleeps that long wakes up, and what they do at once is done when this resolves. */
  advance(ms: number): Promise<void>
  /** Milliseconds until the next of those who sleep wakes up; undefined where nobody sleeps. */
  nextMs(): number | undefined
}

export function manualClock(start = '2026-01-02T03:04:05.000Z'): ManualClock {
  let elapsedMs = 0
  const sleepers = new Set<{ until: number; wake: () => void }>()
  return {
    now: () => new Date(Date.parse(start) + elapsedMs),
    monotonicMs: () => elapsedMs,
    sleep: (ms, { signal } = {}) =>
      new Promise((resolve, reject) => {
        if (signal?.aborted) return reject(signal.reason)
        const onAbort = () => {
          sleepers.delete(sleeper)
          reject(signal?.reason)
        }
        const sleeper = {
          until: elapsedMs + ms,
          wake: () => {
            sleepers.delete(sleeper)
            signal?.removeEventListener('abort', onAbort)
            resolve()
          },
        }
        signal?.addEventListener('abort', onAbort, { once: true })
        sleepers.add(sleeper)
      }),
    nextMs() {
      let next: number | undefined
      for (const { until } of sleepers) if (next === undefined || until - elapsedMs < next) next = until - elapsedMs
      return next
    },
    async advance(ms) {
      elapsedMs += ms
      for (const sleeper of [...sleepers]) if (sleeper.until <= elapsedMs) sleeper.wake()
      for (let turn = 0; turn < 20; turn++) await new Promise(resolve => setImmediate(resolve))
    },
  }
}

/** Lets time pass in steps until `work` has settled, and gives what it gave. */
export async function passing<T>(clock: ManualClock, work: Promise<T>, stepMs = 60_000): Promise<T> {
  let settled = false
  const note = () => {
    settled = true
  }
  work.then(note, note)
  for (let step = 0; !settled; step++) {
    if (step > 100_000) throw new Error('it waits for ever')
    await clock.advance(stepMs)
  }
  return await work
}

/** The same from event to event: exact, and quick where time passes in leaps. Whoever does real work must be quick about it. */
export async function elapsing<T>(clock: ManualClock, work: Promise<T>): Promise<T> {
  let settled = false
  const note = () => {
    settled = true
  }
  work.then(note, note)
  for (let idle = 0; !settled; ) {
    const ms = clock.nextMs()
    if (ms === undefined && ++idle > 1_000) throw new Error('it waits for ever')
    await clock.advance(Math.max(0, ms ?? 0))
  }
  return await work
}
