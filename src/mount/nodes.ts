/** What the nodes of the mount itself have in common: read-only, of whoever mounts, with the time of their point. */
import { createHash } from 'node:crypto'
import { memoryDevice } from '../block/memory.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { Entry, FileNode, SymlinkNode } from '../files/file-tree.ts'
import { type VirtualNode, virtualFile, virtualSymlink } from '../files/virtual-node.ts'

export interface Owner {
  readonly uid: number
  readonly gid: number
}

/** Where a node stands among others, and what `ls -l` says of it. */
export interface Place {
  readonly tree: string
  readonly modified: Date
  readonly owner: Owner
}

export const FILE = 0o444
export const FOLDER = 0o555

export const ours = ({ tree, modified, owner }: Place, inode: bigint, permissions: number): VirtualNode => ({
  tree,
  inode,
  permissions,
  ...owner,
  modifiedNs: BigInt(modified.getTime()) * 1_000_000n,
})

/** Another text is another file, as if it had been renamed over this one: whoever has this one open goes on reading it. */
export const textFile = (place: Place, text: string): FileNode => lateText(place, text, async () => text)

/** The same where the text is too much to be kept: `read` gives it again. */
export const lateText = (place: Place, text: string, read: (options: AbortOptions) => Promise<string>): FileNode =>
  virtualFile({
    ...ours(place, inodeOf(text), FILE),
    size: Buffer.byteLength(text),
    open: async (options = {}) => memoryDevice(Buffer.from(await read(options))),
  })

/** Likewise: a link that leads elsewhere is another link. */
export const linkTo = (place: Place, name: string, target: string): SymlinkNode =>
  virtualSymlink({ ...ours(place, inodeOf(`${name}\0${target}`), 0o777), target })

/** The same text, the same number: 62 bits of its hash, and none of the small numbers that are given by hand. */
const inodeOf = (text: string): bigint =>
  (createHash('sha256').update(text).digest().readBigUInt64LE() >> 2n) | (1n << 62n)

/** Entries that a list gives at once. */
const BATCH = 256

/** Nodes are made batch by batch, while somebody takes them. */
export function* batched<T>(items: readonly T[], entryOf: (item: T) => Entry): Iterable<readonly Entry[]> {
  for (let at = 0; at < items.length; at += BATCH) yield items.slice(at, at + BATCH).map(entryOf)
}
