/**
 * The contents of a remote file. Whoever reads in order has the next pieces on their way, more the longer it goes on; whoever
 * does not gets what was asked for and nothing else.
 */
import type { BlockReader } from '../block/block-device.ts'
import { abortable } from '../core/abortable.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type Extent, type Range, rangeEnd } from '../core/range.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'

/** What the reader asks of the connection, of one file. */
export interface RemoteContents {
  readonly size: number
  /** Fills `target`, at most `limits.guestReadBytes`. */
  read(target: Uint8Array, offset: number, options: AbortOptions): Promise<void>
  /** Covers the range, or its beginning. Not empty. */
  extents(range: Range, options: AbortOptions): Promise<readonly Extent[]>
}

/** Bytes that may be read ahead, of all readers together. */
export class ByteBudget {
  #left: number

  constructor(bytes: number) {
    this.#left = bytes
  }

  take(bytes: number): boolean {
    if (bytes > this.#left) return false
    this.#left -= bytes
    return true
  }

  give(bytes: number): void {
    this.#left += bytes
  }
}

interface Piece extends Range {
  readonly bytes: Uint8Array
  /** True where it was read. */
  readonly there: Promise<boolean>
}

const BLOCK = 4096
/** The kernel has reads of one stream overtake each other by this much. */
const OUT_OF_ORDER = limits.guestReadBytes
/** Who asks for so much at once goes on: the kernel's read-ahead, a restore. A look at a file's head is shorter. */
const LARGE = 128 * 1024
/** The kernel has one more under way than it waits for. */
const OWN_READS = 2
/** Requests of one large read. */
const READS_AT_ONCE = 8

export class RemoteReader implements BlockReader {
  readonly size: number
  readonly blockSize = BLOCK
  readonly #contents: RemoteContents
  readonly #budget: ByteBudget
  #isClosed = false
  /** Of what is read ahead. An abort makes an error with a stack, so a reader without any has none. */
  #aborting: AbortController | undefined
  #reading = 0
  #pieces: Piece[] = []
  /** Where a reader in order goes on; pieces follow each other from there to `#aheadEnd`. */
  #expected = 0
  #aheadEnd = 0
  #depth = 0

  constructor(contents: RemoteContents, budget: ByteBudget) {
    this.#contents = contents
    this.#budget = budget
    this.size = contents.size
  }

