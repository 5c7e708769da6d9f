/** Bytes of a cache segment, docs/cache-format.md. Pure. All numbers are little-endian, as those of every machine that runs this. */
import xxhash from 'xxhash-addon'
import { limits } from '../core/limits.ts'
import type { RecordName } from '../repository/record-cache.ts'

/** 16 bytes that stand for a record's name. */
export type RecordKey = Uint8Array

export interface SegmentShape {
  readonly bytes: number
  readonly entriesMax: number
}

/** Where a record lies in its segment: `offset` of its head, and its stored length without it. */
export interface IndexEntry {
  readonly key: RecordKey
  readonly offset: number
  readonly length: number
}

const MAGIC = Buffer.from('LBCACHE1')
export const headerBytes = 64
export const entryBytes = 32
export const recordHeadBytes = 32
const KEY = 16
const CHECK = 8

export const recordKey = ({ repository, kind, pack, slot }: RecordName): RecordKey =>
  xxhash.XXHash128.hash(Buffer.from(`${repository}/${kind}/${pack}/${slot}`, 'latin1'))

export const shapeOf = (bytes: number): SegmentShape => ({
  bytes,
  entriesMax: Math.floor(bytes / limits.diskCacheRecordBytesUsual),
})

export const entryOffset = (index: number): number => headerBytes + index * entryBytes
export const dataOffset = ({ entriesMax }: SegmentShape): number => entryOffset(entriesMax)

export function encodeHeader(shape: SegmentShape): Uint8Array {
  const bytes = Buffer.alloc(headerBytes)
  bytes.set(MAGIC, CHECK)
  bytes.writeUInt32LE(shape.entriesMax, 16)
  bytes.writeUInt32LE(shape.bytes, 20)
  return sealed(bytes)
}

/** Undefined for what is no segment, not whole yet, or of another size than it says. */
export function parseHeader(bytes: Uint8Array, fileBytes: number): SegmentShape | undefined {
  const header = asBuffer(bytes)
  if (header.length < headerBytes || !isSealed(header.subarray(0, headerBytes))) return undefined
  if (!header.subarray(CHECK, CHECK + MAGIC.length).equals(MAGIC)) return undefined
  const shape = { entriesMax: header.readUInt32LE(16), bytes: header.readUInt32LE(20) }
  return shape.bytes === fileBytes && dataOffset(shape) <= shape.bytes ? shape : undefined
}

export function encodeEntry({ key, offset, length }: IndexEntry, target: Buffer): void {
  target.set(key, 0)
  target.writeUInt32LE(offset, KEY)
  target.writeUInt32LE(length, KEY + 4)
  target.writeUInt32LE(0, KEY + 8)
  const words = Array.from({ length: ENTRY_WORDS }, (_, n) => target.readUInt32LE(4 * n))
  target.writeUInt32LE(checkOf(words, 0), 4 * ENTRY_WORDS)
}

/**
 * Calls `each` for the entries in a piece of an index, up to the first that was not written, or not wholly: gives their number.
 * A full cache has some 300,000, so an entry costs no object and no call into the addon.
 */
export function parseEntries(
  bytes: Uint8Array,
  shape: SegmentShape,
  each: (keyLow: number, keyHigh: number, offset: number, length: number) => void,
): number {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2)
  const step = entryBytes >> 2
  const first = dataOffset(shape)
  for (let at = 0; at + step <= words.length; at += step) {
    const [offset, length] = [words[at + 4]!, words[at + 5]!]
    const isInside = offset >= first && offset + recordHeadBytes + length <= shape.bytes
    if (!isInside || checkOf(words, at) !== words[at + ENTRY_WORDS]) return at / step
    each(words[at]!, words[at + 1]!, offset, length)
  }
  return Math.floor(words.length / step)
}

const ENTRY_WORDS = 7

/** Tells an entry from a torn or changed one: of a single word no change is missed. What counts is the check of the record. */
function checkOf(words: ArrayLike<number>, at: number): number {
  let check = 0x9e3779b9
  for (let n = 0; n < ENTRY_WORDS; n++) {
    check = Math.imul(check ^ words[at + n]!, 0x85ebca6b)
    check ^= check >>> 15
  }
  return check >>> 0
}

/** Head and content in `target`, which has room for exactly both. */
export function encodeRecord(key: RecordKey, stored: Uint8Array, target: Buffer): void {
  target.set(key, CHECK)
  target.writeUInt32LE(stored.length, CHECK + KEY)
  target.writeUInt32LE(0, CHECK + KEY + 4)
  target.set(stored, recordHeadBytes)
  sealed(target)
}

/** The stored bytes, a view; undefined unless they are whole and those of `key`. */
export function parseRecord(bytes: Uint8Array, key: RecordKey): Uint8Array | undefined {
  const record = asBuffer(bytes)
  if (record.length < recordHeadBytes || record.readUInt32LE(CHECK + KEY) !== record.length - recordHeadBytes)
    return undefined
  if (record.compare(key, 0, KEY, CHECK, CHECK + KEY) !== 0 || !isSealed(record)) return undefined
  return bytes.subarray(recordHeadBytes)
}

function sealed(bytes: Buffer): Buffer {
  bytes.set(xxhash.XXHash3.hash(bytes.subarray(CHECK)), 0)
  return bytes
}

const isSealed = (bytes: Buffer): boolean => xxhash.XXHash3.hash(bytes.subarray(CHECK)).compare(bytes, 0, CHECK) === 0

const asBuffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
