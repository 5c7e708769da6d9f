/**
 * The headers of a tar: ustar as POSIX has it, and before each one a pax header with what ustar cannot say (long names, large numbers,
 * nanoseconds), in the words of GNU tar and star for extended attributes, ACLs and holes.
 */
import { aclText } from './posix-acl.ts'

export const TAR_BLOCK = 512

export type TarType = 'file' | 'link' | 'symlink' | 'character-device' | 'block-device' | 'directory' | 'fifo'

const TYPES: Readonly<Record<TarType, string>> = {
  file: '0',
  link: '1',
  symlink: '2',
  'character-device': '3',
  'block-device': '4',
  directory: '5',
  fifo: '6',
}

export interface TarEntry {
  readonly type: TarType
  /** As bytes; a directory's ends with a slash. */
  readonly path: Buffer
  readonly linkPath?: Buffer
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly modifiedNs: bigint
  readonly xattrs: ReadonlyMap<string, Uint8Array>
  readonly device?: { readonly major: number; readonly minor: number }
  /** Of what follows the header. */
  readonly size: number
  /** Of a file with holes: its size with them. What follows is then a map and the data. */
  readonly sparseSize?: number
}

const ACLS: ReadonlyMap<string, string> = new Map([
  ['system.posix_acl_access', 'SCHILY.acl.access'],
  ['system.posix_acl_default', 'SCHILY.acl.default'],
])
const NAME_MAX = 100
/** Seven octal digits, and eleven. */
const SMALL_MAX = 0o7777777
const LARGE_MAX = 0o77777777777

export function tarHeader(entry: TarEntry): Buffer {
  const records = paxRecords(entry)
  const header = ustar(entry, TYPES[entry.type], entry.sparseSize === undefined ? entry.path : sparseName(entry.path))
  if (records.length === 0) return header
  const pax = { ...entry, path: Buffer.from('PaxHeaders/0'), linkPath: undefined, mode: 0o644, size: records.length }
  return Buffer.concat([ustar({ ...pax, device: undefined }, 'x', pax.path), padded(records), header])
}

export const padding = (length: number): number => (TAR_BLOCK - (length % TAR_BLOCK)) % TAR_BLOCK

export const padded = (bytes: Buffer): Buffer => Buffer.concat([bytes, Buffer.alloc(padding(bytes.length))])

/** GNU's format 1.0: how many pieces of data there are, then where each lies and how long it is. */
export function sparseMap(data: readonly { readonly offset: number; readonly length: number }[], size: number): Buffer {
  // An empty piece at the end says where a last hole ends.
  const pieces = [...data, { offset: size, length: 0 }]
  return padded(
    Buffer.from(
      [pieces.length, ...pieces.flatMap(({ offset, length }) => [offset, length])].map(each => `${each}\n`).join(''),
    ),
  )
}

/** What a tar that knows nothing of holes calls it. */
function sparseName(path: Buffer): Buffer {
  return Buffer.concat([Buffer.from('GNUSparseFile.0/'), path.subarray(path.lastIndexOf(0x2f) + 1)])
}

function paxRecords(entry: TarEntry): Buffer {
  const records: Buffer[] = []
  const add = (key: string, value: string | Uint8Array) => records.push(paxRecord(key, value))
  const { path, linkPath, sparseSize } = entry
  if (sparseSize !== undefined) {
    add('GNU.sparse.major', '1')
    add('GNU.sparse.minor', '0')
    add('GNU.sparse.name', path)
    add('GNU.sparse.realsize', `${sparseSize}`)
  } else if (!fits(path)) add('path', path)
  if (linkPath !== undefined && !fits(linkPath)) add('linkpath', linkPath)
  if (entry.size > LARGE_MAX) add('size', `${entry.size}`)
  if (entry.uid > SMALL_MAX) add('uid', `${entry.uid}`)
  if (entry.gid > SMALL_MAX) add('gid', `${entry.gid}`)
  const seconds = entry.modifiedNs / NS
  if (seconds * NS !== entry.modifiedNs || seconds < 0n || seconds > LARGE_MAX)
    add('mtime', decimalSeconds(entry.modifiedNs))
  for (const [name, value] of entry.xattrs) {
    const acl = ACLS.has(name) ? aclText(value) : undefined
    if (acl !== undefined) add(ACLS.get(name)!, acl)
    else add(`SCHILY.xattr.${name.replaceAll('%', '%25').replaceAll('=', '%3D')}`, value)
  }
  return Buffer.concat(records)
}

const NS = 1_000_000_000n

function decimalSeconds(ns: bigint): string {
  const [sign, positive] = ns < 0n ? ['-', -ns] : ['', ns]
  return `${sign}${positive / NS}.${String(positive % NS).padStart(9, '0')}`
}

/** Others go into the pax header as they are, also where they are not UTF-8, as GNU tar writes them. */
const fits = (path: Buffer): boolean => path.length <= NAME_MAX && path.every(byte => byte > 0 && byte < 128)

/** The length counts itself: "13 path=name\n" has 13 bytes. */
function paxRecord(key: string, value: string | Uint8Array): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), Buffer.from(value as Uint8Array), Buffer.from('\n')])
  let length = rest.length
  while (length !== rest.length + `${length}`.length) length = rest.length + `${length}`.length
  return Buffer.concat([Buffer.from(`${length}`), rest])
}

/** Numbers that do not fit are 0 here and in the pax header as they are; names are cut. */
function ustar(entry: TarEntry, type: string, path: Buffer): Buffer {
  const block = Buffer.alloc(TAR_BLOCK)
  const octal = (at: number, digits: number, value: number | bigint, max: number) => {
    const number = value >= 0 && value <= max ? value : 0
    block.write(number.toString(8).padStart(digits, '0'), at, 'latin1')
  }
  path.copy(block, 0, 0, NAME_MAX)
  octal(100, 7, entry.mode, SMALL_MAX)
  octal(108, 7, entry.uid, SMALL_MAX)
  octal(116, 7, entry.gid, SMALL_MAX)
  octal(124, 11, entry.size, LARGE_MAX)
  octal(136, 11, entry.modifiedNs / NS, LARGE_MAX)
  block.fill(0x20, 148, 156)
  block.write(type, 156, 'latin1')
  entry.linkPath?.copy(block, 157, 0, NAME_MAX)
  block.write('ustar\x0000', 257, 'latin1')
  if (entry.device !== undefined) {
    octal(329, 7, entry.device.major, SMALL_MAX)
    octal(337, 7, entry.device.minor, SMALL_MAX)
  }
  let sum = 0
  for (const byte of block) sum += byte
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return block
}
