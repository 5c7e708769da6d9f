import type { Clock } from '../core/clock.ts'

/** The moment of the first read after the guest was let run, and what it has read since. */
export class FirstRead {
  readonly seen: Promise<number>
  readonly #clock: Clock
  readonly #found: (at: number) => void
  #armed = false
  #bytes = 0

  constructor(clock: Clock) {
    const { promise, resolve } = Promise.withResolvers<number>()
    this.seen = promise
    this.#found = resolve
    this.#clock = clock
  }

  get bytes(): number {
    return this.#bytes
  }

  arm(): void {
    this.#armed = true
    this.#bytes = 0
  }

  note(bytes: number): void {
    this.#bytes += bytes
    if (!this.#armed) return
    this.#armed = false
    this.#found(this.#clock.monotonicMs())
  }
}
