/** What is asked of files and directories that are open. */
import type { FileNode } from '../files/file-tree.ts'
import * as C from './constants.ts'
import { E, Refusal } from './errno.ts'
import { OpenDirectories } from './open-directories.ts'
import { type OpenFile, OpenFiles } from './open-files.ts'
import type { Operation, Request, Scope } from './operations.ts'
import * as wire from './wire.ts'

const BODY = C.IN_HEADER_BYTES

export class HandleOperations {
  readonly byOpcode: readonly (readonly [number, Operation])[] = [
    [C.FUSE_READ, request => this.#read(request)],
    [C.FUSE_OPEN, request => this.#open(request)],
    [C.FUSE_RELEASE, request => this.#release(request)],
    [C.FUSE_OPENDIR, request => this.#opendir(request)],
    [C.FUSE_READDIR, request => this.#readdir(request, false)],
    [C.FUSE_READDIRPLUS, request => this.#readdir(request, true)],
    [C.FUSE_RELEASEDIR, request => this.#releasedir(request)],
    [C.FUSE_LSEEK, request => this.#seek(request)],
  ]
  readonly #scope: Scope
  readonly #files: OpenFiles
  readonly #directories: OpenDirectories

  constructor(scope: Scope) {
    this.#scope = scope
    this.#files = new OpenFiles(scope.trouble)
    this.#directories = new OpenDirectories(scope.table, scope.replies)
  }

  async close(): Promise<void> {
    await Promise.all([this.#files.closeAll(), this.#directories.closeAll()])
  }

  #file(view: DataView): OpenFile {
    const file = this.#files.get(wire.getUint64(view, BODY))
    if (file === undefined) throw new Refusal(E.EBADF)
    return file
  }

  #open({ unique, nodeId, view }: Request): void {
    const node = this.#scope.table.get(nodeId)
    if (node === undefined) throw new Refusal(E.ESTALE)
    if (node.kind !== 'file') throw new Refusal(node.kind === 'directory' ? E.EISDIR : E.EINVAL)
    if ((view.getUint32(BODY, true) & (C.O_ACCMODE | C.O_TRUNC)) !== 0) throw new Refusal(E.EROFS)
    this.#scope.launch(unique, 'an open', async options => {
      const file = await this.#files.open(node, options)
      return { tell: () => this.#tellOpen(unique, node, file), undo: () => this.#files.drop(file) }
    })
  }

  #tellOpen(unique: number, node: FileNode, file: OpenFile): boolean {
    const { replies } = this.#scope
    const handle = this.#files.add(file)
    const flags = node.isFrozen ? C.FOPEN_KEEP_CACHE : 0
    const told = replies.body(unique, wire.encodeOpen(replies.view, replies.start, handle, flags))
    if (!told) this.#files.remove(handle)
    return told
  }

  /** From memory in this turn, without a copy or a promise; else when the reader has it. */
  #read({ unique, view }: Request): void {
    const { replies, launch } = this.#scope
    const file = this.#file(view)
    const offset = wire.getUint64(view, BODY + 8)
    const length = this.#files.length(file, offset, view.getUint32(BODY + 16, true))
    if (length === 0) return void replies.body(unique, 0)
    const borrowed = this.#files.borrow(file, offset, length)
    if (borrowed !== undefined) {
      replies.data(unique, borrowed.views, length)
      return void borrowed.release()
    }
    launch(unique, `a read at ${offset}+${length}`, async options => {
      const bytes = await this.#files.read(file, offset, length, options)
      return { tell: () => replies.data(unique, [bytes], length) }
    })
  }

  #release({ unique, view }: Request): void {
    const file = this.#files.remove(wire.getUint64(view, BODY))
    if (file !== undefined) this.#files.drop(file)
    this.#scope.replies.body(unique, 0)
  }

  #opendir({ unique, nodeId }: Request): void {
    const { table, replies } = this.#scope
    const node = table.get(nodeId)
    if (node === undefined) throw new Refusal(E.ESTALE)
    if (node.kind !== 'directory') throw new Refusal(E.ENOTDIR)
    const handle = this.#directories.open(node)
    const flags = node.isFrozen ? C.FOPEN_CACHE_DIR | C.FOPEN_KEEP_CACHE : 0
    if (!replies.body(unique, wire.encodeOpen(replies.view, replies.start, handle, flags)))
      void this.#directories.release(handle)
  }

  #readdir({ unique, view }: Request, plus: boolean): void {
    const stream = this.#directories.get(wire.getUint64(view, BODY))
    if (stream === undefined) throw new Refusal(E.EBADF)
    const position = wire.getUint64(view, BODY + 8)
    const listing = { stream, position, size: view.getUint32(BODY + 16, true), plus }
    const tell = () => this.#directories.tell(unique, listing)
    // What follows '.' and '..' is fetched along with them.
    const until = Math.max(position, 2)
    if (stream.has(position) && stream.has(until)) return void tell()
    this.#scope.launch(unique, 'a listing', async () => {
      await stream.reach(position)
      await stream.reach(until)
      return { tell }
    })
  }

  #releasedir({ unique, view }: Request): void {
    void this.#directories.release(wire.getUint64(view, BODY))
    this.#scope.replies.body(unique, 0)
  }

  /** SEEK_DATA and SEEK_HOLE; the kernel does the others by itself. */
  #seek({ unique, view }: Request): void {
    const { replies, launch } = this.#scope
    const file = this.#file(view)
    const offset = wire.getUint64(view, BODY + 8)
    const whence = view.getUint32(BODY + 16, true)
    if (whence !== C.SEEK_DATA && whence !== C.SEEK_HOLE) throw new Refusal(E.EINVAL)
    launch(unique, 'a search for holes', async options => {
      const found = await this.#files.seek(file, offset, whence, options)
      if (found === undefined) throw new Refusal(E.ENXIO)
      return { tell: () => replies.body(unique, wire.encodeSeek(replies.view, replies.start, found)) }
    })
  }
}
