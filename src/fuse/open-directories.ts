/** Directories that the kernel has open, and its listings of them: plain (READDIR), or with what LOOKUP would say (READDIRPLUS). */
import type { DirectoryNode, TreeNode } from '../files/file-tree.ts'
import { encodeName } from '../files/name.ts'
import { ENTRY_OUT_BYTES } from './constants.ts'
import { DirectoryStream } from './directory-stream.ts'
import type { NodeTable } from './node-table.ts'
import type { Replies } from './replies.ts'
import { validityOf } from './validity.ts'
import { direntBytes, encodeDirent, encodeEntry, encodeNoEntry } from './wire.ts'

export interface Listing {
  readonly stream: DirectoryStream
  readonly position: number
  /** Bytes that the kernel has room for. */
  readonly size: number
  readonly plus: boolean
}

const DOT = Buffer.from('.')
const DOTDOT = Buffer.from('..')

export class OpenDirectories {
  readonly #streams = new Map<number, DirectoryStream>()
  readonly #table: NodeTable
  readonly #replies: Replies
  #last = 0

  constructor(table: NodeTable, replies: Replies) {
    this.#table = table
    this.#replies = replies
  }

  get(handle: number): DirectoryStream | undefined {
    return this.#streams.get(handle)
  }

  open(node: DirectoryNode): number {
    this.#streams.set(++this.#last, new DirectoryStream(node))
    return this.#last
  }

  async release(handle: number): Promise<void> {
    const stream = this.#streams.get(handle)
    this.#streams.delete(handle)
    await stream?.close()
  }

  async closeAll(): Promise<void> {
    await Promise.all([...this.#streams.keys()].map(handle => this.release(handle)))
  }

  /** Replies with as many entries as there are at hand and fit: none at the end. An entry counts as looked up once it is told. */
  tell(unique: number, { stream, position, size, plus }: Listing): boolean {
    const { start, bytes } = this.#replies
    const end = start + Math.min(size, bytes.length - start)
    const held: number[] = []
    let at = start
    for (let next = position; stream.has(next); next++) {
      const entry = next < 2 ? { name: next === 0 ? '.' : '..', node: stream.node } : stream.entry(next)
      if (entry === undefined) break
      const name = next < 2 ? (next === 0 ? DOT : DOTDOT) : encodeName(entry.name)
      if (at + (plus ? ENTRY_OUT_BYTES : 0) + direntBytes(name) > end) break
      if (plus) at += this.#encodeKnown(at, next < 2 ? undefined : entry.node, stream.node, held)
      at += this.#encodeName(at, name, entry.node, next + 1)
    }
    const told = this.#replies.body(unique, at - start)
    stream.told()
    if (!told) for (const nodeId of held) this.#table.forget(nodeId, 1)
    return told
  }

  #encodeKnown(at: number, node: TreeNode | undefined, parent: DirectoryNode, held: number[]): number {
    if (node === undefined) return encodeNoEntry(this.#replies.view, at, 0)
    const nodeId = this.#table.hold(node)
    held.push(nodeId)
    return encodeEntry(this.#replies.view, at, nodeId, nodeId, node.attributes(), validityOf(node, parent))
  }

  #encodeName(at: number, name: Uint8Array, node: TreeNode, next: number): number {
    const { bytes, view } = this.#replies
    return encodeDirent(bytes, view, at, { name, inode: this.#table.idOf(node), kind: node.kind, next })
  }
}
