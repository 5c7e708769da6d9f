/** Every reply that a server sends after the handshake, in all three header modes, appended to one connection's writer. */

import { limits } from '../core/limits.ts'
import * as C from './constants.ts'
import { errorText } from './errno.ts'
import type { ReplyWriter } from './reply-writer.ts'
import {
  type HeaderMode,
  putChunkHeader,
  putSimpleReply,
  putU16,
  putU32,
  putU64,
  type RequestHeader,
  replyHeaderBytes,
} from './wire.ts'

const nothing = () => {}

export class Replies {
  readonly #writer: ReplyWriter
  readonly #mode: HeaderMode
  readonly #header: number

  constructor(writer: ReplyWriter, mode: HeaderMode) {
    this.#writer = writer
    this.#mode = mode
    this.#header = replyHeaderBytes(mode)
  }

  /** Bytes that a READ's reply in one piece takes besides its data. */
  get dataOverhead(): number {
    return this.#mode === 'simple' ? 16 : this.#header + 8
  }

  /** Success without data. In structured mode a simple reply is allowed for everything but READ and BLOCK_STATUS. */
  ok(request: RequestHeader): void {
    if (this.#mode !== 'extended') putSimpleReply(this.#writer.reserve(16), this.#writer.position(16), 0, request)
    else this.#chunk(request, C.NBD_REPLY_FLAG_DONE, C.NBD_REPLY_TYPE_NONE, 0)
  }

  /** Ends a reply whose chunks have all been sent. */
  done(request: RequestHeader): void {
    this.#chunk(request, C.NBD_REPLY_FLAG_DONE, C.NBD_REPLY_TYPE_NONE, 0)
  }

  error(request: RequestHeader, errno: number): void {
    if (this.#mode === 'simple') {
      putSimpleReply(this.#writer.reserve(16), this.#writer.position(16), errno, request)
      return
    }
    const text = Buffer.from(errorText(errno))
    const [b, at] = this.#chunk(request, C.NBD_REPLY_FLAG_DONE, C.NBD_REPLY_TYPE_ERROR, 6 + text.length)
    putU32(b, at, errno)
    putU16(b, at + 4, text.length)
    b.set(text, at + 6)
  }

  /** The data of a READ from `offset`: all of it, or one chunk; `last` marks the end of the reply. */
  data(
    request: RequestHeader,
    offset: number,
    length: number,
    views: readonly Uint8Array[],
    release: () => void,
    last: boolean,
  ): void {
    const overhead = this.dataOverhead
    const copied = length <= limits.nbdCopyMax ? length : 0
    const b = this.#writer.reserve(overhead + copied)
    let at = this.#writer.position(overhead + copied)
    if (this.#mode === 'simple') at = putSimpleReply(b, at, 0, request)
    else {
      const flags = last ? C.NBD_REPLY_FLAG_DONE : 0
      at = putChunkHeader(this.#mode, b, at, flags, C.NBD_REPLY_TYPE_OFFSET_DATA, request, 8 + length)
      putU64(b, at, offset)
      at += 8
    }
    if (copied === 0 && length > 0) {
      this.#writer.views(views, release)
      return
    }
    for (const view of views) {
      b.set(view, at)
      at += view.length
    }
    release()
  }

  hole(request: RequestHeader, offset: number, length: number, last: boolean): void {
    const [b, at] = this.#chunk(request, last ? C.NBD_REPLY_FLAG_DONE : 0, C.NBD_REPLY_TYPE_OFFSET_HOLE, 12)
    putU64(b, at, offset)
    putU32(b, at + 8, length)
  }

  /** The list of one context, encoded for this mode. */
  blockStatus(request: RequestHeader, payload: Buffer, last: boolean): void {
    const flags = last ? C.NBD_REPLY_FLAG_DONE : 0
    const type = this.#mode === 'extended' ? C.NBD_REPLY_TYPE_BLOCK_STATUS_EXT : C.NBD_REPLY_TYPE_BLOCK_STATUS
    const b = this.#writer.reserve(this.#header)
    putChunkHeader(this.#mode, b, this.#writer.position(this.#header), flags, type, request, payload.length)
    if (payload.length > limits.nbdCopyMax) this.#writer.views([payload], nothing)
    else this.#writer.reserve(payload.length).set(payload, this.#writer.position(payload.length))
  }

  #chunk(request: RequestHeader, flags: number, type: number, length: number): [Buffer, number] {
    const size = this.#header + length
    const b = this.#writer.reserve(size)
    const at = this.#writer.position(size)
    return [b, putChunkHeader(this.#mode, b, at, flags, type, request, length)]
  }
}
