/**
 * NBD: a device published to, or read from, another program.
 *
 * What it is: the NBD protocol, fixed newstyle, in its three header modes. This file is the pure codec of the transmission
 * phase in both directions; `handshake.ts` and `client-handshake.ts` are the haggling before it, `server.ts` and `client.ts`
 * the two ends, and nothing else in the folder is for others to import.
 * What it guarantees: every size, count and offset of the peer is bounded before memory is allocated; nothing that a client
 * sends ends the process; a peer that breaks the protocol costs its own connection and no more.
 * What it does not know: where an exported device's bytes come from, and what a client does with what it reads.
 */
import {
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_REQUEST_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
} from './constants.ts'

/** How both sides frame what they send after the handshake. */
export type HeaderMode = 'simple' | 'structured' | 'extended'

const TWO_32 = 2 ** 32

/** One request's header. Mutable, so that the loop that parses requests can use one record for all of them. */
export interface RequestHeader {
  flags: number
  type: number
  cookieHi: number
  cookieLo: number
  /** Inexact above 2^53, where it still compares as too large; the halves are exact. */
  offset: number
  offsetHi: number
  offsetLo: number
  length: number
}

export const emptyRequest = (): RequestHeader => ({
  flags: 0,
  type: 0,
  cookieHi: 0,
  cookieLo: 0,
  offset: 0,
  offsetHi: 0,
  offsetLo: 0,
  length: 0,
})

export const requestHeaderBytes = (mode: HeaderMode): number => (mode === 'extended' ? 32 : 28)

/** A chunk's header: 16 bytes simple, 20 structured, 32 extended. */
export const replyHeaderBytes = (mode: HeaderMode): number => (mode === 'simple' ? 16 : mode === 'structured' ? 20 : 32)

const u32 = (b: Uint8Array, at: number): number =>
  (b[at]! * 0x1000000 + ((b[at + 1]! << 16) | (b[at + 2]! << 8) | b[at + 3]!)) >>> 0

const putU32 = (b: Uint8Array, at: number, value: number): void => {
  b[at] = value >>> 24
  b[at + 1] = value >>> 16
  b[at + 2] = value >>> 8
  b[at + 3] = value
}

const putU16 = (b: Uint8Array, at: number, value: number): void => {
  b[at] = value >>> 8
  b[at + 1] = value
}

/** Unsigned 64 bits as a number: exact to 2^53, beyond that merely large. */
export const readU64 = (b: Uint8Array, at: number): number => u32(b, at) * TWO_32 + u32(b, at + 4)

export const putU64 = (b: Uint8Array, at: number, value: number): void => {
  putU32(b, at, Math.floor(value / TWO_32))
  putU32(b, at + 4, value % TWO_32)
}

export { putU16, putU32, u32 as readU32 }

export const readU16 = (b: Uint8Array, at: number): number => (b[at]! << 8) | b[at + 1]!

/** Parses the request at `at` into `into`; false means a wrong magic, after which the stream has no meaning. */
export function parseRequest(mode: HeaderMode, b: Uint8Array, at: number, into: RequestHeader): boolean {
  if (u32(b, at) !== (mode === 'extended' ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC)) return false
  into.flags = readU16(b, at + 4)
  into.type = readU16(b, at + 6)
  into.cookieHi = u32(b, at + 8)
  into.cookieLo = u32(b, at + 12)
  into.offsetHi = u32(b, at + 16)
  into.offsetLo = u32(b, at + 20)
  into.offset = into.offsetHi * TWO_32 + into.offsetLo
  into.length = mode === 'extended' ? readU64(b, at + 24) : u32(b, at + 24)
  return true
}

/** Writes a request's header at `at` and returns the position after it. */
export function putRequest(mode: HeaderMode, b: Uint8Array, at: number, request: RequestHeader): number {
  putU32(b, at, mode === 'extended' ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC)
  putU16(b, at + 4, request.flags)
  putU16(b, at + 6, request.type)
  putU32(b, at + 8, request.cookieHi)
  putU32(b, at + 12, request.cookieLo)
  putU32(b, at + 16, request.offsetHi)
  putU32(b, at + 20, request.offsetLo)
  if (mode === 'extended') putU64(b, at + 24, request.length)
  else putU32(b, at + 24, request.length)
  return at + requestHeaderBytes(mode)
}

/** A simple reply: the data of a successful READ follows it. */
export function putSimpleReply(b: Uint8Array, at: number, error: number, request: RequestHeader): number {
  putU32(b, at, NBD_SIMPLE_REPLY_MAGIC)
  putU32(b, at + 4, error)
  putU32(b, at + 8, request.cookieHi)
  putU32(b, at + 12, request.cookieLo)
  return at + 16
}

/** The header of one chunk; `length` bytes of payload follow it. */
export function putChunkHeader(
  mode: HeaderMode,
  b: Uint8Array,
  at: number,
  flags: number,
  type: number,
  request: RequestHeader,
  length: number,
): number {
  putU32(b, at, mode === 'extended' ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC)
  putU16(b, at + 4, flags)
  putU16(b, at + 6, type)
  putU32(b, at + 8, request.cookieHi)
  putU32(b, at + 12, request.cookieLo)
  if (mode !== 'extended') {
    putU32(b, at + 16, length)
    return at + 20
  }
  putU32(b, at + 16, request.offsetHi)
  putU32(b, at + 20, request.offsetLo)
  putU64(b, at + 24, length)
  return at + 32
}

/** What a client reads: a simple reply or the header of a chunk. */
export interface ReplyHeader {
  kind: 'simple' | 'chunk'
  flags: number
  type: number
  /** Of simple replies. */
  error: number
  cookieHi: number
  cookieLo: number
  /** Of extended chunks: must repeat the request's offset. */
  offset: number
  /** Bytes of payload that follow; for simple replies the request knows. */
  length: number
}

export const emptyReply = (): ReplyHeader => ({
  kind: 'simple',
  flags: 0,
  type: 0,
  error: 0,
  cookieHi: 0,
  cookieLo: 0,
  offset: 0,
  length: 0,
})

/**
 * Parses a reply's header at `at`, of which `available` bytes are there. Returns its size, 0 where more bytes are needed,
 * and -1 for a magic that this mode does not allow: in structured mode a server may answer anything but READ simply.
 */
export function parseReply(mode: HeaderMode, b: Uint8Array, at: number, available: number, into: ReplyHeader): number {
  if (available < 16) return 0
  const magic = u32(b, at)
  if (magic === NBD_SIMPLE_REPLY_MAGIC && mode !== 'extended') {
    into.kind = 'simple'
    into.error = u32(b, at + 4)
    into.cookieHi = u32(b, at + 8)
    into.cookieLo = u32(b, at + 12)
    into.flags = into.type = into.length = into.offset = 0
    return 16
  }
  const wanted = mode === 'extended' ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC
  if (magic !== wanted || mode === 'simple') return -1
  const size = replyHeaderBytes(mode)
  if (available < size) return 0
  into.kind = 'chunk'
  into.error = 0
  into.flags = readU16(b, at + 4)
  into.type = readU16(b, at + 6)
  into.cookieHi = u32(b, at + 8)
  into.cookieLo = u32(b, at + 12)
  into.offset = mode === 'extended' ? readU64(b, at + 16) : 0
  into.length = mode === 'extended' ? readU64(b, at + 24) : u32(b, at + 16)
  return size
}
