/** What the kernel asks, by opcode. Each either replies in the turn that read the request, or launches what replies later. */
import { messageOf } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { DirectoryNode, Statfs } from '../files/file-tree.ts'
import * as C from './constants.ts'
import { E, errnoOf, Refusal } from './errno.ts'
import { HandleOperations } from './handle-operations.ts'
import { NodeOperations } from './node-operations.ts'
import { NodeTable } from './node-table.ts'
import type { Replies } from './replies.ts'
import type { Answer, RequestsInFlight } from './requests-in-flight.ts'
import type { RequestHeader } from './wire.ts'

/** The request that was read last: all of it is the next one's when the operation returns. */
export interface Request extends RequestHeader {
  readonly input: Uint8Array
  readonly view: DataView
  length: number
}

export type Operation = (request: Request) => void

/**
 * What the kernel makes of modes and POSIX ACLs. 'enforced': it judges by them who may read what. 'kept': it need not ask for them
 * again, and only root gets there, whom they keep out of nothing: one that cannot be read counts as none, or the file could not be
 * read either. Left out: it knows nothing of them, and whoever gets to the mount may read everything.
 */
export type Acls = 'enforced' | 'kept'

/** What the operations share. */
export interface Scope {
  readonly table: NodeTable
  readonly replies: Replies
  readonly trouble: (message: string, error?: unknown) => void
  /** `what` names it in the log if it fails. */
  launch(unique: number, what: string, work: (options: AbortOptions) => Promise<Answer>): void
}

export interface OperationsOptions extends Pick<Scope, 'replies' | 'trouble'> {
  readonly root: DirectoryNode
  readonly statfs: ((options?: AbortOptions) => Promise<Statfs>) | undefined
  readonly requests: RequestsInFlight
  readonly acls: Acls | undefined
}

/** All that would change something. Most of them the kernel refuses by itself, since the mount is read-only. */
const MUTATING = [
  ...[C.FUSE_SETATTR, C.FUSE_SYMLINK, C.FUSE_MKNOD, C.FUSE_MKDIR, C.FUSE_UNLINK, C.FUSE_RMDIR, C.FUSE_RENAME],
  ...[C.FUSE_LINK, C.FUSE_WRITE, C.FUSE_SETXATTR, C.FUSE_REMOVEXATTR, C.FUSE_CREATE, C.FUSE_FALLOCATE],
  ...[C.FUSE_RENAME2, C.FUSE_COPY_FILE_RANGE, C.FUSE_TMPFILE],
]

export class Operations {
  readonly #replies: Replies
  readonly #handles: HandleOperations
  readonly #byOpcode: ReadonlyMap<number, Operation>

  constructor({ root, statfs, acls, replies, requests, trouble }: OperationsOptions) {
    this.#replies = replies
    const launch: Scope['launch'] = (unique, what, work) =>
      requests.launch(unique, work, error => {
        if (!(error instanceof Refusal)) trouble(`${what} failed: ${messageOf(error)}`, error)
        replies.error(unique, errnoOf(error))
      })
    const scope = { table: new NodeTable(root), replies, trouble, launch }
    this.#handles = new HandleOperations(scope)
    const readOnly: Operation = ({ unique }) => void replies.error(unique, E.EROFS)
    this.#byOpcode = new Map([
      ...new NodeOperations(scope, { statfs, acls }).byOpcode,
      ...this.#handles.byOpcode,
      ...MUTATING.map(opcode => [opcode, readOnly] as const),
      [C.FUSE_IOCTL, ({ unique }) => void replies.error(unique, E.ENOTTY)],
    ])
  }

  begin(request: Request): void {
    const operation = this.#byOpcode.get(request.opcode)
    // FLUSH, FSYNC, ACCESS, locks, BMAP, POLL and what is yet to come: the kernel does these by itself, and asks no more.
    if (operation === undefined) this.#replies.error(request.unique, E.ENOSYS)
    else operation(request)
  }

  close(): Promise<void> {
    return this.#handles.close()
  }
}
