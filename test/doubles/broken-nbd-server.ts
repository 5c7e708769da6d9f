/** An NBD server whose every answer is up to the test, in the handshake and after it, and the replies that it makes of them. */
import { createServer, type Socket } from 'node:net'
import * as C from '../../src/nbd/constants.ts'
import { greeting } from '../../src/nbd/handshake.ts'
import * as O from '../../src/nbd/option-codec.ts'
import {
  emptyRequest,
  type HeaderMode,
  parseRequest,
  putChunkHeader,
  putSimpleReply,
  putU64,
  type RequestHeader,
  replyHeaderBytes,
  requestHeaderBytes,
} from '../../src/nbd/wire.ts'

export type Handshake = (option: number) => Uint8Array[]
export type Answer = (
  request: RequestHeader,
  later: (bytes: Uint8Array) => void,
  replies: Replies,
  /** Closes the connection behind what is returned. */
  hangUp: () => void,
) => readonly Uint8Array[]

const ack = (option: number) => O.encodeOptionReply(option, C.NBD_REP_ACK)
const info = (size: number, flags: number) =>
  O.encodeOptionReply(C.NBD_OPT_GO, C.NBD_REP_INFO, O.encodeInfoExport(size, flags))

/** Grants whatever is asked for, and base:allocation under the id 1. */
export const honestHandshake =
  (size: number, flags: number = C.NBD_FLAG_HAS_FLAGS): Handshake =>
  option =>
    option === C.NBD_OPT_SET_META_CONTEXT
      ? [O.encodeOptionReply(option, C.NBD_REP_META_CONTEXT, O.encodeContext(1, C.BASE_ALLOCATION)), ack(option)]
      : option === C.NBD_OPT_GO
        ? [info(size, flags), ack(option)]
        : [ack(option)]

export interface BrokenServer extends AsyncDisposable {
  readonly path: string
}

export async function brokenNbdServer(path: string, answer: Answer, handshake: Handshake): Promise<BrokenServer> {
  const open = new Set<Socket>()
  const server = createServer(socket => {
    open.add(socket)
    let input = Buffer.alloc(0)
    let flags = false
    let transmission = false
    let mode: HeaderMode = 'simple'
    socket.on('error', () => {})
    socket.write(greeting())
    socket.on('data', data => {
      input = Buffer.concat([input, data])
      if (!flags && input.length >= 4) {
        flags = true
        input = input.subarray(4)
      }
      while (flags && !transmission && input.length >= 16) {
        const header = O.parseOptionHeader(input)
        if (header === undefined || input.length < 16 + header.length) return
        input = input.subarray(16 + header.length)
        transmission = header.option === C.NBD_OPT_GO
        const replies = handshake(header.option)
        const granted = O.parseOptionReplyHeader(replies.at(-1) ?? Buffer.alloc(20))?.type === C.NBD_REP_ACK
        if (granted && header.option === C.NBD_OPT_EXTENDED_HEADERS) mode = 'extended'
        if (granted && header.option === C.NBD_OPT_STRUCTURED_REPLY) mode = 'structured'
        for (const bytes of replies) socket.write(bytes)
      }
      const size = requestHeaderBytes(mode)
      while (transmission && input.length >= size) {
        const request = emptyRequest()
        parseRequest(mode, input, 0, request)
        const payload = request.type === C.NBD_CMD_WRITE ? request.length : 0
        if (input.length < size + payload) return
        input = input.subarray(size + payload)
        if (request.type === C.NBD_CMD_DISC) continue
        let last = false
        const hangUp = () => {
          last = true
        }
        for (const bytes of answer(request, later => socket.write(later), new Replies(mode), hangUp))
          socket.write(bytes)
        if (last) socket.end()
      }
    })
  })
  await new Promise<void>(resolve => server.listen(path, resolve))
  return {
    path,
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy()
      await new Promise(resolve => server.close(resolve))
    },
  }
}

const DONE = C.NBD_REPLY_FLAG_DONE

/** Replies of one header mode, as wrong as their arguments. */
export class Replies {
  readonly mode: HeaderMode

  constructor(mode: HeaderMode) {
    this.mode = mode
  }

  chunk(request: RequestHeader, flags: number, type: number, payload: Uint8Array): Buffer {
    const head = replyHeaderBytes(this.mode)
    const bytes = Buffer.alloc(head + payload.length)
    putChunkHeader(this.mode, bytes, 0, flags, type, request, payload.length)
    bytes.set(payload, head)
    return bytes
  }

  /** Sevens, or the bytes given. */
  data(request: RequestHeader, offset: number, content: number | Uint8Array, flags = DONE): Buffer {
    const bytes = typeof content === 'number' ? Buffer.alloc(content, 7) : content
    const payload = Buffer.alloc(8 + bytes.length)
    putU64(payload, 0, offset)
    payload.set(bytes, 8)
    return this.chunk(request, flags, C.NBD_REPLY_TYPE_OFFSET_DATA, payload)
  }

  hole(request: RequestHeader, offset: number, length: number, flags = DONE): Buffer {
    const payload = Buffer.alloc(12)
    putU64(payload, 0, offset)
    payload.writeUInt32BE(length, 8)
    return this.chunk(request, flags, C.NBD_REPLY_TYPE_OFFSET_HOLE, payload)
  }

  none(request: RequestHeader, flags = DONE): Buffer {
    return this.chunk(request, flags, C.NBD_REPLY_TYPE_NONE, Buffer.alloc(0))
  }

  error(request: RequestHeader, errno: number, flags = DONE, text: Uint8Array | string = 'bad'): Buffer {
    const said = Buffer.from(text)
    const payload = Buffer.alloc(6 + said.length)
    payload.writeUInt32BE(errno, 0)
    payload.writeUInt16BE(said.length, 4)
    payload.set(said, 6)
    return this.chunk(request, flags, C.NBD_REPLY_TYPE_ERROR, payload)
  }

  /** Pairs of length and flags. */
  status(request: RequestHeader, flags: number, id: number, ...pairs: number[]): Buffer {
    const wide = this.mode === 'extended'
    const payload = Buffer.alloc(wide ? 8 + 8 * pairs.length : 4 + 4 * pairs.length)
    payload.writeUInt32BE(id)
    if (wide) payload.writeUInt32BE(Math.ceil(pairs.length / 2), 4)
    for (const [i, value] of pairs.entries())
      if (wide) putU64(payload, 8 + 8 * i, value)
      else payload.writeUInt32BE(value, 4 + 4 * i)
    const type = wide ? C.NBD_REPLY_TYPE_BLOCK_STATUS_EXT : C.NBD_REPLY_TYPE_BLOCK_STATUS
    return this.chunk(request, flags, type, payload)
  }

  simple(request: RequestHeader, error = 0, data: Uint8Array = Buffer.alloc(0)): Buffer {
    const bytes = Buffer.alloc(16 + data.length)
    putSimpleReply(bytes, 0, error, request)
    bytes.set(data, 16)
    return bytes
  }
}
