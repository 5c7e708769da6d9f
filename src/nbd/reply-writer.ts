/**
 * Replies of one wake-up leave in one write. Small ones are copied into a preallocated buffer, large payloads are written from
 * where they lie, and nothing is reused or released before the write's callback.
 */
import { limits } from '../core/limits.ts'
import type { ConnectionBytes } from './bytes-in-flight.ts'

/** Output buffers, shared by a server's connections. A connection holds one while replies of it are on their way, or more where they are many. */
export class BufferPool {
  readonly #free: OutputBuffer[] = []

  take(): OutputBuffer {
    return this.#free.pop() ?? { bytes: Buffer.allocUnsafeSlow(limits.nbdOutputBytes), writes: 0, full: false }
  }

  give(buffer: OutputBuffer): void {
    buffer.full = false
    if (this.#free.length < 16) this.#free.push(buffer)
  }
}

/** Free again when it is full and none of its segments is still being written. */
interface OutputBuffer {
  readonly bytes: Buffer
  writes: number
  full: boolean
}

/** What of a socket the writer needs. */
export interface ReplySocket {
  /** The bytes are the socket's until `taken`, which is called once, also when the socket is destroyed. */
  write(bytes: Uint8Array, taken: () => void): unknown
  cork(): void
  uncork(): void
}

export class ReplyWriter {
  readonly #socket: ReplySocket
  readonly #pool: BufferPool
  readonly #bytes: ConnectionBytes
  readonly #written: () => void
  #out: OutputBuffer | undefined
  #start = 0
  #at = 0
  #corked = false
  #scheduled = false
  /** Bytes appended and not yet taken by the kernel. */
  pending = 0

  constructor(socket: ReplySocket, pool: BufferPool, bytes: ConnectionBytes, written: () => void) {
    this.#socket = socket
    this.#pool = pool
    this.#bytes = bytes
    this.#written = written
  }

  /** Room for `length` (at most the size of a buffer) bytes, to be filled at `position` of the result in this same turn. */
  reserve(length: number): Buffer {
    if (this.#out !== undefined && this.#at + length > this.#out.bytes.length) this.#emit(true)
    this.#out ??= this.#pool.take()
    this.#at += length
    this.#charge(length)
    return this.#out.bytes
  }

  /** Where the bytes of the last `reserve(length)` begin. */
  position(length: number): number {
    return this.#at - length
  }

  /** Appends views; `release` is called when the kernel has them, or never will. */
  views(views: readonly Uint8Array[], release: () => void): void {
    if (!this.#corked) {
      this.#socket.cork()
      this.#corked = true
    }
    this.#emit(false)
    const last = views.length - 1
    if (last < 0) release()
    for (const [i, view] of views.entries()) {
      this.#charge(view.length)
      this.#socket.write(view, () => {
        this.#done(view.length)
        if (i === last) release()
      })
    }
  }

  /** Sends what was appended in this turn. */
  flush(): void {
    this.#emit(false)
    if (this.#corked) {
      this.#corked = false
      this.#socket.uncork()
    }
  }

  /** Sends at the end of the turn, so that completions that arrive together leave together. */
  flushSoon(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    process.nextTick(() => {
      this.#scheduled = false
      this.flush()
    })
  }

  #emit(last: boolean): void {
    const out = this.#out
    if (out === undefined) return
    const segment = out.bytes.subarray(this.#start, this.#at)
    this.#start = this.#at
    if (segment.length > 0) {
      out.writes++
      this.#socket.write(segment, () => {
        out.writes--
        this.#giveBack(out)
        this.#done(segment.length)
      })
    }
    if (last) this.#retire(out)
  }

  /** What comes next goes to another one. */
  #retire(out: OutputBuffer): void {
    out.full = true
    this.#out = undefined
    this.#start = this.#at = 0
    this.#giveBack(out)
  }

  /**
   * The next turn goes on in the same buffer: a slow client's replies of a hundred turns are on their way at once, and a buffer for
   * each of them would be new memory for each, which V8 answers with full collections. Without replies nobody keeps one.
   */
  #giveBack(out: OutputBuffer): void {
    if (out.writes > 0) return
    if (out.full) this.#pool.give(out)
    else if (this.#start === this.#at) this.#retire(out)
  }

  #charge(length: number): void {
    this.pending += length
    this.#bytes.charge(length)
  }

  #done(length: number): void {
    this.pending -= length
    this.#bytes.release(length)
    this.#written()
  }
}
