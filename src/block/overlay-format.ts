/** The overlay's files as bytes (docs/overlay-format.md): pure codecs. */
import xxhash from 'xxhash-addon'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'

export const OVERLAY_VERSION = 1
export const BLOCK = 4096
/** Blocks of a disk that one page of the map covers. */
export const PAGE_BLOCKS = 512
/** Where a block's bytes are: 0 below the overlay, 1 nowhere, for they are zeros, else slot + 2. */
export const BELOW = 0
export const ZERO = 1
export const FIRST_SLOT = 2

const MAP_MAGIC = 'lifeboat-overlay'
const RECORD_MAGIC = 0x4a_6f_76_31
export const RECORD_HEAD = 32
export const JOURNAL_HEAD = 4096
/** So many zeros, at least, follow the last record of a journal: up to its magic none that was cut off would be. */
export const JOURNAL_TAIL = 16
/** Where the two notes of the last sync lie in a journal's head, each in a sector of its own. */
export const NOTE_POSITIONS = [1024, 1536] as const

export const KIND_OPEN = 1
export const KIND_BLOCKS = 2
export const KIND_ZERO = 3
export const KIND_MARK = 4
export const KIND_FAILED = 5

/** XXH3-64, little-endian. */
export function sum64(bytes: Uint8Array): Buffer {
  return xxhash.XXHash3.hash(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)).reverse()
}

/** What the map holds of a block or page: the low half. */
export const blockCheck = (bytes: Uint8Array): number => sum64(bytes).readUInt32LE(0)

export const overlayDamaged = (object: string, what: string, details: object = {}): LifeboatError =>
  new LifeboatError('overlay-damaged', `the overlay's ${object} is damaged: ${what}`, {
    details: { object, ...details },
    hint: 'Check the disk below it. What was written cannot be trusted: discard the session and begin anew from the point; with --overlay, remove its folder.',
  })

