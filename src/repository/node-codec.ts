/** Tree nodes and the manifest's top list as bytes (docs/repository-format.md, section 5). Pure: no store, no keys held. */
import { createHash } from 'node:crypto'
import { LifeboatError } from '../core/errors.ts'
import { hex, type PackId, packId, unhex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { NodeContent } from '../crypto/ids.ts'
import { ByteCursor, pushVarint } from './byte-cursor.ts'
import { recordOverhead } from './pack-codec.ts'
import type { ChunkRef } from './repository.ts'
import { type TreeGeometry, usedAt, widthAt } from './tree-geometry.ts'

const VERSION = 1
const HEADER_BYTES = 12
const ID_BYTES = 32
const PACK_ID_BYTES = 16

/** One parsed node or top list. Entries live in flat columns; a reference is made when it is asked for, once. */
export class TreeNode implements NodeContent {
  readonly level: number
  readonly width: number
  readonly chunkSize: number
  readonly bitmap: Uint8Array
  /** 32 bytes for each present entry, in order. */
  readonly ids: Uint8Array
  /** Roughly what this node keeps in memory, for bounded caches. */
  readonly memoryBytes: number
  readonly #columns: Columns
  readonly #refs: (ChunkRef | undefined)[]

  constructor(content: NodeContent, columns: Columns) {
    this.level = content.level
    this.width = content.width
    this.chunkSize = content.chunkSize
    this.bitmap = content.bitmap
    this.ids = content.ids
    this.#columns = columns
    this.#refs = []
    this.memoryBytes = 512 + this.width * 2 + this.ids.length + (this.ids.length / ID_BYTES) * 200
  }

  get present(): number {
    return this.ids.length / ID_BYTES
  }

  /** Where the entries lie, in order of position: for those who walk millions and need no reference of each. */
  get places(): NodePlaces {
    return this.#columns
  }

  has(position: number): boolean {
    return (this.#columns.ranks[position] ?? 0) > 0
  }

  /** What lies at `position`; undefined reads as zeros all the way down. */
  ref(position: number): ChunkRef | undefined {
    const entry = (this.#columns.ranks[position] ?? 0) - 1
    if (entry < 0) return undefined
    const known = this.#refs[entry]
    if (known) return known
    const { packs, pack, slot, offset, length } = this.#columns
    const ref: ChunkRef = {
      id: this.ids.subarray(entry * ID_BYTES, (entry + 1) * ID_BYTES),
      pack: packs[pack[entry]!]!,
      slot: slot[entry]!,
      offset: offset[entry]!,
      length: length[entry]!,
    }
    this.#refs[entry] = ref
    return ref
  }

  /** All positions, in the shape that `encodeNode` takes. */
  refs(): (ChunkRef | undefined)[] {
    return Array.from({ length: this.width }, (_, position) => this.ref(position))
  }
}

/** Columns, one row a present entry; `pack` is an index into `packs`. */
export interface NodePlaces {
  readonly packs: readonly PackId[]
  readonly pack: Uint16Array
  readonly slot: Uint16Array
  readonly length: Uint32Array
}

interface Columns extends NodePlaces {
  /** For each position its entry's index + 1, or 0. */
  readonly ranks: Uint16Array
  readonly offset: Uint32Array
}

/** `entries` has one element for each position of the node; absent ones are undefined. */
export function encodeNode(level: number, entries: readonly (ChunkRef | undefined)[]): Uint8Array {
  const present = entries.filter(entry => entry !== undefined)
  const packs = new Map<PackId, number>()
  for (const { pack } of present) if (!packs.has(pack)) packs.set(pack, packs.size)
  const runs = encodeRuns(present, packs)
  const bitmapBytes = Math.ceil(entries.length / 8)
  const idsAt = HEADER_BYTES + bitmapBytes + packs.size * PACK_ID_BYTES
  const bytes = new Uint8Array(idsAt + present.length * ID_BYTES + runs.length)
  const view = new DataView(bytes.buffer)
  view.setUint8(0, VERSION)
  view.setUint8(1, level)
  view.setUint16(2, packs.size)
  view.setUint32(4, entries.length)
  view.setUint32(8, present.length)
  for (let p = 0; p < entries.length; p++) if (entries[p]) bytes[HEADER_BYTES + (p >> 3)]! |= 1 << (p & 7)
  let at = HEADER_BYTES + bitmapBytes
  for (const pack of packs.keys()) {
    bytes.set(unhex(pack), at)
    at += PACK_ID_BYTES
  }
  for (const { id } of present) {
    bytes.set(id, at)
    at += ID_BYTES
  }
  bytes.set(runs, at)
  return bytes
}

function encodeRuns(entries: readonly ChunkRef[], packs: ReadonlyMap<PackId, number>): number[] {
  const bytes: number[] = []
  for (let first = 0; first < entries.length; ) {
    let end = first + 1
    while (end < entries.length && follows(entries[end - 1]!, entries[end]!)) end++
    const { pack, slot, offset } = entries[first]!
    for (const value of [end - first, packs.get(pack)!, slot, offset]) pushVarint(bytes, value)
    for (; first < end; first++) pushVarint(bytes, entries[first]!.length)
  }
  return bytes
}

const follows = (a: ChunkRef, b: ChunkRef): boolean =>
  b.pack === a.pack && b.slot === a.slot + 1 && b.offset === a.offset + a.length

/**
 * Parses node `index` of `level` (topLevel + 1: the top list). Everything is compared with what the disk's size allows
 * before anything is allocated; throws 'absurd-object'. `bytes` is kept: the caller gives it away.
 */
export function parseNode(bytes: Uint8Array, tree: TreeGeometry, level: number, index: number): TreeNode {
  const what = level > tree.topLevel ? 'the top list' : `node ${index} of level ${level}`
  const cursor = new ByteCursor(bytes, what)
  const width = widthAt(tree, level)
  if (cursor.uint(1) !== VERSION) throw cursor.absurd('is of an unknown version')
  if (cursor.uint(1) !== level) throw cursor.absurd('is of another level')
  const packCount = cursor.uint(2)
  if (cursor.uint(4) !== width) throw cursor.absurd('is of another width')
  const present = cursor.uint(4)
  if (present > width || packCount > present) throw cursor.absurd('has more entries or packs than positions')
  const bitmap = cursor.take(Math.ceil(width / 8))
  const ranks = parseBitmap(bitmap, width, usedAt(tree, level, index), present, cursor)
  const packs: PackId[] = []
  for (let p = 0; p < packCount; p++) packs.push(packId(hex(cursor.take(PACK_ID_BYTES))))
  const ids = cursor.take(present * ID_BYTES)
  const lengthMax = (level === 0 ? tree.chunkSize : limits.nodeBytesMax) + recordOverhead
  const columns = { ranks, packs, ...parseRuns(cursor, present, packCount, lengthMax) }
  return new TreeNode({ level, width, chunkSize: tree.chunkSize, bitmap, ids }, columns)
}

function parseBitmap(
  bitmap: Uint8Array,
  width: number,
  used: number,
  present: number,
  cursor: ByteCursor,
): Uint16Array {
  const ranks = new Uint16Array(width)
  let entries = 0
  for (let p = 0; p < bitmap.length * 8; p++) {
    if (!((bitmap[p >> 3]! >> (p & 7)) & 1)) continue
    if (p >= used) throw cursor.absurd('has an entry past the end of the disk')
    ranks[p] = ++entries
  }
  if (entries !== present) throw cursor.absurd('counts other entries than it marks')
  return ranks
}

function parseRuns(cursor: ByteCursor, present: number, packCount: number, lengthMax: number) {
  const pack = new Uint16Array(present)
  const slot = new Uint16Array(present)
  const offset = new Uint32Array(present)
  const length = new Uint32Array(present)
  for (let entry = 0; entry < present; ) {
    const count = cursor.varint()
    const packIndex = cursor.varint()
    const firstSlot = cursor.varint()
    let at = cursor.varint()
    if (count === 0 || count > present - entry) throw cursor.absurd('has a run of an impossible length')
    if (packIndex >= packCount) throw cursor.absurd('names a pack that it does not list')
    if (firstSlot + count > limits.packSlotsMax) throw cursor.absurd('names a slot that no pack has')
    for (let n = 0; n < count; n++, entry++) {
      const stored = cursor.varint()
      if (stored <= recordOverhead || stored > lengthMax) throw cursor.absurd('has a record of an impossible length')
      if (at + stored > limits.packObjectMax) throw cursor.absurd('points past the end of any pack')
      pack[entry] = packIndex
      slot[entry] = firstSlot + n
      offset[entry] = at
      length[entry] = stored
      at += stored
    }
  }
  if (cursor.remaining > 0) throw cursor.absurd('is followed by other bytes')
  return { pack, slot, offset, length }
}

/** The salted unkeyed root over the top list, for proofs to people without keys. `level` is T. */
export function topRoot(salt: Uint8Array, tree: TreeGeometry, top: NodeContent): Uint8Array {
  const head = new Uint8Array(13)
  const view = new DataView(head.buffer)
  view.setBigUint64(0, BigInt(tree.size))
  view.setUint32(8, tree.chunkSize)
  view.setUint8(12, tree.topLevel)
  const hash = createHash('sha256').update(salt).update(head)
  return new Uint8Array(hash.update(top.bitmap).update(top.ids).digest())
}

/** What an id is made from, of entries that are about to be encoded: for crypto's `nodeId` and for `topRoot`. */
export function contentOf(level: number, chunkSize: number, entries: readonly (ChunkRef | undefined)[]): NodeContent {
  const bitmap = new Uint8Array(Math.ceil(entries.length / 8))
  const ids = new Uint8Array(entries.reduce((bytes, entry) => (entry ? bytes + ID_BYTES : bytes), 0))
  let at = 0
  for (let p = 0; p < entries.length; p++) {
    const entry = entries[p]
    if (!entry) continue
    if (entry.id.length !== ID_BYTES) throw new LifeboatError('internal', 'a content id is not 32 bytes long')
    bitmap[p >> 3]! |= 1 << (p & 7)
    ids.set(entry.id, at)
    at += ID_BYTES
  }
  return { level, width: entries.length, chunkSize, bitmap, ids }
}
