/**
 * A rate that finds out what a store bears: unlimited until the store refuses a good part of what it is asked, then half of
 * what was just tried, and from there up again until the next refusals, or until nobody refuses any more. A refusal here
 * and there has other causes than us: less would be asked for nothing, and `retrying` deals with it.
 */
import type { Clock } from '../core/clock.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'

export interface AdaptiveRate {
  /** Resolves when another request may go, with the moment that is handed to `ended`. */
  take(options?: AbortOptions): Promise<number>
  /** What went at `takenMs` was refused or not. What went before the last cut says nothing new. */
  ended(takenMs: number, outcome: 'accepted' | 'refused'): void
  /** Undefined: as fast as anybody likes. */
  perSecond(): number | undefined
}

/** Over how long the present rate is measured, and how much may be saved up while nobody asks. */
const WINDOW_MS = 1_000
const BURST_MS = 100
/** The outcomes that are looked at, and the part of them that has to be refusals. */
const OUTCOMES_MIN = 20
const OUTCOMES_MAX = 40
const REFUSED_SHARE = 0.25
/** From half to all of what was refused. Growing by factors, because a store may have been nearly dead for a while. */
const DOUBLING_MS = 5_000
/** At so many times the refused rate it is over: whatever was wrong with the store has passed. */
const FORGOTTEN_AT = 4

export function adaptiveRate(clock: Clock): AdaptiveRate {
  const starts: number[] = []
  let refusals: boolean[] = []
  let cut: { readonly atMs: number; readonly refusedRate: number } | undefined
  let freeMs = Number.NEGATIVE_INFINITY

  function perSecond(): number | undefined {
    if (!cut) return undefined
    const rate = (cut.refusedRate / 2) * 2 ** ((clock.monotonicMs() - cut.atMs) / DOUBLING_MS)
    if (rate < cut.refusedRate * FORGOTTEN_AT) return Math.max(limits.storeRequestsPerSecondMin, rate)
    cut = undefined
    return undefined
  }

  /** The requests of the last second, which is also the rate where there is no limit. */
  function measured(nowMs: number): number {
    while (starts.length > 0 && starts[0]! <= nowMs - WINDOW_MS) starts.shift()
    return starts.length
  }

  const isTooMuch = (): boolean =>
    refusals.length >= OUTCOMES_MIN && refusals.filter(Boolean).length >= refusals.length * REFUSED_SHARE

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
      starts.push(takenMs)
      return takenMs
    },
    ended(takenMs, outcome) {
      if (cut && takenMs <= cut.atMs) return
      refusals.push(outcome === 'refused')
      if (refusals.length > OUTCOMES_MAX) refusals.shift()
      if (!isTooMuch()) return
      const atMs = clock.monotonicMs()
      const refusedRate = Math.min(perSecond() ?? Number.POSITIVE_INFINITY, measured(atMs))
      cut = { atMs, refusedRate: Math.max(refusedRate, limits.storeRequestsPerSecondMin) }
      refusals = []
    },
  }
}