/** Bits that are set, by words of 32. */
export function bitCount(bits: Uint8Array): number {
  const words = new Uint32Array(bits.buffer, bits.byteOffset, bits.length / 4)
  let count = 0
  for (let n = 0; n < words.length; n++) {
    let word = words[n]!
    word -= (word >>> 1) & 0x55555555
    word = (word & 0x33333333) + ((word >>> 2) & 0x33333333)
    count += Math.imul((word + (word >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
  }
  return count
}

// Records: sum u64 | magic u32 | bytes u32 | sequence u64 | kind u32 | count u32 | body

export interface RecordView {
  readonly kind: number
  readonly sequence: number
  readonly count: number
  readonly body: Buffer
  readonly end: number
}

/** A record with room for its body; `sealRecord` or the call that writes it fills in the sum. */
export function newRecord(kind: number, sequence: number, count: number, bodyBytes: number): Buffer {
  const record = Buffer.allocUnsafeSlow(RECORD_HEAD + bodyBytes)
  record.fill(0, 0, 8)
  record.writeUInt32LE(RECORD_MAGIC, 8)
  record.writeUInt32LE(record.length, 12)
  record.writeBigUInt64LE(BigInt(sequence), 16)
  record.writeUInt32LE(kind, 24)
  record.writeUInt32LE(count, 28)
  return record
}

export function sealRecord(record: Buffer): Buffer {
  sum64(record.subarray(8)).copy(record)
  return record
}

export function recordAt(bytes: Buffer, at: number): RecordView | undefined {
  if (at + RECORD_HEAD > bytes.length || bytes.readUInt32LE(at + 8) !== RECORD_MAGIC) return undefined
  const length = bytes.readUInt32LE(at + 12)
  if (length < RECORD_HEAD || at + length > bytes.length) return undefined
  const record = bytes.subarray(at, at + length)
  if (!sum64(record.subarray(8)).equals(record.subarray(0, 8))) return undefined
  return {
    kind: record.readUInt32LE(24),
    sequence: Number(record.readBigUInt64LE(16)),
    count: record.readUInt32LE(28),
    body: record.subarray(RECORD_HEAD),
    end: at + length,
  }
}

/** Whether the file once reached further: zeros are missing behind `at`, or a part of the record that begins there. */
export function isCutOff(bytes: Buffer, at: number): boolean {
  const begun = at + 16 <= bytes.length && bytes.readUInt32LE(at + 8) === RECORD_MAGIC ? bytes.readUInt32LE(at + 12) : 0
  return at + begun + JOURNAL_TAIL > bytes.length
}

/** Whether a whole record lies anywhere behind `at`: what is before it was then not cut off, but damaged. */
export function* laterRecords(bytes: Buffer, at: number): Generator<RecordView> {
  const magic = Buffer.alloc(4)
  magic.writeUInt32LE(RECORD_MAGIC)
  for (let found = bytes.indexOf(magic, at); found >= 0; found = bytes.indexOf(magic, found + 1)) {
    const record = found < 8 ? undefined : recordAt(bytes, found - 8)
    if (record !== undefined) yield record
  }
}

const jsonRecord = (kind: number, sequence: number, value: object): Buffer => {
  const text = Buffer.from(JSON.stringify(value))
  const record = newRecord(kind, sequence, 0, text.length)
  text.copy(record, RECORD_HEAD)
  return sealRecord(record)
}

/** The first thing in a journal. */
export interface JournalOpening {
  readonly version: number
  /** Of the overlay. */
  readonly id: string
  readonly number: number
  readonly bootId: string
  /** Records of the journal before this one count up to here. */
  readonly after: number
}

export const encodeOpening = (opening: JournalOpening): Buffer => jsonRecord(KIND_OPEN, opening.after, opening)

export function parseOpening(bytes: Buffer, name: string): JournalOpening {
  const record = recordAt(bytes.subarray(0, NOTE_POSITIONS[0]), 0)
  if (record?.kind !== KIND_OPEN) throw overlayDamaged(name, 'its head does not match its checksum')
  const opening: JournalOpening = JSON.parse(record.body.toString())
  mustBeKnown(opening.version)
  return opening
}

/** A mark: all records up to `synced` have their blocks on the disk. Twice, so that one flipped bit cannot take a sync back. */
export function encodeMark(sequence: number, synced: number): Buffer {
  const record = newRecord(KIND_MARK, sequence, 1, 8)
  record.writeBigUInt64LE(BigInt(synced), RECORD_HEAD)
  sealRecord(record)
  return Buffer.concat([record, record])
}

export const markedBy = ({ body }: RecordView): number => Number(body.readBigUInt64LE(0))

/** A note in the head: the mark that was durable when it was written, and where its record ends. */
export function encodeNote(sequence: number, end: number): Buffer {
  const record = newRecord(KIND_MARK, sequence, 1, 8)
  record.writeBigUInt64LE(BigInt(end), RECORD_HEAD)
  return sealRecord(record)
}

export const encodeFailure = (sequence: number): Buffer => sealRecord(newRecord(KIND_FAILED, sequence, 0, 0))

export function mustBeKnown(version: number): void {
  if (version > OVERLAY_VERSION)
    throw new LifeboatError('session-newer', 'the overlay was written by a newer version of Lifeboat', {
      hint: 'Open it with that version.',
    })
}

// The map: magic 16 | version u32 | header bytes u32 | header (JSON) | per disk its pages | used slots, a bit each | sum u64

export interface MapHeader {
  /** Of the overlay. */
  readonly id: string
  /** What stands below: the caller's word for it. */
  readonly baseLabel: string
  /** The journal that goes on from here, and the last record that is in this map already. */
  readonly journal: number
  readonly sequence: number
  readonly slots: number
  readonly disks: readonly { readonly name: string; readonly size: number; readonly pages: number }[]
}

/** A page of a disk that is not wholly below the overlay: its index, location and check, and which blocks are written. */
export interface MapDisk {
  readonly indexes: Uint32Array
  readonly locations: Uint32Array
  readonly checks: Uint32Array
  /** 64 bytes a page. */
  readonly bits: Uint8Array
}

export function encodeMap(header: MapHeader, disks: readonly MapDisk[], used: Uint8Array): Buffer {
  const json = Buffer.from(JSON.stringify(header))
  const head = Buffer.alloc(24)
  head.write(MAP_MAGIC, 'latin1')
  head.writeUInt32LE(OVERLAY_VERSION, 16)
  head.writeUInt32LE(json.length, 20)
  const parts: Uint8Array[] = [head, json]
  for (const { indexes, locations, checks, bits } of disks)
    for (const { buffer, byteOffset, byteLength } of [indexes, locations, checks, bits])
      parts.push(new Uint8Array(buffer, byteOffset, byteLength))
  parts.push(used.subarray(0, Math.ceil(header.slots / 8)), Buffer.alloc(8))
  const bytes = Buffer.concat(parts)
  sum64(bytes.subarray(0, -8)).copy(bytes, bytes.length - 8)
  return bytes
}

export interface OverlayMap {
  readonly header: MapHeader
  readonly disks: readonly MapDisk[]
  readonly used: Uint8Array
}

export function parseMap(bytes: Buffer): OverlayMap {
  if (bytes.length < 32 || bytes.toString('latin1', 0, 16) !== MAP_MAGIC) throw overlayDamaged('map', 'it is none')
  if (!sum64(bytes.subarray(0, -8)).equals(bytes.subarray(-8)))
    throw overlayDamaged('map', 'it does not match its checksum')
  mustBeKnown(bytes.readUInt32LE(16))
  const headEnd = 24 + bytes.readUInt32LE(20)
  if (headEnd > Math.min(bytes.length, limits.controlObjectMax)) throw overlayDamaged('map', 'its head is absurd')
  const header: MapHeader = JSON.parse(bytes.toString('utf8', 24, headEnd))
  let at = headEnd
  const take = (length: number): Uint8Array => {
    if (!(length >= 0 && at + length <= bytes.length - 8)) throw overlayDamaged('map', 'it is too short')
    at += length
    // A copy of its own: the parts are not aligned in the file.
    return new Uint8Array(bytes.subarray(at - length, at))
  }
  const words = (count: number) => new Uint32Array(take(4 * count).buffer)
  const disks = header.disks.map(({ pages }) => ({
    indexes: words(pages),
    locations: words(pages),
    checks: words(pages),
    bits: take(64 * pages),
  }))
  return { header, disks, used: take(Math.ceil(header.slots / 8)) }
}
