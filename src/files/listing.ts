/**
 * The listing of one directory, begun before somebody reads it, and those of directories that it finds: over a network each listing is
 * a round trip. What is being read begins the listings below it, and those begin the ones below them; no further.
 */
import { limits } from '../core/limits.ts'
import type { DirectoryNode, Entry } from './file-tree.ts'

/** What all listings of one walk share. */
export interface Listings {
  /** Entries that nobody has read yet. */
  entries: number
  /** Those that are not at their end. */
  running: number
  readonly signal: AbortSignal | undefined
  enters(path: readonly string[], node: DirectoryNode): boolean
}

export interface ListedBatch {
  readonly entries: readonly Entry[]
  /** Listings of directories among them, by position. */
  readonly begun: Map<number, Listing>
  /** The first that was not looked at for that. */
  ahead: number
}

/** How far whoever reads is away: in this directory, in the one above, or in the one above that. */
type Distance = 0 | 1 | 2

export class Listing implements AsyncDisposable {
  readonly #path: readonly string[]
  readonly #shared: Listings
  readonly #batches: ListedBatch[] = []
  readonly #ended = new AbortController()
  readonly #pump: Promise<void>
  #distance: Distance
  #isDone = false
  #failure: { readonly error: unknown } | undefined
  /** Wakes whoever waits for the other side; the reader and the pump never both wait. */
  #wake = Promise.withResolvers<void>()
  #isWanted = false

  constructor(path: readonly string[], node: DirectoryNode, shared: Listings, distance: Distance) {
    this.#path = path
    this.#shared = shared
    this.#distance = distance
    const { signal } = shared
    this.#pump = this.#fill(node, signal ? AbortSignal.any([signal, this.#ended.signal]) : this.#ended.signal)
  }

  /** Whoever reads has come nearer. */
  approach(distance: Distance): void {
    this.#distance = distance
    for (const batch of this.#batches) {
      if (distance < 2) for (const below of batch.begun.values()) below.approach(distance === 0 ? 1 : 2)
      this.#beginBelow(batch)
    }
  }

  /** Undefined after the last. */
  async next(): Promise<ListedBatch | undefined> {
    for (;;) {
      const batch = this.#batches.shift()
      if (batch !== undefined) {
        this.#shared.entries -= batch.entries.length
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
    for (const batch of this.#batches.splice(0)) {
      this.#shared.entries -= batch.entries.length
      await endBelow(batch)
    }
  }

  async #fill(node: DirectoryNode, signal: AbortSignal): Promise<void> {
    const shared = this.#shared
    shared.running += 1
    try {
      for await (const entries of node.list({ signal })) {
        const batch = { entries, begun: new Map(), ahead: 0 }
        this.#batches.push(batch)
        shared.entries += entries.length
        this.#beginBelow(batch)
        this.#turn()
        while (!this.#isWanted && this.#batches.length > 0 && shared.entries >= limits.walkEntriesAhead) {
          if (this.#ended.signal.aborted) return
          await this.#wake.promise
        }
        if (this.#ended.signal.aborted) return
      }
    } catch (error) {
      this.#failure = { error }
    } finally {
      shared.running -= 1
      this.#isDone = true
      this.#turn()
    }
  }

  #beginBelow(batch: ListedBatch): void {
    if (this.#ended.signal.aborted || this.#distance === 2) return
    // What is far off leaves most of the room to what is near.
    const { entries, running } = this.#shared
    const isFar = this.#distance === 1
    if (isFar && (entries * 4 > limits.walkEntriesAhead || running >= limits.walkListsRunning)) return
    beginBelow(batch, this.#path, this.#shared, isFar ? 2 : 1)
  }

  #turn(): void {
    this.#wake.resolve()
    this.#wake = Promise.withResolvers()
  }
}

/** Lists the next directories of a batch, some at a time, while there is room. */
export function beginBelow(
  batch: ListedBatch,
  path: readonly string[],
  shared: Listings,
  distance: Exclude<Distance, 0>,
): void {
  const { entries, begun } = batch
  while (
    batch.ahead < entries.length &&
    begun.size < limits.walkListsAhead &&
    shared.entries < limits.walkEntriesAhead
  ) {
    const position = batch.ahead++
    const { name, node } = entries[position]!
    if (node.kind !== 'directory') continue
    const place = [...path, name]
    if (shared.enters(place, node)) begun.set(position, new Listing(place, node, shared, distance))
  }
}

export async function endBelow({ begun }: ListedBatch): Promise<void> {
  for (const listing of begun.values()) await listing[Symbol.asyncDispose]()
}
