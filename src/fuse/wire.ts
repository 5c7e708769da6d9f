/**
 * The messages of linux/fuse.h as bytes, in the order of bytes of this host (little-endian: x86-64 and arm64). Pure: what is
 * parsed lies in the reader's buffer and is overwritten by the next request; what is encoded goes where the caller says.
 */
import type { Attributes, FileKind, Statfs } from '../files/file-tree.ts'
import { NAME_BYTES_MAX } from '../files/name.ts'
import * as C from './constants.ts'

const HIGH = 0x1_0000_0000
const SECOND = 1_000_000_000n

/** Of the request that was read last. */
export interface RequestHeader {
  opcode: number
  /** Names the request; the kernel counts them up from 2 and so stays below 2^53. */
  unique: number
  nodeId: number
}

/** False where the message contradicts itself. */
export function parseHeader(input: DataView, length: number, header: RequestHeader): boolean {
  if (length < C.IN_HEADER_BYTES || input.getUint32(0, true) !== length) return false
  header.opcode = input.getUint32(4, true)
  header.unique = getUint64(input, 8)
  header.nodeId = getUint64(input, 16)
  return true
}

/** What does not fit into a double is rounded, to something that no table has. */
export const getUint64 = (view: DataView, at: number): number =>
  view.getUint32(at, true) + view.getUint32(at + 4, true) * HIGH

export function setUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % HIGH, true)
  view.setUint32(at + 4, Math.floor(value / HIGH), true)
}

/** The bytes of a name that ends with a NUL, or with the message. */
export function nameAt(input: Uint8Array, at: number, length: number): Uint8Array {
  const end = input.indexOf(0, at)
  return input.subarray(at, end === -1 || end > length ? length : end)
}

export interface Init {
  readonly major: number
  readonly minor: number
  readonly maxReadahead: number
  readonly flags: number
}

export const parseInit = (input: DataView): Init => ({
  major: input.getUint32(C.IN_HEADER_BYTES, true),
  minor: input.getUint32(C.IN_HEADER_BYTES + 4, true),
  maxReadahead: input.getUint32(C.IN_HEADER_BYTES + 8, true),
  flags: input.getUint32(C.IN_HEADER_BYTES + 12, true),
})

export interface InitReply {
  readonly minor: number
  readonly maxReadahead: number
  readonly flags: number
  readonly maxBackground: number
  readonly maxWrite: number
  readonly maxPages: number
}

/** Each encoder gives how many bytes it wrote from `at` on. */
export function encodeInit(out: DataView, at: number, init: InitReply): number {
  clear(out, at, 64)
  out.setUint32(at, C.FUSE_KERNEL_VERSION, true)
  out.setUint32(at + 4, init.minor, true)
  out.setUint32(at + 8, init.maxReadahead, true)
  out.setUint32(at + 12, init.flags, true)
  out.setUint16(at + 16, init.maxBackground, true)
  out.setUint16(at + 18, Math.floor((init.maxBackground * 3) / 4), true)
  out.setUint32(at + 20, init.maxWrite, true)
  out.setUint32(at + 24, 1, true)
  out.setUint16(at + 28, init.maxPages, true)
  return 64
}

/** Seconds that an answer holds good for; whole ones. */
export interface Validity {
  readonly entry: number
  readonly attributes: number
}

const MODES: Readonly<Record<FileKind, number>> = {
  file: C.S_IFREG,
  directory: C.S_IFDIR,
  symlink: C.S_IFLNK,
  fifo: C.S_IFIFO,
  socket: C.S_IFSOCK,
  'character-device': C.S_IFCHR,
  'block-device': C.S_IFBLK,
}

const modeOf = ({ kind, permissions }: Attributes): number => MODES[kind] | (permissions & 0o7777)

function encodeAttr(out: DataView, at: number, inode: number, attributes: Attributes): void {
  setUint64(out, at, inode)
  setUint64(out, at + 8, attributes.size)
  setUint64(out, at + 16, Math.ceil(attributes.allocated / 512))
  encodeTime(out, at + 24, at + 48, attributes.accessedNs)
  encodeTime(out, at + 32, at + 52, attributes.modifiedNs)
  encodeTime(out, at + 40, at + 56, attributes.changedNs)
  out.setUint32(at + 60, modeOf(attributes), true)
  out.setUint32(at + 64, attributes.links, true)
  out.setUint32(at + 68, attributes.uid, true)
  out.setUint32(at + 72, attributes.gid, true)
  out.setUint32(at + 76, deviceNumber(attributes), true)
  out.setUint32(at + 80, 4096, true)
  out.setUint32(at + 84, 0, true)
}

