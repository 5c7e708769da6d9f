/** What is asked of a node by its id. */
import { messageOf } from '../core/errors.ts'
import type { DirectoryNode, Statfs, TreeNode } from '../files/file-tree.ts'
import { decodeName, encodeName, isName } from '../files/name.ts'
import * as C from './constants.ts'
import { E, Refusal } from './errno.ts'
import type { Acls, Operation, OperationsOptions, Request, Scope } from './operations.ts'
import { secondsOf, validityOf } from './validity.ts'
import * as wire from './wire.ts'
import { tellXattr, type XattrQuestion } from './xattrs.ts'

const BODY = C.IN_HEADER_BYTES
/** PATH_MAX without its NUL. */
const TARGET_BYTES_MAX = 4095
const ACL_PREFIX = 'system.posix_acl_'
/** A mount whose tree does not say how large it is has no size. */
const NO_STATFS: Statfs = { blockSize: 4096, blocks: 0n, free: 0n, files: 0n }

export class NodeOperations {
  readonly byOpcode: readonly (readonly [number, Operation])[] = [
    [C.FUSE_LOOKUP, request => this.#lookup(request)],
    [C.FUSE_FORGET, ({ nodeId, view }) => this.#scope.table.forget(nodeId, wire.getUint64(view, BODY))],
    [C.FUSE_BATCH_FORGET, request => this.#batchForget(request)],
    [C.FUSE_GETATTR, request => this.#getattr(request, wire.encodeAttrOut)],
    [C.FUSE_STATX, request => this.#getattr(request, wire.encodeStatx)],
    [C.FUSE_READLINK, request => this.#readlink(request)],
    [C.FUSE_GETXATTR, request => this.#getxattr(request)],
    [C.FUSE_LISTXATTR, request => this.#xattr(request, { name: undefined, room: request.view.getUint32(BODY, true) })],
    [C.FUSE_STATFS, ({ unique }) => this.#askStatfs(unique)],
  ]
  readonly #scope: Scope
  readonly #statfs: OperationsOptions['statfs']
  readonly #acls: Acls | undefined

  constructor(scope: Scope, { statfs, acls }: Pick<OperationsOptions, 'statfs' | 'acls'>) {
    this.#scope = scope
    this.#statfs = statfs
    this.#acls = acls
  }

  #node(nodeId: number): TreeNode {
    const node = this.#scope.table.get(nodeId)
    if (node === undefined) throw new Refusal(E.ESTALE)
    return node
  }

  #lookup({ unique, nodeId, input, length }: Request): void {
    const node = this.#node(nodeId)
    const name = decodeName(wire.nameAt(input, BODY, length))
    if (node.kind !== 'directory') throw new Refusal(E.ENOTDIR)
    if (!isName(name)) throw new Refusal(E.ENOENT)
    this.#scope.launch(unique, 'a lookup', async options => {
      const found = await node.lookup(name, options)
      return { tell: () => this.#tellEntry(unique, found, node) }
    })
  }

  #tellEntry(unique: number, found: TreeNode | undefined, parent: DirectoryNode): boolean {
    const { table, replies } = this.#scope
    const { view, start } = replies
    if (found === undefined) return replies.body(unique, wire.encodeNoEntry(view, start, secondsOf(parent)))
    const nodeId = table.hold(found)
    const told = replies.body(
      unique,
      wire.encodeEntry(view, start, nodeId, nodeId, found.attributes(), validityOf(found, parent)),
    )
    if (!told) table.forget(nodeId, 1)
    return told
  }

  #batchForget({ view, length }: Request): void {
    const count = view.getUint32(BODY, true)
    for (let i = 0, at = BODY + 8; i < count && at + 16 <= length; i++, at += 16)
      this.#scope.table.forget(wire.getUint64(view, at), wire.getUint64(view, at + 8))
  }

  #getattr({ unique, nodeId }: Request, encode: typeof wire.encodeAttrOut): void {
    const { table, replies } = this.#scope
    const node = this.#node(nodeId)
    replies.body(unique, encode(replies.view, replies.start, table.idOf(node), node.attributes(), secondsOf(node)))
  }

  #readlink({ unique, nodeId }: Request): void {
    const node = this.#node(nodeId)
    if (node.kind !== 'symlink') throw new Refusal(E.EINVAL)
    this.#scope.launch(unique, 'a symlink', async options => {
      const target = encodeName(await node.readLink(options))
      if (target.length > TARGET_BYTES_MAX) throw new Refusal(E.ENAMETOOLONG)
      return { tell: () => this.#scope.replies.data(unique, [target], target.length) }
    })
  }

  #getxattr(request: Request): void {
    const { unique, nodeId, input, view, length } = request
    // Most files have none, and `ls -l` asks for two of each.
    const { table, replies } = this.#scope
    if (table.known(nodeId)?.xattrs?.size === 0) return void replies.error(unique, E.ENODATA)
    const name = decodeName(wire.nameAt(input, BODY + 8, length))
    this.#xattr(request, { name, room: view.getUint32(BODY, true) })
  }

  #xattr({ unique, nodeId }: Request, question: XattrQuestion): void {
    const { table, replies, launch } = this.#scope
    const known = table.known(nodeId)
    if (known === undefined) throw new Refusal(E.ESTALE)
    if (known.xattrs !== undefined) return void tellXattr(replies, unique, known.xattrs, question)
    const { node } = known
    launch(unique, 'extended attributes', async options => {
      const xattrs = await node.xattrs(options).catch(error => {
        if (this.#acls !== 'kept' || !question.name?.startsWith(ACL_PREFIX)) throw error
        this.#scope.trouble(`an ACL cannot be read and counts as none: ${messageOf(error)}`, error)
        throw new Refusal(E.ENODATA)
      })
      if (node.isFrozen) known.xattrs = xattrs
      return { tell: () => tellXattr(replies, unique, xattrs, question) }
    })
  }

  #askStatfs(unique: number): void {
    const { replies, launch } = this.#scope
    launch(unique, 'statfs', async options => {
      const statfs = (await this.#statfs?.(options)) ?? NO_STATFS
      return { tell: () => replies.body(unique, wire.encodeStatfs(replies.view, replies.start, statfs)) }
    })
  }
}
