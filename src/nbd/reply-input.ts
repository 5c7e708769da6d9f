/**
 * What a server sends after the handshake, taken apart into replies: headers from a buffer of its own, much data straight into the
 * callers' memory. What no honest server sends throws 'nbd-protocol'.
 */
import { limits } from '../core/limits.ts'
import type { CallInFlight, CallsInFlight } from './calls-in-flight.ts'
import { protocolError } from './client-handshake.ts'
import * as C from './constants.ts'
import { emptyReply, type HeaderMode, parseReply, type ReplyHeader, readU64 } from './wire.ts'

/** A chunk whose payload is being read: into the caller's memory, into one of its own, or nowhere. */
interface Chunk {
  readonly call: CallInFlight
  readonly header: ReplyHeader
  readonly into: Uint8Array | undefined
  /** The payload is the caller's data, not something to be parsed. */
  readonly data: boolean
  readonly length: number
  filled: number
}

/** Room for a part of a header, in front of what comes behind it. */
const HEADROOM = 64
/** The protocol's longest list of extents. */
const STATUS_MAX = 8 + 16 * 2 ** 20
const ERROR_MAX = 64 * 1024

export class ReplyInput {
  #mode: HeaderMode = 'simple'
  readonly #calls: CallsInFlight
  readonly #buffer = Buffer.allocUnsafeSlow(HEADROOM + limits.nbdInputBytes)
  readonly #landing: Uint8Array = this.#buffer.subarray(HEADROOM)
  #start = HEADROOM
  #end = HEADROOM
  readonly #reply = emptyReply()
  #chunk: Chunk | undefined

  constructor(calls: CallsInFlight) {
    this.#calls = calls
  }

  /** The handshake has ended; replies follow. */
  begin(mode: HeaderMode): void {
    this.#mode = mode
  }

  /** Nothing lands in anybody's memory any more. */
  stop(): void {
    this.#chunk = undefined
  }

  /** Where the next bytes land: in the caller's memory if much of a chunk is missing. */
  target(): Uint8Array {
    const chunk = this.#chunk
    if (chunk?.into === undefined || chunk.length - chunk.filled < limits.nbdCopyMax) return this.#landing
    return chunk.into.subarray(chunk.filled, chunk.length)
  }

