/** Requests that wait for a tree. Each is answered once: by its work, or as interrupted; what comes after that is undone. */
import type { Clock } from '../core/clock.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { E } from './errno.ts'

/** What work has brought: told to the kernel, or given back where nobody waits any more. */
export interface Answer {
  /** Replies; false where nobody has got it. */
  tell(): boolean
  undo?(): void
}

/** What waits. Its signal is made when somebody asks for it: most lookups are answered at once, and making one costs as much as they do. */
class Pending {
  /** By the monotonic clock. */
  readonly beganMs: number
  interrupted = false
  #controller: AbortController | undefined
  #aborted: DOMException | undefined

  constructor(beganMs: number) {
    this.beganMs = beganMs
  }

  /** Its getter is a property of its own, so that it is also there for whoever copies the options. */
  options(): AbortOptions {
    const signal = () => this.#signal()
    return {
      get signal() {
        return signal()
      },
    }
  }

  #signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#aborted !== undefined) this.#controller.abort(this.#aborted)
    }
    return this.#controller.signal
  }

  abort(why: string): void {
    this.#aborted = new DOMException(why, 'AbortError')
    this.#controller?.abort(this.#aborted)
  }
}

export class RequestsInFlight {
  readonly #pending = new Map<number, Pending>()
  readonly #stopped = new AbortController()
  readonly #clock: Clock
  readonly #refuse: (unique: number, errno: number) => void
  #watches = false

  constructor(clock: Clock, refuse: (unique: number, errno: number) => void) {
    this.#clock = clock
    this.#refuse = refuse
  }

  /** Runs what waits. Its owner is this object, whose stop ends it; its failure goes to `failed`, which replies. */
  launch(unique: number, work: (options: AbortOptions) => Promise<Answer>, failed: (error: unknown) => void): void {
    const pending = new Pending(this.#clock.monotonicMs())
    this.#pending.set(unique, pending)
    if (!this.#watches) void this.#watch()
    void this.#settle(unique, pending.options(), work, failed)
  }

  async #settle(
    unique: number,
    options: AbortOptions,
    work: (options: AbortOptions) => Promise<Answer>,
    failed: (error: unknown) => void,
  ): Promise<void> {
    let answer: Answer | undefined
    try {
      answer = await work(options)
      // The number of a request is used once, so that it is this one or none.
      if (this.#pending.has(unique) && answer.tell()) answer = undefined
    } catch (error) {
      if (this.#pending.has(unique)) failed(error)
    }
    this.#pending.delete(unique)
    answer?.undo?.()
  }

  /**
   * Somebody who waits has got a signal, perhaps a deadly one: the kernel does not say, and lets nobody go before it has an answer.
   * Many programs take signals all the time and would never get anywhere, so that the work has a moment to end by itself.
   */
  interrupt(unique: number): void {
    const pending = this.#pending.get(unique)
    if (pending === undefined || pending.interrupted) return
    pending.interrupted = true
    void this.#endInterrupted(unique, pending)
  }

  async #endInterrupted(unique: number, pending: Pending): Promise<void> {
    const { signal } = this.#stopped
    await this.#clock.sleep(limits.fuseInterruptMs, { signal }).catch(() => {})
    this.#giveUp(unique, pending, E.EINTR, 'interrupted by its caller')
  }

  #giveUp(unique: number, pending: Pending, errno: number, why: string): void {
    if (!this.#pending.delete(unique)) return
    this.#refuse(unique, errno)
    pending.abort(why)
  }

  /** A reader past the page cache cannot even be killed before it has an answer. So everybody gets one, whatever a tree does. */
  async #watch(): Promise<void> {
    this.#watches = true
    const { signal } = this.#stopped
    while (this.#pending.size > 0 && !signal.aborted) {
      await this.#clock.sleep(limits.fuseAnswerMs / 10, { signal }).catch(() => {})
      const oldest = this.#clock.monotonicMs() - limits.fuseAnswerMs
      for (const [unique, waits] of this.#pending)
        if (waits.beganMs <= oldest) this.#giveUp(unique, waits, E.EIO, 'nobody waits so long')
    }
    this.#watches = false
  }

  /** Nothing is answered any more. */
  stop(): void {
    this.#stopped.abort()
    const pending = [...this.#pending.values()]
    this.#pending.clear()
    for (const waits of pending) waits.abort('the mount has ended')
  }
}
