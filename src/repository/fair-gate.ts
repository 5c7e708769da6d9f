/**
 * Admits reads of several disks so that one whose reads hang takes nobody else's place. A disk has at most `perOwner` under way;
 * beyond `total`, of reads or of their bytes, a disk still gets its `share`. Who waits is admitted in turns.
 */
import type { AbortOptions } from '../core/scope.ts'

export interface GateOptions {
  readonly perOwner: number
  readonly total: number
  readonly totalBytes: number
  readonly share: number
}

interface Waiting {
  readonly bytes: number
  readonly admit: () => void
}

interface Owner {
  count: number
  readonly queue: Waiting[]
}

export class FairGate {
  readonly #options: GateOptions
  /** Those with something under way or waiting; the one that was admitted last is the last. */
  readonly #owners = new Map<object, Owner>()
  #count = 0
  #bytes = 0

  constructor(options: GateOptions) {
    this.#options = options
  }

  /** Runs `work` when it is this owner's turn. Rejects with the signal's reason, or as `work` does. */
  async run<T>(key: object, bytes: number, work: () => Promise<T>, { signal }: AbortOptions = {}): Promise<T> {
    signal?.throwIfAborted()
    const owner = this.#owners.get(key) ?? { count: 0, queue: [] }
    this.#owners.set(key, owner)
    if (owner.queue.length === 0 && this.#mayStart(owner)) this.#start(owner, bytes)
    else await this.#turn(owner, bytes, signal)
    try {
      return await work()
    } finally {
      this.#end(key, owner, bytes)
    }
  }

  #turn(owner: Owner, bytes: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        owner.queue.splice(owner.queue.indexOf(waiting), 1)
        reject(signal?.reason)
      }
      const waiting = {
        bytes,
        admit: () => {
          signal?.removeEventListener('abort', onAbort)
          resolve()
        },
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      owner.queue.push(waiting)
    })
  }

  #mayStart({ count }: Owner): boolean {
    const { perOwner, total, totalBytes, share } = this.#options
    return count < perOwner && (count < share || (this.#count < total && this.#bytes < totalBytes))
  }

  #start(owner: Owner, bytes: number): void {
    owner.count++
    this.#count++
    this.#bytes += bytes
  }

  #end(key: object, owner: Owner, bytes: number): void {
    owner.count--
    this.#count--
    this.#bytes -= bytes
    this.#admit()
    if (owner.count === 0 && owner.queue.length === 0) this.#owners.delete(key)
  }

  /** One of each who waits and may, round and round. */
  #admit(): void {
    for (let admitted = true; admitted; ) {
      admitted = false
      for (const [key, owner] of [...this.#owners]) {
        const [next] = owner.queue
        if (!next || !this.#mayStart(owner)) continue
        owner.queue.shift()
        this.#start(owner, next.bytes)
        this.#owners.delete(key)
        this.#owners.set(key, owner)
        next.admit()
        admitted = true
      }
    }
  }
}
