/**
 * The layout of a pack around its records (docs/repository-format.md, section 4): footer rows, checksums, trailer. Pure
 * codecs over bytes; sealing the rows is pack-footer.ts. Every number is compared with its limit, and all of them with the
 * object's size, before anything is allocated from it.
 */
import { createHash } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { LifeboatError } from '../core/errors.ts'
import { hex, type PackId, packId, unhex } from '../core/ids.ts'
import { limits, MiB } from '../core/limits.ts'
import type { Range } from '../core/range.ts'

export type PackKind = 'data' | 'meta'

export const trailerBytes = 64
export const idPrefixBytes = 20
/** A GCM tag. */
export const tagBytes = 16
/** Codec (u8), content length (u24) and the tag: what a record adds to its payload. */
export const recordOverhead = 4 + tagBytes
/** Salt and tag around the rows. */
export const footerOverhead = 16 + tagBytes

const magic = new Uint8Array([0x4c, 0x42, 0x50, 0x41, 0x43, 0x4b, 0x31, 0x0a])
const kindCodes = { data: 1, meta: 2 } as const
/** Checksums are taken over this many stored bytes each. */
export const checksumUnit = MiB
export const checksumBytes = 32

export interface PackTrailer {
  readonly kind: PackKind
  readonly epoch: number
  /** Rows name their origin: an object `<pack>.<run>`. */
  readonly rewritten: boolean
  readonly pack: PackId
  readonly rowCount: number
  readonly bodyLength: number
  readonly footerLength: number
  readonly checksumsLength: number
  readonly checksumsCrc: number
}

/** Columns of the rows, by position in the object. For a pack as first written, position = slot. */
export interface PackRows {
  readonly count: number
  /** 20 bytes a row. */
  readonly idPrefixes: Uint8Array
  /** Stored lengths. */
  readonly lengths: Uint32Array
  /** Where each record begins: the sums of the lengths before. */
  readonly offsets: Uint32Array
  /** Rewritten objects only: 16 bytes a row, and the slot there. */
  readonly origins?: { readonly packs: Uint8Array; readonly slots: Uint16Array }
}

const rowBytes = (rewritten: boolean): number => idPrefixBytes + 3 + (rewritten ? 18 : 0)

/** Length of the footer as stored. */
export const footerLength = (rowCount: number, rewritten: boolean): number =>
  footerOverhead + rowCount * rowBytes(rewritten)

export const checksumsLength = (checkedLength: number): number =>
  Math.ceil(checkedLength / checksumUnit) * checksumBytes

export const footerRange = (trailer: PackTrailer): Range => ({
  offset: trailer.bodyLength,
  length: trailer.footerLength,
})

const view = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

export function encodeTrailer(trailer: PackTrailer): Uint8Array {
  const bytes = new Uint8Array(trailerBytes)
  const out = view(bytes)
  bytes.set(magic)
  bytes[8] = kindCodes[trailer.kind]
  bytes[9] = trailer.epoch
  bytes[10] = trailer.rewritten ? 1 : 0
  bytes.set(unhex(trailer.pack), 12)
  out.setUint32(28, trailer.rowCount)
  out.setBigUint64(32, BigInt(trailer.bodyLength))
  out.setUint32(40, trailer.footerLength)
  out.setUint32(44, trailer.checksumsLength)
  out.setUint32(48, trailer.checksumsCrc)
  out.setUint32(60, crc32(bytes.subarray(0, 60)))
  return bytes
}

function torn(object: string, what: string): LifeboatError {
  return new LifeboatError('corrupt-object', `pack ${object} is damaged: ${what}`, {
    details: { object },
    hint: 'Run `lifeboat verify` to see which points it harms.',
  })
}

function absurd(object: string, what: string): LifeboatError {
  return new LifeboatError('absurd-object', `pack ${object} is refused: ${what}`, {
    details: { object },
    hint: 'Run `lifeboat verify` to see which points it harms.',
  })
}

/** `bytes` are the last 64 of the object, `objectSize` its size by the store. The result is consistent in itself and with that size. */
export function parseTrailer(bytes: Uint8Array, objectSize: number, object: string): PackTrailer {
  if (bytes.length !== trailerBytes || objectSize < trailerBytes + footerOverhead) throw torn(object, 'it is cut short')
  const input = view(bytes)
  if (!magic.every((byte, at) => bytes[at] === byte)) throw torn(object, 'its trailer is not one')
  if (input.getUint32(60) !== crc32(bytes.subarray(0, 60))) throw torn(object, 'the checksum of its trailer is wrong')
  const kind = bytes[8] === kindCodes.data ? 'data' : bytes[8] === kindCodes.meta ? 'meta' : undefined
  if (kind === undefined) throw absurd(object, `kind ${bytes[8]}`)
  if ((bytes[10]! & ~1) !== 0 || bytes[11] !== 0 || input.getBigUint64(52) !== 0n) throw absurd(object, 'unknown flags')
  if (bytes[9] !== bytes[12]) throw absurd(object, 'epoch and pack id disagree')
  if (objectSize > limits.packObjectMax) throw absurd(object, `${objectSize} bytes`)
  const rewritten = bytes[10] === 1
  const rowCount = input.getUint32(28)
  const body = input.getBigUint64(32)
  const footer = input.getUint32(40)
  const checksums = input.getUint32(44)
  if (rowCount < 1 || rowCount > limits.packSlotsMax) throw absurd(object, `${rowCount} rows`)
  if (footer > limits.packFooterMax || footer !== footerLength(rowCount, rewritten))
    throw absurd(object, `a footer of ${footer} bytes for ${rowCount} rows`)
  if (body > BigInt(limits.packObjectMax)) throw absurd(object, `a body of ${body} bytes`)
  const bodyLength = Number(body)
  if (bodyLength <= rowCount * recordOverhead) throw absurd(object, `a body of ${body} bytes for ${rowCount} rows`)
  if (checksums !== checksumsLength(bodyLength + footer)) throw absurd(object, `checksums of ${checksums} bytes`)
  if (bodyLength + footer + checksums + trailerBytes !== objectSize)
    throw torn(object, `it should have ${bodyLength + footer + checksums + trailerBytes} bytes and has ${objectSize}`)
  return {
    kind,
    epoch: bytes[9]!,
    rewritten,
    pack: packId(hex(bytes.subarray(12, 28))),
    rowCount,
    bodyLength,
    footerLength: footer,
    checksumsLength: checksums,
    checksumsCrc: input.getUint32(48),
  }
}

