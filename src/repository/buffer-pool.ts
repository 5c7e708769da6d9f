import type { AbortOptions } from '../core/scope.ts'

/**
 * A fixed number of buffers of one size, made when first needed and used again. Waiting for one is the back-pressure of
 * a backup: whoever fills packs faster than the store takes them waits here.
 */
export class BufferPool {
  readonly #bytes: number
  readonly #count: number
  readonly #free: Uint8Array[] = []
  readonly #waiting: { take: (buffer: Uint8Array) => void; fail: (error: unknown) => void }[] = []
  #made = 0
  #broken: { error: unknown } | undefined

  constructor(count: number, bytes: number) {
    this.#count = count
    this.#bytes = bytes
  }

  get buffersMade(): number {
    return this.#made
  }

  async acquire({ signal }: AbortOptions = {}): Promise<Uint8Array> {
    signal?.throwIfAborted()
    if (this.#broken) throw this.#broken.error
    const free = this.#free.pop()
    if (free) return free
    if (this.#made < this.#count) {
      this.#made++
      return new Uint8Array(this.#bytes)
    }
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>()
    const waiter = { take: resolve, fail: reject }
    this.#waiting.push(waiter)
    const onAbort = () => {
      const at = this.#waiting.indexOf(waiter)
      if (at >= 0) this.#waiting.splice(at, 1)
      reject(signal?.reason)
    }
    signal?.addEventListener('abort', onAbort, { once: true })
    try {
      return await promise
    } finally {
      signal?.removeEventListener('abort', onAbort)
    }
  }

  release(buffer: Uint8Array): void {
    const waiter = this.#waiting.shift()
    if (waiter) waiter.take(buffer)
    else this.#free.push(buffer)
  }

  /** Nobody waits for a buffer that will never come. */
  fail(error: unknown): void {
    this.#broken ??= { error }
    for (const waiter of this.#waiting.splice(0)) waiter.fail(error)
  }
}
