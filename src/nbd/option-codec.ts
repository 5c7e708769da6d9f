/** Pure codec of the handshake: options, their replies and the strings in them. Parsers give undefined where lengths do not add up. */
import * as C from './constants.ts'
import { putU16, putU32, putU64, readU16, readU32, readU64 } from './wire.ts'

export interface OptionHeader {
  readonly option: number
  readonly length: number
}

export const OPTION_HEADER_BYTES = 16
export const OPTION_REPLY_HEADER_BYTES = 20

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** A string of the protocol: UTF-8 without NUL, at most 4096 bytes. */
export function parseString(bytes: Uint8Array): string | undefined {
  if (bytes.length > C.NBD_MAX_STRING || bytes.includes(0)) return undefined
  try {
    return strict.decode(bytes)
  } catch {
    return undefined
  }
}

export function encodeOption(option: number, payload: Uint8Array): Buffer {
  const bytes = Buffer.alloc(OPTION_HEADER_BYTES + payload.length)
  bytes.set(C.IHAVEOPT, 0)
  putU32(bytes, 8, option)
  putU32(bytes, 12, payload.length)
  bytes.set(payload, OPTION_HEADER_BYTES)
  return bytes
}

export function parseOptionHeader(bytes: Uint8Array): OptionHeader | undefined {
  if (C.IHAVEOPT.compare(bytes, 0, 8) !== 0) return undefined
  return { option: readU32(bytes, 8), length: readU32(bytes, 12) }
}

export function encodeOptionReply(option: number, type: number, payload: Uint8Array | string = ''): Buffer {
  const data = typeof payload === 'string' ? Buffer.from(payload) : payload
  const bytes = Buffer.alloc(OPTION_REPLY_HEADER_BYTES + data.length)
  putU32(bytes, 0, C.NBD_OPTION_REPLY_MAGIC_HI)
  putU32(bytes, 4, C.NBD_OPTION_REPLY_MAGIC_LO)
  putU32(bytes, 8, option)
  putU32(bytes, 12, type)
  putU32(bytes, 16, data.length)
  bytes.set(data, OPTION_REPLY_HEADER_BYTES)
  return bytes
}

export interface OptionReplyHeader {
  readonly option: number
  readonly type: number
  readonly length: number
}

export function parseOptionReplyHeader(bytes: Uint8Array): OptionReplyHeader | undefined {
  if (readU32(bytes, 0) !== C.NBD_OPTION_REPLY_MAGIC_HI || readU32(bytes, 4) !== C.NBD_OPTION_REPLY_MAGIC_LO)
    return undefined
  return { option: readU32(bytes, 8), type: readU32(bytes, 12), length: readU32(bytes, 16) }
}

/** INFO and GO: the name and what the client wants to know. */
export function parseGo(payload: Uint8Array): { name: string; wants: ReadonlySet<number> } | undefined {
  if (payload.length < 6) return undefined
  const nameLength = readU32(payload, 0)
  if (nameLength > payload.length - 6) return undefined
  const count = readU16(payload, 4 + nameLength)
  if (payload.length !== 6 + nameLength + 2 * count) return undefined
  const name = parseString(payload.subarray(4, 4 + nameLength))
  if (name === undefined) return undefined
  const wants = new Set<number>()
  for (let i = 0; i < count; i++) wants.add(readU16(payload, 6 + nameLength + 2 * i))
  return { name, wants }
}

export function encodeGo(name: string, wants: readonly number[]): Buffer {
  const text = Buffer.from(name)
  const bytes = Buffer.alloc(6 + text.length + 2 * wants.length)
  putU32(bytes, 0, text.length)
  bytes.set(text, 4)
  putU16(bytes, 4 + text.length, wants.length)
  for (const [i, want] of wants.entries()) putU16(bytes, 6 + text.length + 2 * i, want)
  return bytes
}

