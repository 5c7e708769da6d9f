/**
 * Chunks under way. A chunk is claimed in the same turn in which it was found missing, so that two reads that miss together
 * fetch once; the table is shared by all images over one cache, so two disks with the same content share a fetch as well.
 */
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ChunkRef, ChunkSource, ContentOrigin } from '../repository/repository.ts'
import { type ChunkCache, chunkKey } from './chunk-cache.ts'

/** Called in the turn in which the chunk arrives; the content is shared and read-only. */
export type Deliver = (key: string, content: Uint8Array) => void

/** One call of ChunkSource.fetch. It is aborted when nobody waits for it any longer. */
export interface Flight {
  readonly refs: readonly ChunkRef[]
  /** Stored bytes that this host had on its disk, so far. */
  bytesFromDisk: number
  /** Settles when the fetch has ended, however it did; never rejects. */
  readonly ended: Promise<void>
  abort(reason: unknown): void
}

interface FetchChunks extends AbortOptions {
  readonly onFlight?: (flight: Flight) => void
  readonly along?: ReadonlyMap<string, ChunkRef>
}

interface Waiter {
  delivered(key: string, content: Uint8Array): void
  failed(key: string, error: unknown, ownFlight: boolean): void
}

interface PendingChunk {
  readonly key: string
  readonly ref: ChunkRef
  readonly flight: FlightState
  readonly waiters: Map<Waiter, boolean>
}

interface FlightState extends Flight {
  readonly controller: AbortController
  readonly pending: Map<string, PendingChunk>
  /** Waiters over all its chunks, and one more for a read-ahead, which nobody waits for. */
  interest: number
}

/** A reader whose chunks failed in flights that others began tries again itself; an outage has been waited for once already. */
const attemptsAfter = (error: unknown): number =>
  error instanceof LifeboatError && error.retry === 'transient' ? 2 : 3

export class ChunkFlights {
  readonly #cache: ChunkCache
  readonly #pending = new Map<string, PendingChunk>()

  constructor(cache: ChunkCache) {
    this.#cache = cache
  }

  has(key: string): boolean {
    return this.#pending.has(key)
  }

  /**
   * Delivers each of `wants` once: joins what is under way and fetches the rest in one call, begun before this returns.
   * Fails with the source's error. A failure of a flight that somebody else began (another disk, whose copy is damaged, or a
   * read-ahead with a bad neighbour in it) is not taken for ours: those chunks are tried again from our own source.
   * `along`: what is neither kept nor under way and may come in the same call, for the cache alone; nobody waits for it.
   */
  async fetch(
    source: ChunkSource,
    wants: ReadonlyMap<string, ChunkRef>,
    deliver: Deliver,
    { along, ...options }: FetchChunks = {},
  ): Promise<void> {
    let left = wants
    for (let attempt = 1; left.size > 0; attempt++) {
      const ours = attempt === 1 ? { ...options, along } : options
      left = await this.#attempt(source, left, deliver, ours, error => attempt < attemptsAfter(error))
    }
  }

  /** Fetches what is neither kept nor under way, for the cache alone. */
  prefetch(source: ChunkSource, wants: ReadonlyMap<string, ChunkRef>): Flight | undefined {
    return this.#begin(source, wants, undefined)
  }

