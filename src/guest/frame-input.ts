/**
 * Cuts the server's bytes into replies. A reply's head says whose it is before its body arrives: the body of a READ goes straight
 * to where it belongs, any other is gathered in memory of its length, and what nobody waits for any more is passed over.
 */
import { limits } from '../core/limits.ts'
import { protocolError } from './guest-errors.ts'

export interface ReplyHead {
  readonly tag: number
  readonly errno: number
  readonly length: number
}

/** Who takes replies. */
export interface ReplySink {
  /** Where the body belongs, `head.length` bytes; undefined: nowhere. Throws where the reply cannot be meant. */
  begin(head: ReplyHead): Uint8Array | undefined
  /** The body is there, if it has a place. */
  end(head: ReplyHead): void
}

/** Length, tag, errno. */
const HEAD_BYTES = 10

export class FrameInput {
  readonly #sink: ReplySink
  readonly #headBytes = Buffer.alloc(HEAD_BYTES)
  #headHas = 0
  #head: ReplyHead | undefined
  #target: Uint8Array | undefined
  #bodyHas = 0

  constructor(sink: ReplySink) {
    this.#sink = sink
  }

  /** `bytes` are the caller's again afterwards. Throws 'guest-protocol'. */
  received(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; )
      at += this.#head === undefined ? this.#takeHead(bytes, at) : this.#takeBody(this.#head, bytes, at)
  }

  #takeHead(bytes: Uint8Array, at: number): number {
    const part = bytes.subarray(at, at + HEAD_BYTES - this.#headHas)
    this.#headBytes.set(part, this.#headHas)
    this.#headHas += part.length
    if (this.#headHas < HEAD_BYTES) return part.length
    const length = this.#headBytes.readUInt32LE(0) - 6
    if (length < 0 || length + 6 > limits.guestReplyBytesMax) throw protocolError(`a reply of ${length + 6} bytes`)
    this.#head = { tag: this.#headBytes.readUInt32LE(4), errno: this.#headBytes.readUInt16LE(8), length }
    this.#headHas = 0
    this.#bodyHas = 0
    this.#target = this.#sink.begin(this.#head)
    if (length === 0) this.#finish(this.#head)
    return part.length
  }

  #takeBody(head: ReplyHead, bytes: Uint8Array, at: number): number {
    const part = bytes.subarray(at, at + head.length - this.#bodyHas)
    this.#target?.set(part, this.#bodyHas)
    this.#bodyHas += part.length
    if (this.#bodyHas === head.length) this.#finish(head)
    return part.length
  }

  #finish(head: ReplyHead): void {
    this.#head = undefined
    this.#target = undefined
    this.#sink.end(head)
  }

  /** What belongs to `target` is nobody's any more. */
  passOver(target: Uint8Array): void {
    if (this.#target === target) this.#target = undefined
  }
}
