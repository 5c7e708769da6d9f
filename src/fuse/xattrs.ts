/** Extended attributes: `ls -l` asks for some of every file, so that those of nodes that stay are kept as long as the node is. */
import type { AbortOptions } from '../core/scope.ts'
import type { TreeNode } from '../files/file-tree.ts'
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

type Xattrs = ReadonlyMap<string, Uint8Array>

/** XATTR_SIZE_MAX and XATTR_LIST_MAX of Linux. */
const XATTR_BYTES_MAX = 65_536
const NUL = Buffer.alloc(1)

export class ExtendedAttributes {
  readonly #known = new WeakMap<TreeNode, Xattrs>()

  known(node: TreeNode): Xattrs | undefined {
    return this.#known.get(node)
  }

  async ask(node: TreeNode, options: AbortOptions): Promise<Xattrs> {
    const xattrs = await node.xattrs(options)
    if (node.isFrozen) this.#known.set(node, xattrs)
    return xattrs
  }

  tell(replies: Replies, unique: number, xattrs: Xattrs, { name, room }: XattrQuestion): boolean {
    const value = name === undefined ? listOf(xattrs) : xattrs.get(name)
    const errno = value === undefined ? E.ENODATA : value.length > XATTR_BYTES_MAX ? E.E2BIG : 0
    if (value === undefined || errno !== 0) return replies.error(unique, errno)
    if (room === 0) return replies.body(unique, encodeXattrSize(replies.view, replies.start, value.length))
    if (value.length > room) return replies.error(unique, E.ERANGE)
    return replies.data(unique, [value], value.length)
  }
}

const listOf = (xattrs: Xattrs): Uint8Array =>
  Buffer.concat([...xattrs.keys()].flatMap(name => [encodeName(name), NUL]))
