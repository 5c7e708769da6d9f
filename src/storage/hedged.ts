/**
 * Asks again, once, for what is slow in coming: the first answer wins and the other request is aborted. Slow is half as long again as
 * 95 of 100 of the last GETs of like size took; more than a few percent of requests are never added, and none to a store that
 * has said that it is asked too much. For reads that somebody waits for, of stores whose answers come from many machines.
 */
import { type Clock, systemClock } from '../core/clock.ts'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { KiB, limits } from '../core/limits.ts'
import type { Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ObjectStore } from './object-store.ts'

export interface HedgeFigures {
  readonly gets: number
  /** GETs that were asked for twice; a share of `gets` that never passes `limits.hedgeShare`, but for the first few. */
  readonly hedged: number
  /** Of these, where the second answer came first. */
  readonly won: number
  /** Slow ones that were left alone, because too many had been asked for twice. */
  readonly withheld: number
}

export interface HedgedStore extends ObjectStore {
  hedges(): HedgeFigures
}

export function hedged(inner: ObjectStore, { clock = systemClock }: { readonly clock?: Clock } = {}): HedgedStore {
  const figures = { gets: 0, hedged: 0, won: 0, withheld: 0 }
  const usual = new Map<string, UsualTime>()
  let allowance: number = limits.hedgesAtOnce
  let refusedMs = Number.NEGATIVE_INFINITY

  const usualOf = (range: Range | undefined): UsualTime => {
    const kind = sizeKind(range)
    const known = usual.get(kind) ?? new UsualTime()
    usual.set(kind, known)
    return known
  }

  function mayHedge(): boolean {
    const isRefused = clock.monotonicMs() - refusedMs < limits.hedgeRestMs
    if (isRefused || allowance < 1) figures.withheld++
    return !isRefused && allowance >= 1
  }

  async function get(
    range: Range | undefined,
    { signal }: AbortOptions,
    ask: (options: AbortOptions) => Promise<Uint8Array>,
  ): Promise<Uint8Array> {
    figures.gets++
    allowance = Math.min(limits.hedgesAtOnce, allowance + limits.hedgeShare)
    const time = usualOf(range)
    const startedMs = clock.monotonicMs()
    const ended = new AbortController()
    const within = signal ? AbortSignal.any([signal, ended.signal]) : ended.signal
    try {
      const first = ask({ signal: within })
      const bytes = await quickAnswer(first, time.slowMs, clock)
      if (bytes) return bytes
      if (!mayHedge()) return await first
      allowance--
      figures.hedged++
      const second = ask({ signal: within }).then(answer => {
        figures.won++
        return answer
      })
      return await firstAnswer(first, second)
    } catch (error) {
      if (isLifeboatError(error, 'store-throttled')) refusedMs = clock.monotonicMs()
      throw error
    } finally {
      time.add(clock.monotonicMs() - startedMs)
      ended.abort(NOT_NEEDED)
    }
  }

  const { versioned } = inner
  return {
    ...inner,
    hedges: () => ({ ...figures }),
    get: (key, range, options = {}) => get(range, options, within => inner.get(key, range, within)),
    ...(versioned && {
      versioned: {
        ...versioned,
        getVersion: (key, versionId, range, options = {}) =>
          get(range, options, within => versioned.getVersion(key, versionId, range, within)),
      },
    }),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
}

const NOT_NEEDED = new LifeboatError('interrupted', 'the same request was answered already')

/** Undefined when `slowMs` are over and nothing came. Rejects as `answer` does before that. */
async function quickAnswer<T>(answer: Promise<T>, slowMs: number, clock: Clock): Promise<T | undefined> {
  const waited = new AbortController()
  const isSlow = clock.sleep(slowMs, { signal: waited.signal }).then(
    () => undefined,
    () => undefined,
  )
  try {
    return await Promise.race([answer, isSlow])
  } finally {
    waited.abort()
  }
}

/** A failure of one waits for the other; of both, the first one's is told. */
async function firstAnswer<T>(first: Promise<T>, second: Promise<T>): Promise<T> {
  try {
    return await Promise.any([first, second])
  } catch {
    return await first
  }
}

/** What GETs of about one size take, from the last that were made. */
class UsualTime {
  readonly #taken: number[] = []
  #next = 0
  #slowMs: number = limits.hedgeUnmeasuredMs

  get slowMs(): number {
    return this.#slowMs
  }

  add(ms: number): void {
    this.#taken[this.#next % limits.hedgeSamples] = ms
    this.#next++
    if (this.#next % limits.hedgeSamplesFirst !== 0) return
    const sorted = this.#taken.toSorted((a, b) => a - b)
    const high = sorted[Math.floor(sorted.length * limits.hedgePercentile)] ?? limits.hedgeUnmeasuredMs
    this.#slowMs = Math.max(limits.hedgeSlowMinMs, high * limits.hedgeSlowFactor)
  }
}

/** Whole objects are small; ranges are told apart by powers of eight, since a large one takes longer. */
const sizeKind = (range: Range | undefined): string =>
  range === undefined ? 'whole' : `${Math.ceil(Math.log2(Math.max(1, range.length / (64 * KiB))) / 3)}`
