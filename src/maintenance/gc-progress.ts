import type { AbortOptions } from '../core/scope.ts'

export interface GcOptions extends AbortOptions {
  /** How long after its announcement a collection waits for readers without a pin. */
  readonly graceMs?: number
  /** A person says that nobody else works on the repository: the only way on stores whose listings are late. */
  readonly exclusive?: boolean
  readonly progress?: (progress: GcProgress) => void
}

export type GcPhase = 'listing' | 'marking' | 'leases' | 'grace' | 'marking-again' | 'removing' | 'compacting'

export interface GcProgress {
  readonly phase: GcPhase
  /** Of `total`, in whatever the phase counts: objects, points, milliseconds, packs. */
  readonly done: number
  readonly total: number
  /** In words, what is waited for. */
  readonly waitsFor?: readonly string[]
  /** When that is over at the latest, where it can be told. */
  readonly remainingMs?: number
}

/** What is not removed although it could be, by reason. */
export class KeptCounts {
  readonly #counts = new Map<string, number>()

  add(reason: string, count = 1): void {
    if (count > 0) this.#counts.set(reason, (this.#counts.get(reason) ?? 0) + count)
  }

  all(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#counts)
  }
}
