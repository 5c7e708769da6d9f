/** The listing of one directory, begun before somebody reads it: over a network each listing is a round trip. */
import type { AbortOptions } from '../core/scope.ts'
import type { DirectoryNode, Entry } from './file-tree.ts'

/** What listings that nobody reads yet may hold together. */
export interface ListingRoom {
  entries: number
  readonly max: number
}

export class Listing implements AsyncDisposable {
  readonly #room: ListingRoom
  readonly #batches: (readonly Entry[])[] = []
  readonly #ended = new AbortController()
  readonly #pump: Promise<void>
  #isDone = false
  #failure: { readonly error: unknown } | undefined
  /** Wakes whoever waits for the other side; the reader and the pump never both wait. */
  #wake = Promise.withResolvers<void>()
  #isWanted = false

  constructor(node: DirectoryNode, room: ListingRoom, { signal }: AbortOptions) {
    this.#room = room
    this.#pump = this.#fill(node, signal ? AbortSignal.any([signal, this.#ended.signal]) : this.#ended.signal)
  }

  /** Undefined after the last. */
  async next(): Promise<readonly Entry[] | undefined> {
    for (;;) {
      const batch = this.#batches.shift()
      if (batch !== undefined) {
        this.#room.entries -= batch.length
        this.#turn()
        return batch
      }
      if (this.#failure !== undefined) throw this.#failure.error
      if (this.#isDone) return undefined
      this.#isWanted = true
      this.#turn()
      await this.#wake.promise
      this.#isWanted = false
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort()
    this.#turn()
    await this.#pump
    for (const batch of this.#batches.splice(0)) this.#room.entries -= batch.length
  }

  async #fill(node: DirectoryNode, signal: AbortSignal): Promise<void> {
    try {
      for await (const batch of node.list({ signal })) {
        this.#batches.push(batch)
        this.#room.entries += batch.length
        this.#turn()
        while (!this.#isWanted && this.#batches.length > 0 && this.#room.entries >= this.#room.max) {
          if (this.#ended.signal.aborted) return
          await this.#wake.promise
        }
        if (this.#ended.signal.aborted) return
      }
    } catch (error) {
      this.#failure = { error }
    } finally {
      this.#isDone = true
      this.#turn()
    }
  }

  #turn(): void {
    this.#wake.resolve()
    this.#wake = Promise.withResolvers()
  }
}