  async readInto(target: Uint8Array, offset: number, options: AbortOptions = {}): Promise<void> {
    const end = offset + target.length
    if (!(offset >= 0 && end <= this.size)) throw new RangeError(`${offset}+${target.length} is outside ${this.size}`)
    if (this.#isClosed) throw new LifeboatError('interrupted', 'the file was closed')
    options.signal?.throwIfAborted()
    if (target.length === 0) return
    const pieces = this.#pieces
    this.#foresee(offset, end)
    // In front of the pieces, in them, and behind them.
    const from = Math.min(end, Math.max(offset, pieces[0]?.offset ?? end))
    const to = Math.max(from, Math.min(end, pieces.length > 0 ? rangeEnd(pieces.at(-1)!) : end))
    const parts = [...cut(offset, from), ...inside(pieces, from, to), ...cut(to, end)]
    const readPart = async ({ piece, ...part }: Part, signal: AbortSignal | undefined) => {
      const place = target.subarray(part.offset - offset, rangeEnd(part) - offset)
      // Where a piece could not be read, what is asked for may still be: a damaged block is elsewhere in it.
      if (piece !== undefined && (await abortable(piece.there, { signal })))
        place.set(piece.bytes.subarray(part.offset - piece.offset, rangeEnd(part) - piece.offset))
      else await this.#contents.read(place, part.offset, { signal })
    }
    this.#reading += 1
    try {
      if (parts.length === 1) await readPart(parts[0]!, options.signal)
      else await forEachLimited(parts, READS_AT_ONCE, readPart, options)
    } finally {
      this.#reading -= 1
    }
  }

  async *extents(wanted: Range, options: AbortOptions = {}): AsyncGenerator<Extent> {
    const end = rangeEnd(wanted)
    if (!(wanted.offset >= 0 && end <= this.size)) throw new RangeError(`${wanted.offset}+${wanted.length}`)
    let run: Extent | undefined
    for (let at = wanted.offset; at < end; ) {
      const extents = await this.#contents.extents({ offset: at, length: end - at }, options)
      for (const { offset, length, kind: told } of extents) {
        at = offset + length
        // Shorter than any block: only a lie has many of them.
        const kind = length < BLOCK && at < end ? 'data' : told
        if (run?.kind === kind) run = { ...run, length: run.length + length }
        else {
          if (run !== undefined) yield run
          run = { offset, length, kind }
        }
      }
    }
    if (run !== undefined) yield run
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true
    this.#aborting?.abort()
    this.#forget(() => true)
  }

  #foresee(offset: number, end: number): void {
    const inOrder = offset >= this.#expected - OUT_OF_ORDER && offset <= this.#expected + OUT_OF_ORDER
    if (!inOrder) {
      this.#forget(() => true)
      this.#depth = 0
      this.#expected = end
      return
    }
    const isFirst = this.#expected === 0
    this.#expected = Math.max(this.#expected, end)
    const consumed = this.#forget(piece => rangeEnd(piece) + OUT_OF_ORDER <= this.#expected)
    if (this.#depth === 0) this.#depth = isFirst && end - offset < LARGE ? 0 : 1
    else if (consumed || end - offset >= limits.guestReadBytes)
      this.#depth = Math.min(limits.guestReadAheadPieces, this.#depth * 2)
    if (isFirst && this.#depth === 0) return
    // Who has several large reads under way is ahead of himself: pieces would be copies of what he asks for next.
    const isLarge = end - offset >= limits.guestReadBytes
    if (!isLarge || (!isFirst && this.#reading < OWN_READS)) this.#readAhead()
  }

  #readAhead(): void {
    if (this.#pieces.length === 0 || this.#aheadEnd < this.#expected) {
      this.#forget(() => true)
      this.#aheadEnd = this.#expected
    }
    const ahead = () => this.#pieces.filter(piece => piece.offset >= this.#expected).length
    while (this.#aheadEnd < this.size && ahead() < this.#depth) {
      const length = Math.min(limits.guestReadBytes, this.size - this.#aheadEnd)
      if (!this.#budget.take(length)) return
      this.#pieces = [...this.#pieces, this.#begin({ offset: this.#aheadEnd, length })]
      this.#aheadEnd += length
    }
  }

  #begin(range: Range): Piece {
    const bytes = Buffer.allocUnsafeSlow(range.length)
    this.#aborting ??= new AbortController()
    const reading = this.#contents.read(bytes, range.offset, { signal: this.#aborting.signal })
    return {
      ...range,
      bytes,
      there: reading.then(
        () => true,
        () => false,
      ),
    }
  }

  /** Whether there were any. Reads under way keep what they have of them. */
  #forget(which: (piece: Piece) => boolean): boolean {
    const kept = this.#pieces.filter(piece => !which(piece))
    const forgotten = this.#pieces.filter(which)
    for (const { there, length } of forgotten) void there.then(() => this.#budget.give(length))
    this.#pieces = kept
    return forgotten.length > 0
  }
}

interface Part extends Range {
  readonly piece?: Piece
}

function* cut(from: number, to: number): Generator<Part> {
  for (let at = from; at < to; at += limits.guestReadBytes)
    yield { offset: at, length: Math.min(limits.guestReadBytes, to - at) }
}

function* inside(pieces: readonly Piece[], from: number, to: number): Generator<Part> {
  for (const piece of pieces) {
    const offset = Math.max(from, piece.offset)
    const length = Math.min(to, rangeEnd(piece)) - offset
    if (length > 0) yield { offset, length, piece }
  }
}