/** The plaintext of the footer. */
export function encodeRows(rows: Omit<PackRows, 'offsets'>): Uint8Array {
  const stride = rowBytes(rows.origins !== undefined)
  const bytes = new Uint8Array(rows.count * stride)
  const out = view(bytes)
  for (let row = 0, at = 0; row < rows.count; row++, at += stride) {
    bytes.set(rows.idPrefixes.subarray(row * idPrefixBytes, (row + 1) * idPrefixBytes), at)
    const length = rows.lengths[row]!
    bytes[at + 20] = length >>> 16
    out.setUint16(at + 21, length & 0xffff)
    if (rows.origins) {
      bytes.set(rows.origins.packs.subarray(row * 16, (row + 1) * 16), at + 23)
      out.setUint16(at + 39, rows.origins.slots[row]!)
    }
  }
  return bytes
}

/** `bytes` is the opened footer of the object that `trailer` describes. */
export function parseRows(bytes: Uint8Array, trailer: PackTrailer, object: string): PackRows {
  const { rowCount: count, rewritten } = trailer
  const stride = rowBytes(rewritten)
  if (bytes.length !== count * stride) throw absurd(object, `rows of ${bytes.length} bytes for ${count} rows`)
  const input = view(bytes)
  const idPrefixes = new Uint8Array(count * idPrefixBytes)
  const lengths = new Uint32Array(count)
  const offsets = new Uint32Array(count)
  const origins = rewritten ? { packs: new Uint8Array(count * 16), slots: new Uint16Array(count) } : undefined
  let offset = 0
  for (let row = 0, at = 0; row < count; row++, at += stride) {
    idPrefixes.set(bytes.subarray(at, at + idPrefixBytes), row * idPrefixBytes)
    const length = (bytes[at + 20]! << 16) | input.getUint16(at + 21)
    if (length <= recordOverhead) throw absurd(object, `a record of ${length} bytes in row ${row}`)
    lengths[row] = length
    offsets[row] = offset
    offset += length
    if (!origins) continue
    origins.packs.set(bytes.subarray(at + 23, at + 39), row * 16)
    const slot = input.getUint16(at + 39)
    if (slot >= limits.packSlotsMax) throw absurd(object, `origin slot ${slot} in row ${row}`)
    origins.slots[row] = slot
  }
  if (offset !== trailer.bodyLength)
    throw absurd(object, `records of ${offset} bytes in a body of ${trailer.bodyLength}`)
  return { count, idPrefixes, lengths, offsets, ...(origins ? { origins } : {}) }
}

/** SHA-256 of each MiB of the concatenation of `parts` (body, footer), without joining them. */
export function encodeChecksums(parts: readonly Uint8Array[]): Uint8Array {
  const total = parts.reduce((sum, part) => sum + part.length, 0)
  const checksums = new Uint8Array(checksumsLength(total))
  let hash = createHash('sha256')
  let room = checksumUnit
  let at = 0
  const close = () => {
    checksums.set(hash.digest(), at)
    at += checksumBytes
    hash = createHash('sha256')
    room = checksumUnit
  }
  for (const part of parts)
    for (let from = 0; from < part.length; ) {
      const piece = part.subarray(from, from + room)
      hash.update(piece)
      from += piece.length
      room -= piece.length
      if (room === 0) close()
    }
  if (room < checksumUnit) close()
  return checksums
}

/**
 * Compares `parts` (the object's body and footer) with its `checksums`. Gives the MiB that differ, by number: rot, told
 * without any key. Throws where the checksums themselves do not fit the trailer.
 */
export function findRot(
  parts: readonly Uint8Array[],
  checksums: Uint8Array,
  trailer: PackTrailer,
  object: string,
): number[] {
  if (checksums.length !== trailer.checksumsLength || crc32(checksums) !== trailer.checksumsCrc)
    throw torn(object, 'its checksums are damaged')
  const found = encodeChecksums(parts)
  if (found.length !== checksums.length) throw torn(object, 'it is cut short')
  const rotten: number[] = []
  for (let unit = 0; unit * checksumBytes < found.length; unit++) {
    const from = unit * checksumBytes
    const same = Buffer.compare(
      found.subarray(from, from + checksumBytes),
      checksums.subarray(from, from + checksumBytes),
    )
    if (same !== 0) rotten.push(unit)
  }
  return rotten
}

/** Trailer of a pack as first written or rewritten, from its parts. */
export function buildTrailer(
  pack: PackId,
  kind: PackKind,
  parts: { rowCount: number; rewritten: boolean; bodyLength: number; footerLength: number; checksums: Uint8Array },
): Uint8Array {
  return encodeTrailer({
    kind,
    epoch: Number.parseInt(pack.slice(0, 2), 16),
    rewritten: parts.rewritten,
    pack,
    rowCount: parts.rowCount,
    bodyLength: parts.bodyLength,
    footerLength: parts.footerLength,
    checksumsLength: parts.checksums.length,
    checksumsCrc: crc32(parts.checksums),
  })
}
