/** The codec of docs/guest-protocol.md: requests as bytes, and what replies say, checked. Sockets live elsewhere. */
import { limits } from '../core/limits.ts'
import type { Attributes, FileKind, Statfs } from '../files/file-tree.ts'
import { decodeName, isName, NAME_BYTES_MAX } from '../files/name.ts'
import { protocolError } from './guest-errors.ts'
import { ReplyCursor } from './reply-cursor.ts'

export const operations = {
  hello: 0,
  volumes: 1,
  unlock: 2,
  root: 3,
  lookup: 4,
  list: 5,
  readLink: 6,
  xattrs: 7,
  read: 8,
  extents: 9,
  statfs: 10,
} as const
export type Operation = keyof typeof operations

/** Opaque bytes of the server, one a character: a string does not pin the reply that it came in. */
export type RemoteNode = string

export type XattrMap = ReadonlyMap<string, Uint8Array>

export interface Found {
  readonly node: RemoteNode
  readonly attributes: Attributes
  /** Absent: they are to be asked for. The bytes of names and values, which many files have alike. */
  readonly xattrs?: Buffer
}

export interface ListedEntry {
  readonly name: string
  /** Absent: what the name stands for cannot be read. */
  readonly found?: Found
}

export interface ListPage {
  /** 0: the last one. */
  readonly next: bigint
  readonly entries: readonly ListedEntry[]
  /** Names that no directory may have: an attack or damage. */
  readonly leftOut: number
}

/** A request after its length, tag and operation. */
export class RequestBody {
  readonly pieces: Buffer[] = []

  text(bytes: Uint8Array): this {
    this.u32(bytes.length)
    this.pieces.push(Buffer.from(bytes))
    return this
  }

  node(node: RemoteNode): this {
    this.pieces.push(Buffer.of(node.length), Buffer.from(node, 'latin1'))
    return this
  }

  name(bytes: Buffer): this {
    this.pieces.push(Buffer.of(bytes.length & 255, bytes.length >> 8), bytes)
    return this
  }

  u32(value: number): this {
    const bytes = Buffer.allocUnsafe(4)
    bytes.writeUInt32LE(value)
    this.pieces.push(bytes)
    return this
  }

  u64(value: bigint): this {
    const bytes = Buffer.allocUnsafe(8)
    bytes.writeBigUInt64LE(value)
    this.pieces.push(bytes)
    return this
  }
}

export function parseFound(body: Buffer): Found {
  const cursor = new ReplyCursor(body)
  const node = takeNode(cursor)
  const found = takeAttributes(cursor, node)
  cursor.end()
  if (found === undefined) throw protocolError('a damaged file where a whole one was asked for')
  return found
}

/** The shortest entry: a name of one byte, no node, attributes. */
const ENTRY_BYTES_MIN = 3 + 1 + 80

export function parseList(body: Buffer): ListPage {
  const cursor = new ReplyCursor(body)
  const next = cursor.u64()
  const count = cursor.count(cursor.u32(), ENTRY_BYTES_MIN)
  if (next !== 0n && count === 0) throw protocolError('a page of a directory without an entry')
  const entries: ListedEntry[] = []
  for (let i = 0; i < count; i++) {
    const length = cursor.u16()
    if (length === 0 || length > NAME_BYTES_MAX) throw protocolError(`a name of ${length} bytes`)
    const name = decodeName(cursor.bytes(length))
    const node = takeNode(cursor)
    const found = takeAttributes(cursor, node)
    if (isName(name)) entries.push({ name, found })
  }
  cursor.end()
  return { next, entries, leftOut: count - entries.length }
}

export interface XattrPage {
  /** 0: the last one. */
  readonly next: number
  readonly bytes: number
}

/** Adds a page that begins with the `first` to `xattrs`. */
export function parseXattrPage(body: Buffer, first: number, xattrs: Map<string, Uint8Array>): XattrPage {
  const cursor = new ReplyCursor(body)
  const next = cursor.u32()
  const count = cursor.count(cursor.u32(), 8)
  if (next !== 0 && (count === 0 || next <= first)) throw protocolError('extended attributes that do not go on')
  const bytes = cursor.left
  for (let i = 0; i < count; i++) takeXattr(cursor, xattrs)
  cursor.end()
  return { next, bytes }
}

const XATTR_NAME_BYTES_MAX = 255
const XATTR_VALUE_BYTES_MAX = 64 * 1024

/** Those that came along with a file. */
export function parseXattrs(bytes: Buffer): XattrMap {
  const cursor = new ReplyCursor(bytes)
  const xattrs = new Map<string, Uint8Array>()
  while (cursor.left > 0) takeXattr(cursor, xattrs)
  return xattrs
}