  /** The first `length` bytes of what `target` gave have come. */
  received(buffer: Uint8Array, length: number): void {
    if (buffer !== this.#landing) {
      this.#advance(this.#chunk, length)
      return
    }
    this.#end = HEADROOM + length
    while (this.#step()) {}
    const rest = this.#end - this.#start
    this.#buffer.copyWithin(HEADROOM - rest, this.#start, this.#end)
    this.#start = HEADROOM - rest
    this.#end = HEADROOM
  }

  /** Goes through the input by one header or one part of a payload; false when more must come. */
  #step(): boolean {
    const available = this.#end - this.#start
    const chunk = this.#chunk
    if (chunk !== undefined) {
      const length = Math.min(available, chunk.length - chunk.filled)
      chunk.into?.set(this.#buffer.subarray(this.#start, this.#start + length), chunk.filled)
      this.#start += length
      this.#advance(chunk, length)
      return length > 0
    }
    const reply = this.#reply
    const size = parseReply(this.#mode, this.#buffer, this.#start, available, reply)
    if (size < 0) throw protocolError('bad magic in a reply')
    if (size === 0) return false
    const isData = reply.kind === 'chunk' && reply.type === C.NBD_REPLY_TYPE_OFFSET_DATA
    if (isData && reply.length <= OFFSET_BYTES) throw protocolError('a data chunk without data')
    if (isData && available < size + OFFSET_BYTES) return false
    const call = this.#calls.find(reply.cookieHi, reply.cookieLo)
    if (call === undefined) throw protocolError('a reply to no request')
    if (reply.kind === 'simple') this.#simple(call)
    else if (isData) this.#data(call, readU64(this.#buffer, this.#start + size))
    else this.#control(call)
    this.#start += isData ? size + OFFSET_BYTES : size
    return true
  }

  #simple(call: CallInFlight): void {
    const { assembly } = call
    const { type, length } = assembly.request
    if (this.#mode === 'structured' && (type === C.NBD_CMD_READ || type === C.NBD_CMD_BLOCK_STATUS))
      throw protocolError('a simple reply where chunks are due')
    const { error } = this.#reply
    if (error !== 0) assembly.fail(error)
    if (error !== 0 || type !== C.NBD_CMD_READ || length === 0) {
      this.#calls.finish(call)
      return
    }
    assembly.cover(assembly.request.offset, length)
    const into = call.isAbandoned ? undefined : assembly.target
    const header = { ...this.#reply, flags: C.NBD_REPLY_FLAG_DONE }
    this.#land({ call, header, into, data: true, length, filled: 0 })
  }

  #data(call: CallInFlight, offset: number): void {
    this.#checkOffset(call)
    const length = this.#reply.length - OFFSET_BYTES
    const start = call.assembly.cover(offset, length)
    const into = call.isAbandoned ? undefined : call.assembly.target?.subarray(start, start + length)
    this.#land({ call, header: { ...this.#reply }, into, data: true, length, filled: 0 })
  }

  #control(call: CallInFlight): void {
    this.#checkOffset(call)
    const { type, length } = this.#reply
    const status = type === C.NBD_REPLY_TYPE_BLOCK_STATUS || type === C.NBD_REPLY_TYPE_BLOCK_STATUS_EXT
    if (length > (status ? STATUS_MAX : ERROR_MAX)) throw protocolError('a chunk that is too long')
    const into = Buffer.allocUnsafe(length)
    const chunk = { call, header: { ...this.#reply }, into, data: false, length, filled: 0 }
    if (length === 0) this.#complete(chunk)
    else this.#land(chunk)
  }

  #checkOffset({ assembly }: CallInFlight): void {
    if (this.#mode === 'extended' && this.#reply.offset !== assembly.request.offset)
      throw protocolError('a reply with the offset of another request')
  }

  #land(chunk: Chunk): void {
    this.#chunk = chunk
    chunk.call.landing()
  }

  #advance(chunk: Chunk | undefined, length: number): void {
    if (chunk === undefined) return
    chunk.filled += length
    if (chunk.filled < chunk.length) return
    this.#chunk = undefined
    this.#complete(chunk)
  }

  #complete({ call, header, into, data }: Chunk): void {
    if (!data) this.#interpret(call, header, into ?? new Uint8Array(0))
    if ((header.flags & C.NBD_REPLY_FLAG_DONE) !== 0) this.#calls.finish(call)
    else call.landed()
  }

  #interpret({ assembly, isAbandoned }: CallInFlight, { type, flags }: ReplyHeader, payload: Uint8Array): void {
    if ((type & C.NBD_REPLY_TYPE_ERROR_BIT) !== 0) assembly.errorChunk(payload, type)
    else if (type === C.NBD_REPLY_TYPE_OFFSET_HOLE) {
      const { start, length } = assembly.hole(payload)
      if (!isAbandoned) assembly.target?.fill(0, start, start + length)
    } else if (type === C.NBD_REPLY_TYPE_NONE) {
      if (payload.length > 0 || (flags & C.NBD_REPLY_FLAG_DONE) === 0) throw protocolError('a malformed empty chunk')
    } else {
      const extended = this.#mode === 'extended'
      const due = extended ? C.NBD_REPLY_TYPE_BLOCK_STATUS_EXT : C.NBD_REPLY_TYPE_BLOCK_STATUS
      if (type !== due) throw protocolError('an unknown kind of chunk')
      assembly.blockStatus(payload, extended)
    }
  }
}

/** In front of the data of a chunk. */
const OFFSET_BYTES = 8
