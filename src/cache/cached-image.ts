/**
 * A recovery point's disk as a BlockReader. A request whose nodes and chunks are in memory is answered in the turn that
 * made it (`borrow`); others join what is under way, and the reader is followed in disk order (read-ahead.ts).
 */
import type { BlockReader, BorrowedViews } from '../block/block-device.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { Extent, Range } from '../core/range.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { planRuns, runLimitsOf } from '../repository/record-runs.ts'
import type { ChunkRef, ChunkSource, ChunkSpan } from '../repository/repository.ts'
import { BegunFlights, type FlightFigures } from './begun-flights.ts'
import { type ChunkCache, chunkKey } from './chunk-cache.ts'
import { ChunkFlights, type Flight } from './chunk-flights.ts'
import { KnownKeys } from './known-keys.ts'
import { type ChunkWindow, ReadAhead } from './read-ahead.ts'

export interface CachedImageOptions {
  /** Shared by all images of a process. */
  readonly cache: ChunkCache
  /** Chunks; `maxWindow` 0 turns read-ahead off. */
  readonly readAhead?: { readonly firstWindow?: number; readonly maxWindow?: number; readonly bytesInFlight?: number }
}

/** Counted since the image was made. */
export interface CachedImageStats extends FlightFigures {
  /** Bytes that readers asked for. */
  readonly bytesRead: number
  /** Chunks of requests found in memory, absent chunks (zeros) not counted, and those that had to be waited for. */
  readonly cacheHits: number
  readonly cacheMisses: number
}

export interface CachedImage extends BlockReader {
  borrow(offset: number, length: number): BorrowedViews | undefined
  prefetch(range: Range, options?: AbortOptions): Promise<void>
  /** The same for chunks that lie anywhere, ascending, at most so many GETs at once. Gives how many chunks the source was asked for. */
  prefetchChunks(chunks: readonly number[], options: { readonly getsAtOnce: number } & AbortOptions): Promise<number>
  stats(): CachedImageStats
}

/** One table of flights for each cache, so that images that share the one share the other. */
const flightsOf = new WeakMap<ChunkCache, ChunkFlights>()

function sharedFlights(cache: ChunkCache): ChunkFlights {
  const known = flightsOf.get(cache)
  if (known) return known
  const flights = new ChunkFlights(cache)
  flightsOf.set(cache, flights)
  return flights
}

/** Dispose ends what this image has under way. The source stays the caller's. */
export const cachedImage = (source: ChunkSource, options: CachedImageOptions): CachedImage =>
  new CachedChunks(source, options)

/** The garbage collector gives a chunk's memory back when neither the table nor a view has it, so release has nothing to do. */
const release = (): void => {}

/** Where the bytes of one missing chunk go: triples of (offset in the target, from, to) flattened. */
interface Wanted {
  readonly ref: ChunkRef
  readonly pieces: number[]
}

class CachedChunks implements CachedImage {
  readonly size: number
  readonly blockSize: number
  readonly #source: ChunkSource
  readonly #cache: ChunkCache
  readonly #flights: ChunkFlights
  readonly #keys: KnownKeys
  readonly #ahead: ReadAhead
  readonly #aheadBytesMax: number
  readonly #begun: BegunFlights
  readonly #stats = { bytesRead: 0, cacheHits: 0, cacheMisses: 0 }