/** A copy. What is no name is left out; of two with one name the last is taken. */
function takeXattr(cursor: ReplyCursor, xattrs: Map<string, Uint8Array>): void {
  const name = cursor.text(XATTR_NAME_BYTES_MAX)
  const value = cursor.text(XATTR_VALUE_BYTES_MAX)
  if (name.length > 0 && !name.includes(0)) xattrs.set(decodeName(name), Uint8Array.from(value))
}

export type RemoteExtent = { readonly length: bigint; readonly kind: 'data' | 'zero' }

export function parseExtents(body: Buffer): readonly RemoteExtent[] {
  const cursor = new ReplyCursor(body)
  const count = cursor.count(cursor.u32(), 9)
  const extents: RemoteExtent[] = []
  for (let i = 0; i < count; i++) {
    const length = cursor.u64()
    const kind = cursor.u8()
    if (length === 0n || kind > 1) throw protocolError('an absurd extent')
    extents.push({ length, kind: kind === 0 ? 'data' : 'zero' })
  }
  cursor.end()
  return extents
}

export function parseStatfs(body: Buffer): Statfs {
  const cursor = new ReplyCursor(body)
  const statfs = { blockSize: cursor.u32(), blocks: cursor.u64(), free: cursor.u64(), files: cursor.u64() }
  cursor.end()
  return statfs
}

export function parseText(body: Buffer, max: number): Buffer {
  const cursor = new ReplyCursor(body)
  const text = cursor.text(max)
  cursor.end()
  return text
}

function takeNode(cursor: ReplyCursor): RemoteNode {
  const length = cursor.u8()
  if (length > limits.guestNodeBytesMax) throw protocolError(`a node of ${length} bytes`)
  return cursor.bytes(length).toString('latin1')
}

const KINDS: readonly (FileKind | undefined)[] = [
  undefined,
  'file',
  'directory',
  'symlink',
  'fifo',
  'socket',
  'character-device',
  'block-device',
]
const TIME_UNKNOWN = -(2n ** 63n)
const XATTRS_ALONG_MAX = 1024

/** Undefined: damaged. */
function takeAttributes(cursor: ReplyCursor, node: RemoteNode): Found | undefined {
  const code = cursor.u8()
  const kind = KINDS[code]
  if (code >= KINDS.length) throw protocolError(`a file of kind ${code}`)
  if ((kind === undefined) !== (node === '')) throw protocolError('a file without a node')
  const permissions = cursor.u16()
  if (permissions > 0o7777) throw protocolError(`permissions ${permissions.toString(8)}`)
  const links = cursor.u32()
  const uid = cursor.u32()
  const gid = cursor.u32()
  const device = { major: cursor.u32(), minor: cursor.u32() }
  const inode = cursor.u64()
  const size = bytesOf(cursor.u64())
  const allocated = bytesOf(cursor.u64())
  const modifiedNs = known(cursor.i64())
  const changedNs = known(cursor.i64())
  const accessedNs = known(cursor.i64())
  const born = cursor.i64()
  const xattrs = takeXattrsAlong(cursor)
  if (kind === undefined) return undefined
  const attributes: Attributes = {
    kind,
    inode,
    size,
    allocated,
    permissions,
    links,
    uid,
    gid,
    modifiedNs,
    changedNs,
    accessedNs,
    ...(born === TIME_UNKNOWN ? {} : { bornNs: born }),
    ...(kind === 'character-device' || kind === 'block-device' ? { device } : {}),
  }
  return { node, attributes, ...(xattrs === undefined ? {} : { xattrs }) }
}

const known = (time: bigint): bigint => (time === TIME_UNKNOWN ? 0n : time)

/** A disk may say any size; what a number cannot hold cannot be read here. */
const bytesOf = (size: bigint): number =>
  size > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(size)

function takeXattrsAlong(cursor: ReplyCursor): Buffer | undefined {
  const along = cursor.u8()
  if (along > 1) throw protocolError('extended attributes that neither come along nor do not')
  if (along === 0) return undefined
  const count = cursor.count(cursor.u16(), 8)
  const from = cursor.at
  for (let i = 0; i < count; i++) {
    cursor.text(XATTR_NAME_BYTES_MAX)
    cursor.text(XATTRS_ALONG_MAX)
  }
  if (cursor.at - from > XATTRS_ALONG_MAX) throw protocolError('too many extended attributes along with a file')
  return cursor.since(from)
}
