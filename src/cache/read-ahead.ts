/**
 * When to read ahead, and how far: pure state, no I/O. Windows lie in disk order, whatever order the packs have: on an aged
 * repository that was measured at 1.44 of a local boot against 1.99 for read-ahead within a pack.
 */
import { limits } from '../core/limits.ts'
import { Neighbours } from './neighbours.ts'

export interface ReadAheadOptions {
  readonly chunkSize: number
  /** Chunks of the disk. */
  readonly chunkCount: number
  /** Chunks of the first window of a stream; doubled with each window up to `maxWindow`. 0 turns read-ahead off. */
  readonly firstWindow: number
  readonly maxWindow: number
  /** Streams told apart: a guest reads several files at once. */
  readonly streamCount: number
}

/** Chunks [first, first + count). */
export interface ChunkWindow {
  readonly first: number
  readonly count: number
}

interface Stream {
  /** Byte after the furthest request. */
  end: number
  /** Chunk after the last one asked for or read ahead. */
  edge: number
  window: number
}

export class ReadAhead {
  readonly #options: ReadAheadOptions
  /** The least recently used one first. */
  readonly #streams: Stream[] = []
  readonly #neighbours: Neighbours

  constructor(options: ReadAheadOptions) {
    this.#options = options
    const few = Math.floor(limits.neighbourBytes / options.chunkSize)
    this.#neighbours = new Neighbours(Math.min(limits.neighbourChunks, few, options.maxWindow))
  }

  /**
   * Notes a request, of which memory did not have all when `isMissed`, and says what to fetch with it, at most `budget` chunks. It
   * is sequential when it begins within a chunk of where an earlier one ended (clients with several requests in flight swap
   * neighbours). Where no stream has a window to fetch, a chunk that was missed may bring its neighbours along.
   */
  next(offset: number, length: number, isMissed: boolean, budget: number): ChunkWindow | undefined {
    const { chunkSize, chunkCount, firstWindow } = this.#options
    if (firstWindow === 0 || length === 0) return undefined
    const end = Math.ceil((offset + length) / chunkSize)
    this.#neighbours.touched(Math.floor(offset / chunkSize), end)
    const window = this.#ofStream(offset, length, budget)
    if (window || !isMissed) return window
    const count = this.#neighbours.behind(end, Math.min(budget, chunkCount - end))
    if (count < 1) return undefined
    const newest = this.#streams.at(-1)
    if (newest?.edge === end) newest.edge += count
    return { first: end, count }
  }

  #ofStream(offset: number, length: number, budget: number): ChunkWindow | undefined {
    const { chunkSize, chunkCount, firstWindow, maxWindow, streamCount } = this.#options
    const end = offset + length
    const streams = this.#streams
    let at = streams.length - 1
    while (at >= 0 && Math.abs(offset - streams[at]!.end) > chunkSize) at--
    if (at < 0) {
      // The oldest is used again: each read at a random place begins a stream.
      const stream = streams.length < streamCount ? { end: 0, edge: 0, window: 0 } : streams.shift()!
      stream.end = end
      stream.edge = Math.ceil(end / chunkSize)
      stream.window = firstWindow
      streams.push(stream)
      return undefined
    }
    const stream = streams[at]!
    if (at !== streams.length - 1) {
      streams.splice(at, 1)
      streams.push(stream)
    }
    if (end <= stream.end) return undefined
    stream.end = end
    const reached = Math.ceil(end / chunkSize)
    if (stream.edge < reached) stream.edge = reached
    if (stream.edge - reached > stream.window / 4) return undefined
    const count = Math.min(stream.window, budget, chunkCount - stream.edge)
    if (count < 1) return undefined
    const first = stream.edge
    stream.edge += count
    stream.window = Math.min(maxWindow, stream.window * 2)
    return { first, count }
  }
}
