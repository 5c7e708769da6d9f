/** The bound on memory that clients can cause: bytes of payloads and replies from admission until the kernel has taken them. */
import { limits } from '../core/limits.ts'

export interface FlightLimits {
  readonly perConnection: number
  readonly total: number
  readonly share: number
}

export const defaultFlightLimits: FlightLimits = {
  perConnection: limits.nbdBytesInFlightPerConnection,
  total: limits.nbdBytesInFlight,
  share: limits.nbdBytesShare,
}

/** All connections of one server. */
export class BytesInFlight {
  readonly limits: FlightLimits
  used = 0
  /** One request larger than a connection's bound may be under way in the whole process; then others live on their share. */
  oversized = false
  readonly #waiting = new Set<() => void>()

  constructor(flightLimits: FlightLimits = defaultFlightLimits) {
    this.limits = flightLimits
  }

  get wanted(): boolean {
    return this.#waiting.size > 0
  }

  /** Calls `wake` once when bytes have been given back. */
  wait(wake: () => void): void {
    this.#waiting.add(wake)
  }

  forget(wake: () => void): void {
    this.#waiting.delete(wake)
  }

  wakeAll(): void {
    if (this.#waiting.size === 0) return
    const woken = [...this.#waiting]
    this.#waiting.clear()
    for (const wake of woken) wake()
  }
}

/** One connection's part. */
export class ConnectionBytes {
  used = 0
  #oversized = false
  readonly #all: BytesInFlight

  constructor(all: BytesInFlight) {
    this.#all = all
  }

  fits(length: number): boolean {
    const { perConnection, total, share } = this.#all.limits
    if (length > perConnection) return this.used === 0 && !this.#all.oversized
    if (this.used === 0 && length <= share) return true
    return this.used + length <= perConnection && this.#all.used + length <= total
  }

  /** Counts without asking: for what was admitted before. */
  charge(length: number): void {
    if (length > this.#all.limits.perConnection) this.#oversized = this.#all.oversized = true
    this.used += length
    this.#all.used += length
  }

  tryAcquire(length: number): boolean {
    const fits = this.fits(length)
    if (fits) this.charge(length)
    return fits
  }

  release(length: number): void {
    this.used -= length
    this.#all.used -= length
    if (this.used === 0 && this.#oversized) this.#oversized = this.#all.oversized = false
    this.#all.wakeAll()
  }

  wait(wake: () => void): void {
    this.#all.wait(wake)
  }

  forget(wake: () => void): void {
    this.#all.forget(wake)
  }

  /** Resolves when `length` bytes are this connection's; the caller gives them back with `release`. */
  async acquire(length: number, signal: AbortSignal): Promise<void> {
    while (!this.tryAcquire(length)) {
      signal.throwIfAborted()
      await new Promise<void>(resolve => {
        const wake = () => {
          signal.removeEventListener('abort', onAbort)
          resolve()
        }
        const onAbort = () => {
          this.#all.forget(wake)
          resolve()
        }
        signal.addEventListener('abort', onAbort, { once: true })
        this.#all.wait(wake)
      })
    }
  }
}
