/** What is said of extended attributes: a value, the list of names, or how long either is. */
import { encodeName } from '../files/name.ts'
import { E } from './errno.ts'
import type { Replies } from './replies.ts'
import { encodeXattrSize } from './wire.ts'

export interface XattrQuestion {
  /** Undefined: the list of names. */
  readonly name: string | undefined
  /** Bytes; 0 asks how many it takes. */
  readonly room: number
}

/** XATTR_SIZE_MAX and XATTR_LIST_MAX of Linux. */
const XATTR_BYTES_MAX = 65_536
const NUL = Buffer.alloc(1)

export function tellXattr(
  replies: Replies,
  unique: number,
  xattrs: ReadonlyMap<string, Uint8Array>,
  { name, room }: XattrQuestion,
): boolean {
  const value = name === undefined ? listOf(xattrs) : xattrs.get(name)
  const errno = value === undefined ? E.ENODATA : value.length > XATTR_BYTES_MAX ? E.E2BIG : 0
  if (value === undefined || errno !== 0) return replies.error(unique, errno)
  if (room === 0) return replies.body(unique, encodeXattrSize(replies.view, replies.start, value.length))
  if (value.length > room) return replies.error(unique, E.ERANGE)
  return replies.data(unique, [value], value.length)
}

const listOf = (xattrs: ReadonlyMap<string, Uint8Array>): Uint8Array =>
  Buffer.concat([...xattrs.keys()].flatMap(name => [encodeName(name), NUL]))