/** LIST_META_CONTEXT and SET_META_CONTEXT. */
export function parseMetaQueries(payload: Uint8Array): { name: string; queries: string[] } | undefined {
  if (payload.length < 8) return undefined
  const nameLength = readU32(payload, 0)
  if (nameLength > payload.length - 8) return undefined
  const name = parseString(payload.subarray(4, 4 + nameLength))
  if (name === undefined) return undefined
  const count = readU32(payload, 4 + nameLength)
  let at = 8 + nameLength
  if (count > (payload.length - at) / 4) return undefined
  const queries: string[] = []
  for (let i = 0; i < count; i++) {
    if (payload.length - at < 4) return undefined
    const length = readU32(payload, at)
    if (length > payload.length - at - 4) return undefined
    const query = parseString(payload.subarray(at + 4, at + 4 + length))
    if (query === undefined) return undefined
    queries.push(query)
    at += 4 + length
  }
  return at === payload.length ? { name, queries } : undefined
}

export function encodeMetaQueries(name: string, queries: readonly string[]): Buffer {
  const strings = [name, ...queries].map(text => Buffer.from(text))
  const bytes = Buffer.alloc(8 + 4 * queries.length + strings.reduce((sum, text) => sum + text.length, 0))
  let at = 0
  strings.forEach((text, i) => {
    putU32(bytes, at, text.length)
    bytes.set(text, at + 4)
    at += 4 + text.length
    if (i > 0) return
    putU32(bytes, at, queries.length)
    at += 4
  })
  return bytes
}

export function encodeContext(id: number, name: string): Buffer {
  const text = Buffer.from(name)
  const bytes = Buffer.alloc(4 + text.length)
  putU32(bytes, 0, id)
  bytes.set(text, 4)
  return bytes
}

/** NBD_REP_SERVER: a name, and a text for people in what remains of the payload. */
export function encodeServer(name: string, description: string): Buffer {
  const text = Buffer.from(name)
  const rest = Buffer.from(description)
  const bytes = Buffer.alloc(4 + text.length + rest.length)
  putU32(bytes, 0, text.length)
  bytes.set(text, 4)
  bytes.set(rest, 4 + text.length)
  return bytes
}

export function parseServer(payload: Uint8Array): { name: string; description: string } | undefined {
  if (payload.length < 4) return undefined
  const length = readU32(payload, 0)
  if (length > payload.length - 4) return undefined
  const name = parseString(payload.subarray(4, 4 + length))
  const description = parseString(payload.subarray(4 + length))
  return name === undefined || description === undefined ? undefined : { name, description }
}

export function encodeInfoExport(size: number, flags: number): Buffer {
  const bytes = Buffer.alloc(12)
  putU16(bytes, 0, C.NBD_INFO_EXPORT)
  putU64(bytes, 2, size)
  putU16(bytes, 10, flags)
  return bytes
}

export function encodeInfoText(info: number, text: string): Buffer {
  const data = Buffer.from(text)
  const bytes = Buffer.alloc(2 + data.length)
  putU16(bytes, 0, info)
  bytes.set(data, 2)
  return bytes
}

export function encodeInfoBlockSize(minimum: number, preferred: number, maximum: number): Buffer {
  const bytes = Buffer.alloc(14)
  putU16(bytes, 0, C.NBD_INFO_BLOCK_SIZE)
  putU32(bytes, 2, minimum)
  putU32(bytes, 6, preferred)
  putU32(bytes, 10, maximum)
  return bytes
}

export type Info =
  | { readonly info: 'export'; readonly size: number; readonly flags: number }
  | { readonly info: 'block-size'; readonly minimum: number; readonly preferred: number; readonly maximum: number }
  | { readonly info: 'text'; readonly type: number; readonly text: string }
  | { readonly info: 'other' }

/** One NBD_REP_INFO as the client reads it. */
export function parseInfo(payload: Uint8Array): Info | undefined {
  if (payload.length < 2) return undefined
  const type = readU16(payload, 0)
  if (type === C.NBD_INFO_EXPORT)
    return payload.length === 12
      ? { info: 'export', size: readU64(payload, 2), flags: readU16(payload, 10) }
      : undefined
  if (type === C.NBD_INFO_BLOCK_SIZE) {
    if (payload.length !== 14) return undefined
    const [minimum, preferred, maximum] = [readU32(payload, 2), readU32(payload, 6), readU32(payload, 10)]
    return { info: 'block-size', minimum, preferred, maximum }
  }
  if (type !== C.NBD_INFO_NAME && type !== C.NBD_INFO_DESCRIPTION) return { info: 'other' }
  const text = parseString(payload.subarray(2))
  return text === undefined ? undefined : { info: 'text', type, text }
}