  #attempt(
    source: ChunkSource,
    wants: ReadonlyMap<string, ChunkRef>,
    deliver: Deliver,
    { signal, onFlight, along }: FetchChunks,
    mayRetry: (error: unknown) => boolean,
  ): Promise<ReadonlyMap<string, ChunkRef>> {
    if (signal?.aborted) return Promise.reject(signal.reason)
    return new Promise((resolve, reject) => {
      let waiting = wants.size
      const failed = new Map<string, ChunkRef>()
      const joined: PendingChunk[] = []
      const done = () => {
        waiting = -1
        signal?.removeEventListener('abort', onAbort)
        resolve(failed)
      }
      const giveUp = (reason: unknown) => {
        waiting = -1
        signal?.removeEventListener('abort', onAbort)
        for (const chunk of joined) this.#leave(chunk, waiter, reason)
        reject(reason)
      }
      const onAbort = () => giveUp(signal?.reason)
      const waiter: Waiter = {
        delivered: (key, content) => {
          if (waiting < 0) return
          deliver(key, content)
          if (--waiting === 0) done()
        },
        failed: (key, error, ownFlight) => {
          if (waiting < 0) return
          if (ownFlight || !mayRetry(error)) return giveUp(error)
          failed.set(key, wants.get(key)!)
          if (--waiting === 0) done()
        },
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      const absent = new Map<string, ChunkRef>()
      for (const [key, ref] of wants) {
        const chunk = this.#pending.get(key)
        if (!chunk) absent.set(key, ref)
        else if (!chunk.waiters.has(waiter)) {
          chunk.waiters.set(waiter, false)
          chunk.flight.interest++
          joined.push(chunk)
        }
      }
      if (absent.size === 0) return
      const flight = this.#begin(source, absent, waiter, along)
      if (!flight) return
      for (const chunk of flight.pending.values()) if (chunk.waiters.has(waiter)) joined.push(chunk)
      onFlight?.(flight)
    })
  }

  #begin(
    source: ChunkSource,
    wants: ReadonlyMap<string, ChunkRef>,
    waiter: Waiter | undefined,
    along?: ReadonlyMap<string, ChunkRef>,
  ): FlightState | undefined {
    const controller = new AbortController()
    const pending = new Map<string, PendingChunk>()
    const ended = Promise.withResolvers<void>()
    const refs: ChunkRef[] = []
    const flight: FlightState = {
      refs,
      controller,
      pending,
      interest: 0,
      bytesFromDisk: 0,
      ended: ended.promise,
      abort: reason => this.#fail(flight, reason),
    }
    const claim = (some: ReadonlyMap<string, ChunkRef>, by: Waiter | undefined) => {
      for (const [key, ref] of some) {
        if (this.#pending.has(key)) continue
        const chunk: PendingChunk = { key, ref, flight, waiters: new Map(by ? [[by, true]] : []) }
        this.#pending.set(key, chunk)
        pending.set(key, chunk)
        refs.push(ref)
      }
    }
    claim(wants, waiter)
    if (refs.length === 0) return undefined
    flight.interest = waiter ? refs.length : 1
    if (along) claim(along, undefined)
    source
      .fetch(refs, (ref, content, from) => this.#arrived(flight, source, ref, content, from), {
        signal: controller.signal,
      })
      .then(
        () =>
          this.#fail(
            flight,
            new LifeboatError('internal', 'a chunk source ended without having delivered every chunk'),
          ),
        error => this.#fail(flight, error),
      )
      .finally(() => ended.resolve())
    return flight
  }

  #arrived(
    flight: FlightState,
    source: ChunkSource,
    ref: ChunkRef,
    content: Uint8Array,
    from: ContentOrigin | undefined,
  ): void {
    const key = chunkKey(ref.id)
    const chunk = flight.pending.get(key)
    if (!chunk) return
    if (content.length !== source.chunkSize) {
      this.#fail(flight, new LifeboatError('internal', `a chunk source delivered ${content.length} bytes`))
      return
    }
    if (from === 'host') flight.bytesFromDisk += ref.length
    this.#remove(chunk)
    const kept = this.#cache.set(key, content)
    flight.interest -= chunk.waiters.size
    for (const waiter of [...chunk.waiters.keys()]) waiter.delivered(key, kept)
  }

  /** The rest of the flight failed or is no longer wanted; its chunks may be claimed anew from this turn on. */
  #fail(flight: FlightState, error: unknown): void {
    const chunks = [...flight.pending.values()]
    for (const chunk of chunks) this.#remove(chunk)
    if (chunks.length > 0) flight.controller.abort(error)
    for (const chunk of chunks) for (const [waiter, own] of [...chunk.waiters]) waiter.failed(chunk.key, error, own)
  }

  #leave(chunk: PendingChunk, waiter: Waiter, reason: unknown): void {
    if (!chunk.waiters.delete(waiter) || !chunk.flight.pending.has(chunk.key)) return
    if (--chunk.flight.interest === 0) this.#fail(chunk.flight, reason)
  }

  #remove(chunk: PendingChunk): void {
    this.#pending.delete(chunk.key)
    chunk.flight.pending.delete(chunk.key)
  }
}
