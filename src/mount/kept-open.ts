/**
 * What is dear to open and used again soon: opened by the first who needs it, for all; closed when nobody has used it for a
 * while, or when another needs its place.
 */
import { abortable } from '../core/abortable.ts'
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'

export interface KeptOpenOptions<K, T> {
  /** In messages: 'points'. */
  readonly noun: string
  readonly clock: Clock
  /** Open at once, used or not. */
  readonly max: number
  readonly idleMs: number
  readonly open: (key: K, options: AbortOptions) => Promise<T>
  readonly onTrouble: (message: string, error: unknown) => void
}

/** Dispose says that this use has ended; once is enough, more do no harm. */
export interface Use<T> extends Disposable {
  readonly value: T
  /** What was opened is broken: whoever comes next opens it anew, and it is closed when nobody uses it any more. */
  giveUp(): void
}

interface Kept<K, T> {
  readonly key: K
  readonly opening: Promise<T>
  users: number
  idleSinceMs: number
  isGivenUp: boolean
}

/** Keys are the same where they are one object. */
export class KeptOpen<K extends object, T extends AsyncDisposable> implements AsyncDisposable {
  readonly #options: KeptOpenOptions<K, T>
  /** In the order in which they were used last. */
  readonly #kept = new Map<K, Kept<K, T>>()
  readonly #closing = new Set<Promise<void>>()
  readonly #ended = new AbortController()
  #attending: Promise<void> | undefined

  constructor(options: KeptOpenOptions<K, T>) {
    this.#options = options
  }

  /** How many are open. */
  get size(): number {
    return this.#kept.size
  }

  async use(key: K, options: AbortOptions = {}): Promise<Use<T>> {
    options.signal?.throwIfAborted()
    this.#ended.signal.throwIfAborted()
    const kept = this.#kept.get(key) ?? this.#begin(key)
    this.#kept.delete(key)
    this.#kept.set(key, kept)
    kept.users++
    let isLeft = false
    const leave = () => {
      if (isLeft) return
      isLeft = true
      this.#leave(kept)
    }
    try {
      // Whoever stops waiting does not keep it from the others.
      const value = await abortable(kept.opening, options)
      return { value, giveUp: () => this.#giveUp(kept), [Symbol.dispose]: leave }
    } catch (error) {
      leave()
      throw error
    }
  }

  #begin(key: K): Kept<K, T> {
    this.#makeRoom()
    const { open } = this.#options
    const opening = open(key, { signal: this.#ended.signal })
    const kept: Kept<K, T> = { key, opening, users: 0, idleSinceMs: 0, isGivenUp: false }
    // A failure is told to those who wait; the next one tries again.
    opening.catch(() => this.#giveUp(kept))
    return kept
  }

  #makeRoom(): void {
    const { max, noun } = this.#options
    if (this.#kept.size < max) return
    for (const kept of this.#kept.values())
      if (kept.users === 0) {
        this.#close(kept)
        return
      }
    throw new LifeboatError('too-many-open', `${max} ${noun} are in use at once`, {
      hint: 'Close files of the mount that are open, then try again.',
    })
  }

  #leave(kept: Kept<K, T>): void {
    kept.users--
    if (kept.users > 0) return
    kept.idleSinceMs = this.#options.clock.monotonicMs()
    if (kept.isGivenUp || this.#ended.signal.aborted) this.#close(kept)
    else this.#attending ??= this.#attend()
  }

  #giveUp(kept: Kept<K, T>): void {
    kept.isGivenUp = true
    if (this.#kept.get(kept.key) === kept) this.#kept.delete(kept.key)
  }

  #close(kept: Kept<K, T>): void {
    if (this.#kept.get(kept.key) === kept) this.#kept.delete(kept.key)
    const closing = this.#closed(kept).finally(() => this.#closing.delete(closing))
    this.#closing.add(closing)
  }

  async #closed({ opening }: Kept<K, T>): Promise<void> {
    const value = await opening.catch(() => undefined)
    try {
      await value?.[Symbol.asyncDispose]()
    } catch (error) {
      this.#options.onTrouble(`one of the ${this.#options.noun} was not closed as it should be`, error)
    }
  }

  /** Ends when nothing is open that nobody uses. */
  async #attend(): Promise<void> {
    const { clock, idleMs } = this.#options
    for (;;) {
      const idle = [...this.#kept.values()].filter(({ users }) => users === 0)
      const now = clock.monotonicMs()
      for (const kept of idle) if (now - kept.idleSinceMs >= idleMs) this.#close(kept)
      const oldest = Math.min(...idle.map(({ idleSinceMs }) => idleSinceMs).filter(since => now - since < idleMs))
      if (oldest === Number.POSITIVE_INFINITY) break
      const slept = await clock.sleep(oldest + idleMs - now, { signal: this.#ended.signal }).then(
        () => true,
        () => false,
      )
      if (!slept) break
    }
    this.#attending = undefined
  }

  /** Closes all, used or not: uses that have not ended fail from now on. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort(new LifeboatError('interrupted', 'the mount has ended'))
    await this.#attending
    for (const kept of [...this.#kept.values()]) this.#close(kept)
    await Promise.all(this.#closing)
  }
}
