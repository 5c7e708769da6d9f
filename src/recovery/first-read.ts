import type { Clock } from '../core/clock.ts'

/** The moment of the first read after the guest was let run. */
export class FirstRead {
  readonly seen: Promise<number>
  readonly #clock: Clock
  readonly #found: (at: number) => void
  #armed = false

  constructor(clock: Clock) {
    const { promise, resolve } = Promise.withResolvers<number>()
    this.seen = promise
    this.#found = resolve
    this.#clock = clock
  }

  arm(): void {
    this.#armed = true
  }

  note(): void {
    if (!this.#armed) return
    this.#armed = false
    this.#found(this.#clock.monotonicMs())
  }
}