  constructor(source: ChunkSource, { cache, readAhead = {} }: CachedImageOptions) {
    this.size = source.size
    this.blockSize = source.chunkSize
    this.#source = source
    this.#cache = cache
    this.#flights = sharedFlights(cache)
    this.#begun = new BegunFlights(source.chunkSize)
    const chunkCount = Math.ceil(source.size / source.chunkSize)
    this.#keys = new KnownKeys(chunkCount)
    this.#aheadBytesMax = readAhead.bytesInFlight ?? limits.readAheadBytesInFlight
    // A window that is large beside the cache would evict itself before it is read.
    const fits = Math.floor(Math.min(limits.readAheadWindowBytes, cache.maxBytes / 4) / source.chunkSize)
    const maxWindow = Math.min(readAhead.maxWindow ?? limits.readAheadChunksMax, fits)
    this.#ahead = new ReadAhead({
      chunkSize: source.chunkSize,
      chunkCount,
      firstWindow: Math.min(readAhead.firstWindow ?? limits.readAheadChunksFirst, maxWindow),
      maxWindow,
      streamCount: limits.readAheadStreams,
    })
  }

  stats(): CachedImageStats {
    return { ...this.#stats, ...this.#begun.figures() }
  }

  borrow(offset: number, length: number): BorrowedViews | undefined {
    if (offset < 0 || length < 0 || offset + length > this.size || this.#begun.signal.aborted) return undefined
    const chunkSize = this.blockSize
    const first = Math.floor(offset / chunkSize)
    const from = offset - first * chunkSize
    const count = Math.ceil((from + length) / chunkSize)
    const known = count === 1 ? this.#keys.get(first) : undefined
    if (known !== undefined) return this.#lend(this.#cache.get(known), offset, length, from)
    const refs = this.#source.locateNow(first, count)
    if (!refs) return undefined
    const views: Uint8Array[] = []
    let hits = 0
    let zeros = 0
    for (let i = 0; i < count; i++) {
      const start = i === 0 ? from : 0
      const end = i === count - 1 ? from + length - i * chunkSize : chunkSize
      const ref = refs[i]
      if (!ref) {
        zeros += end - start
        continue
      }
      const key = chunkKey(ref.id)
      const content = this.#cache.get(key)
      if (!content) return undefined
      this.#keys.set(first + i, key)
      if (zeros > 0) zeros = this.#lendZeros(views, zeros)
      views.push(end - start === chunkSize ? content : content.subarray(start, end))
      hits++
    }
    if (zeros > 0) this.#lendZeros(views, zeros)
    return this.#lent(views, offset, length, hits)
  }

  /** `content` is that of the one chunk in which the range lies, from `from` on. */
  #lend(content: Uint8Array | undefined, offset: number, length: number, from: number): BorrowedViews | undefined {
    return content && this.#lent([content.subarray(from, from + length)], offset, length, 1)
  }

  #lent(views: readonly Uint8Array[], offset: number, length: number, hits: number): BorrowedViews {
    this.#stats.bytesRead += length
    this.#stats.cacheHits += hits
    const window = this.#windowAhead(offset, length, false)
    if (window) this.#readAhead(window)
    return { views, release }
  }

  async readInto(target: Uint8Array, offset: number, options: AbortOptions = {}): Promise<void> {
    const length = target.length
    if (offset < 0 || offset + length > this.size)
      throw new RangeError(`read of ${length} bytes at ${offset} of ${this.size}`)
    options.signal?.throwIfAborted()
    this.#begun.signal.throwIfAborted()
    const chunkSize = this.blockSize
    const first = Math.floor(offset / chunkSize)
    const from = offset - first * chunkSize
    const count = Math.ceil((from + length) / chunkSize)
    const refs = this.#source.locateNow(first, count) ?? (await this.#source.locate(first, count, options))
    this.#begun.signal.throwIfAborted()
    // From here to the claim in ChunkFlights.fetch there is no await.
    this.#stats.bytesRead += length
    const missing = this.#copyKept(target, from, refs)
    const window = this.#windowAhead(offset, length, missing.size > 0)
    // A few neighbours come in the same GET; a large window would keep the reader waiting.
    const isSmall = window !== undefined && window.count <= limits.readAlongChunks
    const beside = isSmall ? this.#source.locateNow(window.first, window.count) : undefined
    const along = beside && missing.size > 0 ? this.#notKept(beside) : undefined
    const read = missing.size === 0 ? undefined : this.#fetch(target, missing, { ...options, along })
    if (window && !along) this.#readAhead(window)
    await read
  }

  async *extents(range: Range, options: AbortOptions = {}): AsyncIterable<Extent> {
    const chunkSize = this.blockSize
    const end = range.offset + range.length
    if (range.offset < 0 || end > this.size)
      throw new RangeError(`extents of ${range.length} bytes at ${range.offset} of ${this.size}`)
    const first = Math.floor(range.offset / chunkSize)
    const count = Math.ceil(end / chunkSize) - first
    let open: { offset: number; length: number; kind: Extent['kind'] } | undefined
    let at = range.offset
    for await (const span of this.#source.spans?.(first, count, options) ?? this.#located(first, count, options)) {
      const kind = span.isPresent ? 'data' : 'zero'
      const next = Math.min(end, (span.first + span.count) * chunkSize)
      if (next <= at) continue
      if (open && open.kind === kind) open.length += next - at
      else {
        if (open) yield open
        open = { offset: at, length: next - at, kind }
      }
      at = next
    }
    if (open) yield open
  }

  /** Spans of one chunk each, for sources that know no better. */
  async *#located(first: number, count: number, options: AbortOptions): AsyncIterable<ChunkSpan> {
    for (let at = first; at < first + count; at += limits.extentsChunksAtOnce) {
      const window = Math.min(limits.extentsChunksAtOnce, first + count - at)
      const refs = this.#source.locateNow(at, window) ?? (await this.#source.locate(at, window, options))
      for (const [i, ref] of refs.entries()) yield { first: at + i, count: 1, isPresent: ref !== undefined }
    }
  }

  /** Into the cache and no further; what is there, or under way, is not asked for again. */
  async prefetch({ offset, length }: Range, options: AbortOptions = {}): Promise<void> {
    if (offset < 0 || length < 0 || offset + length > this.size)
      throw new RangeError(`prefetch of ${length} bytes at ${offset} of ${this.size}`)
    const chunkSize = this.blockSize
    const end = Math.ceil((offset + length) / chunkSize)
    const step = Math.max(1, Math.floor(limits.prefetchBytes / chunkSize))
    for (let first = Math.floor(offset / chunkSize); first < end; first += step) {
      const count = Math.min(step, end - first)
      const refs = this.#source.locateNow(first, count) ?? (await this.#source.locate(first, count, options))
      this.#begun.signal.throwIfAborted()
      const wants = this.#notKept(refs)
      const onFlight = (flight: Flight) => this.#begun.add(flight)
      if (wants.size > 0) await this.#flights.fetch(this.#source, wants, () => {}, { signal: options.signal, onFlight })
    }
  }

  async prefetchChunks(
    chunks: readonly number[],
    { getsAtOnce, signal }: { readonly getsAtOnce: number } & AbortOptions,
  ): Promise<number> {
    const refs = await this.#locateScattered(chunks, { signal })
    const absent = this.#notKept(refs)
    const kind = { kind: 'data', chunkSize: this.blockSize } as const
    const gets = [...Map.groupBy(absent.values(), ref => ref.pack).values()].flatMap(ofPack =>
      planRuns(ofPack, runLimitsOf(kind)),
    )
    let fetched = 0
    await forEachLimited(
      gets,
      getsAtOnce,
      async ({ records }, gone) => {
        this.#begun.signal.throwIfAborted()
        // Each GET is claimed when it is begun, so that a read of what has yet to be asked for does not wait for the others.
        const onFlight = (flight: Flight) => {
          fetched += flight.refs.length
          this.#begun.add(flight)
        }
        await this.#flights.fetch(this.#source, this.#notKept(records), () => {}, { signal: gone, onFlight })
      },
      { signal },
    )
    return fetched
  }

  /** Nodes that are missing are read side by side. */
  async #locateScattered(chunks: readonly number[], options: AbortOptions): Promise<(ChunkRef | undefined)[]> {
    const found: (ChunkRef | undefined)[] = []
    const unknown: number[] = []
    for (const chunk of chunks) {
      const refs = this.#source.locateNow(chunk, 1)
      if (refs) found.push(refs[0])
      else unknown.push(chunk)
    }
    const leaves = [...Map.groupBy(unknown, chunk => Math.floor(chunk / limits.leafWidth)).values()]
    await forEachLimited(
      leaves,
      limits.traceWindowGets,
      async (ofLeaf, signal) => {
        const first = ofLeaf[0]!
        const refs = await this.#source.locate(first, ofLeaf.at(-1)! - first + 1, { signal })
        for (const chunk of ofLeaf) found.push(refs[chunk - first])
      },
      options,
    )
    return found
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#begun.close(new LifeboatError('interrupted', 'the disk image was closed'))
  }

  #lendZeros(views: Uint8Array[], length: number): 0 {
    const zeros = this.#cache.zeros
    for (let left = length; left > 0; left -= zeros.length) views.push(zeros.subarray(0, Math.min(left, zeros.length)))
    return 0
  }

  /** Fills what is zero or in memory; gives the rest. */
  #copyKept(target: Uint8Array, from: number, refs: readonly (ChunkRef | undefined)[]): Map<string, Wanted> {
    const chunkSize = this.blockSize
    const missing = new Map<string, Wanted>()
    for (let i = 0, at = 0; i < refs.length; i++) {
      const start = i === 0 ? from : 0
      const end = Math.min(chunkSize, start + target.length - at)
      const ref = refs[i]
      if (!ref) target.fill(0, at, at + end - start)
      else {
        const key = chunkKey(ref.id)
        const content = this.#cache.get(key)
        if (content) {
          target.set(end - start === chunkSize ? content : content.subarray(start, end), at)
          this.#stats.cacheHits++
        } else {
          const wanted = missing.get(key)
          if (wanted) wanted.pieces.push(at, start, end)
          else missing.set(key, { ref, pieces: [at, start, end] })
          this.#stats.cacheMisses++
        }
      }
      at += end - start
    }
    return missing
  }

  #fetch(
    target: Uint8Array,
    missing: ReadonlyMap<string, Wanted>,
    { signal, along }: { readonly along?: ReadonlyMap<string, ChunkRef> } & AbortOptions,
  ): Promise<void> {
    const wants = new Map<string, ChunkRef>()
    for (const [key, { ref }] of missing) wants.set(key, ref)
    const deliver = (key: string, content: Uint8Array) => {
      const { pieces } = missing.get(key)!
      for (let i = 0; i < pieces.length; i += 3) target.set(content.subarray(pieces[i + 1], pieces[i + 2]), pieces[i])
    }
    const onFlight = (flight: Flight) => {
      const ahead = along ? flight.refs.filter(ref => along.get(chunkKey(ref.id)) === ref).length : 0
      this.#begun.add(flight, ahead)
    }
    return this.#flights.fetch(this.#source, wants, deliver, { signal, onFlight, along })
  }

  #windowAhead(offset: number, length: number, isMissed: boolean): ChunkWindow | undefined {
    const budget = Math.floor((this.#aheadBytesMax - this.#begun.aheadBytes) / this.blockSize)
    return this.#ahead.next(offset, length, isMissed, budget)
  }

  #readAhead(window: ChunkWindow): void {
    const refs = this.#source.locateNow(window.first, window.count)
    if (refs) this.#fetchAhead(refs)
    else {
      // A failure to read ahead is nobody's yet: the reader who comes to that place meets it and reports it.
      const located = this.#source
        .locate(window.first, window.count, { signal: this.#begun.signal })
        .then(found => this.#begun.signal.aborted || this.#fetchAhead(found))
        .then(
          () => {},
          () => {},
        )
      this.#begun.track(located)
    }
  }

  #notKept(refs: readonly (ChunkRef | undefined)[]): Map<string, ChunkRef> {
    const wants = new Map<string, ChunkRef>()
    for (const ref of refs) {
      if (!ref) continue
      const key = chunkKey(ref.id)
      if (!this.#cache.has(key)) wants.set(key, ref)
    }
    return wants
  }

  #fetchAhead(refs: readonly (ChunkRef | undefined)[]): void {
    const flight = this.#flights.prefetch(this.#source, this.#notKept(refs))
    if (flight) this.#begun.add(flight, flight.refs.length)
  }
}
