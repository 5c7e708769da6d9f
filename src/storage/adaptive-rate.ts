/**
 * A rate that finds out what a store bears: unlimited until the store refuses, then half of what was just tried, and from
 * there up again, a little every second, until the next refusal or until nobody refuses any more.
 */
import type { Clock } from '../core/clock.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'

export interface AdaptiveRate {
  /** Resolves when another request may go, with the moment that is handed to `refused`. */
  take(options?: AbortOptions): Promise<number>
  /** A request that went at `takenMs` was refused. Those that went before the last cut say nothing new. */
  refused(takenMs: number): void
  /** Undefined: as fast as anybody likes. */
  perSecond(): number | undefined
}

/** Over how long the present rate is measured, and how much may be saved up while nobody asks. */
const WINDOW_MS = 1_000
const BURST_MS = 100
/** From half to all of what was refused. */
const RECOVERY_MS = 10_000
/** At so many times the refused rate it is over: whatever was wrong with the store has passed. */
const FORGOTTEN_AT = 4

export function adaptiveRate(clock: Clock): AdaptiveRate {
  const recent: number[] = []
  let cut: { readonly atMs: number; readonly refusedRate: number } | undefined
  let freeMs = Number.NEGATIVE_INFINITY

  function perSecond(): number | undefined {
    if (!cut) return undefined
    const rate = (cut.refusedRate / 2) * (1 + (clock.monotonicMs() - cut.atMs) / RECOVERY_MS)
    if (rate < cut.refusedRate * FORGOTTEN_AT) return Math.max(limits.storeRequestsPerSecondMin, rate)
    cut = undefined
    return undefined
  }

  /** The requests of the last second, which is also the rate where there is no limit. */
  function measured(nowMs: number): number {
    while (recent.length > 0 && recent[0]! <= nowMs - WINDOW_MS) recent.shift()
    return recent.length
  }

  return {
    perSecond,
    async take({ signal } = {}) {
      signal?.throwIfAborted()
      const rate = perSecond()
      if (rate !== undefined) {
        const nowMs = clock.monotonicMs()
        const waitMs = freeMs - nowMs
        freeMs = Math.max(freeMs, nowMs - BURST_MS) + 1_000 / rate
        if (waitMs > 0) await clock.sleep(waitMs, { signal })
      }
      const takenMs = clock.monotonicMs()
      measured(takenMs)
      recent.push(takenMs)
      return takenMs
    },
    refused(takenMs) {
      if (cut && takenMs <= cut.atMs) return
      const atMs = clock.monotonicMs()
      const refusedRate = Math.min(perSecond() ?? Number.POSITIVE_INFINITY, measured(atMs))
      cut = { atMs, refusedRate: Math.max(refusedRate, limits.storeRequestsPerSecondMin) }
    },
  }
}
