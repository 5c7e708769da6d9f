/** Chunks by their place, each on its way once: whoever asks for one that is being fetched gets a copy of it. */

import { abortable } from '../core/abortable.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { RecordRequest } from './record-opener.ts'
import type { RecordReader } from './record-reader.ts'
import type { ChunkRef, ContentOrigin } from './repository.ts'

type Deliver = (ref: ChunkRef, content: Uint8Array, from?: ContentOrigin) => void

/** 'left': the caller that was fetching it was interrupted, which says nothing about the chunk. */
type Outcome = { readonly kind: 'done' | 'left' } | { readonly kind: 'failed'; readonly error: unknown }

interface Joiner {
  readonly settle: (outcome: Outcome, content?: Uint8Array) => void
}

/** A chunk on its way, with those who joined. Most have none, so that no promise is made for them. */
interface Flight {
  joiners: Joiner[] | undefined
}

export class ChunkFetcher {
  readonly #records: RecordReader
  readonly #flights = new Map<string, Flight>()

  constructor(records: RecordReader) {
    this.#records = records
  }

  /** `deliver` is called once for each ref and not after this has settled. Throws the first failure, when all have been tried. */
  async fetch(
    request: RecordRequest,
    refs: readonly ChunkRef[],
    deliver: Deliver,
    options: AbortOptions,
  ): Promise<void> {
    options.signal?.throwIfAborted()
    const own = new Map<ChunkRef, string>()
    const joined = new JoinedChunks(deliver)
    for (const ref of refs) {
      const name = `${request.domain}${ref.pack}${ref.slot}`
      const flight = this.#flights.get(name)
      if (flight) joined.join(flight, ref)
      else {
        own.set(ref, name)
        this.#flights.set(name, { joiners: undefined })
      }
    }
    let failure: { error: unknown } | undefined
    const deliverOwn = (ref: ChunkRef, content: Uint8Array, from: ContentOrigin) => {
      this.#land(own, ref, { kind: 'done' }, content)
      deliver(ref, content, from)
    }
    const fail = (ref: ChunkRef, error: unknown) => {
      failure ??= { error }
      this.#land(own, ref, options.signal?.aborted ? { kind: 'left' } : { kind: 'failed', error })
    }
    try {
      if (own.size > 0) await this.#records.read(request, [...own.keys()], { deliver: deliverOwn, fail }, options)
      failure ??= await abortable(joined.settled(), options)
    } finally {
      joined.close()
      for (const ref of [...own.keys()]) this.#land(own, ref, { kind: 'left' })
    }
    if (failure) throw failure.error
    if (joined.left.length > 0) await this.fetch(request, joined.left, deliver, options)
  }

  /** Into the request's sink, past all who might want a copy. Settles when nothing is written any longer. Throws as `fetch`. */
  async write(request: RecordRequest, refs: readonly ChunkRef[], options: AbortOptions): Promise<void> {
    let failure: { error: unknown } | undefined
    const fail = (_ref: ChunkRef, error: unknown) => {
      failure ??= { error }
    }
    await this.#records.read(request, refs, { deliver: () => {}, fail }, options)
    if (failure) throw failure.error
  }

  #land(own: Map<ChunkRef, string>, ref: ChunkRef, outcome: Outcome, content?: Uint8Array): void {
    const name = own.get(ref)
    if (name === undefined) return
    own.delete(ref)
    const joiners = this.#flights.get(name)?.joiners ?? []
    this.#flights.delete(name)
    for (const { settle } of joiners) settle(outcome, content)
  }
}

/** The chunks of one call that others are fetching already. */
class JoinedChunks {
  /** Those whose fetcher was interrupted. */
  readonly left: ChunkRef[] = []
  readonly #deliver: Deliver
  readonly #settled = Promise.withResolvers<void>()
  #waiting = 0
  #failure: { error: unknown } | undefined
  #closed = false

  constructor(deliver: Deliver) {
    this.#deliver = deliver
  }

  join(flight: Flight, ref: ChunkRef): void {
    this.#waiting++
    flight.joiners ??= []
    flight.joiners.push({ settle: (outcome, content) => this.#settle(ref, outcome, content) })
  }

  async settled(): Promise<{ error: unknown } | undefined> {
    if (this.#waiting > 0) await this.#settled.promise
    return this.#failure
  }

  /** Nothing is delivered from now on. */
  close(): void {
    this.#closed = true
  }

  #settle(ref: ChunkRef, outcome: Outcome, content: Uint8Array | undefined): void {
    if (this.#closed) return
    if (content) this.#deliver(ref, content.slice())
    if (outcome.kind === 'failed') this.#failure ??= outcome
    if (outcome.kind === 'left') this.left.push(ref)
    this.#waiting--
    if (this.#waiting === 0) this.#settled.resolve()
  }
}