/** Seconds below zero are before 1970, and the nanoseconds count up from there. */
function encodeTime(out: DataView, secondsAt: number, nanosecondsAt: number, ns: bigint): void {
  const rest = ((ns % SECOND) + SECOND) % SECOND
  out.setBigInt64(secondsAt, (ns - rest) / SECOND, true)
  out.setUint32(nanosecondsAt, Number(rest), true)
}

/** As new_encode_dev() of Linux does it. */
function deviceNumber({ device }: Attributes): number {
  if (device === undefined) return 0
  const { major, minor } = device
  return ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)) >>> 0
}

export function encodeAttrOut(
  out: DataView,
  at: number,
  inode: number,
  attributes: Attributes,
  validity: number,
): number {
  clear(out, at, 16)
  setUint64(out, at, validity)
  encodeAttr(out, at + 16, inode, attributes)
  return 104
}

export function encodeEntry(
  out: DataView,
  at: number,
  nodeId: number,
  inode: number,
  attributes: Attributes,
  { entry, attributes: valid }: Validity,
): number {
  clear(out, at, 40)
  setUint64(out, at, nodeId)
  setUint64(out, at + 16, entry)
  setUint64(out, at + 24, valid)
  encodeAttr(out, at + 40, inode, attributes)
  return C.ENTRY_OUT_BYTES
}

/** That there is no such name, for `validity` seconds; and of '.' and '..' in READDIRPLUS that nothing is said. */
export function encodeNoEntry(out: DataView, at: number, validity: number): number {
  clear(out, at, C.ENTRY_OUT_BYTES)
  setUint64(out, at + 16, validity)
  return C.ENTRY_OUT_BYTES
}

export const direntBytes = (name: Uint8Array): number => (C.DIRENT_BYTES + name.length + 7) & ~7

/** `next` is where to go on after this entry. */
export function encodeDirent(
  out: Uint8Array,
  view: DataView,
  at: number,
  { name, inode, kind, next }: { name: Uint8Array; inode: number; kind: FileKind; next: number },
): number {
  setUint64(view, at, inode)
  setUint64(view, at + 8, next)
  view.setUint32(at + 16, name.length, true)
  view.setUint32(at + 20, MODES[kind] >> 12, true)
  out.set(name, at + C.DIRENT_BYTES)
  const length = direntBytes(name)
  out.fill(0, at + C.DIRENT_BYTES + name.length, at + length)
  return length
}

export function encodeOpen(out: DataView, at: number, handle: number, flags: number): number {
  setUint64(out, at, handle)
  out.setUint32(at + 8, flags, true)
  out.setUint32(at + 12, 0, true)
  return 16
}

export function encodeStatfs(out: DataView, at: number, { blockSize, blocks, free, files }: Statfs): number {
  clear(out, at, 80)
  out.setBigUint64(at, blocks, true)
  out.setBigUint64(at + 8, free, true)
  out.setBigUint64(at + 16, free, true)
  out.setBigUint64(at + 24, files, true)
  out.setUint32(at + 40, blockSize, true)
  out.setUint32(at + 44, NAME_BYTES_MAX, true)
  out.setUint32(at + 48, blockSize, true)
  return 80
}

/** How long a value or a list is; not the value itself. */
export function encodeXattrSize(out: DataView, at: number, size: number): number {
  out.setUint32(at, size, true)
  out.setUint32(at + 4, 0, true)
  return 8
}

export function encodeSeek(out: DataView, at: number, offset: number): number {
  setUint64(out, at, offset)
  return 8
}

export function encodeStatx(
  out: DataView,
  at: number,
  inode: number,
  attributes: Attributes,
  validity: number,
): number {
  clear(out, at, 288)
  setUint64(out, at, validity)
  const { bornNs, size, allocated, device } = attributes
  const stat = at + 32
  out.setUint32(stat, C.STATX_BASIC_STATS | (bornNs === undefined ? 0 : C.STATX_BTIME), true)
  out.setUint32(stat + 4, 4096, true)
  out.setUint32(stat + 16, attributes.links, true)
  out.setUint32(stat + 20, attributes.uid, true)
  out.setUint32(stat + 24, attributes.gid, true)
  out.setUint16(stat + 28, modeOf(attributes), true)
  setUint64(out, stat + 32, inode)
  setUint64(out, stat + 40, size)
  setUint64(out, stat + 48, Math.ceil(allocated / 512))
  const times = [attributes.accessedNs, bornNs ?? 0n, attributes.changedNs, attributes.modifiedNs]
  for (const [i, ns] of times.entries()) encodeTime(out, stat + 64 + 16 * i, stat + 72 + 16 * i, ns)
  out.setUint32(stat + 128, device?.major ?? 0, true)
  out.setUint32(stat + 132, device?.minor ?? 0, true)
  return 288
}

function clear(out: DataView, at: number, length: number): void {
  for (let i = at; i < at + length; i += 4) out.setUint32(i, 0, true)
}
