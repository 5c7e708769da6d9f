/**
 * Files: trees of files that can be read.
 *
 * What it is: `TreeNode`, what a mount serves, `files` walks and a restore copies. The tree of all points is one, a filesystem
 * inside a guest is one, a folder of this host and a tree in memory are others; a directory may hold nodes of other trees.
 * What it guarantees: a node tells the truth of one file, or the call fails with a LifeboatError; calls may overlap; nothing
 * is ever written.
 * What it does not know: who asks (the kernel, a restore, a test), where the bytes lie, and whether names are safe on the
 * asker's side. Names and attributes of a guest are the guest's word: hostile until proven otherwise.
 */
import type { BlockReader } from '../block/block-device.ts'
import type { AbortOptions } from '../core/scope.ts'

export type SpecialKind = 'fifo' | 'socket' | 'character-device' | 'block-device'
export type FileKind = 'file' | 'directory' | 'symlink' | SpecialKind

export interface Attributes {
  readonly kind: FileKind
  /** Within `TreeNode.tree`: the names (hard links) of one file have one inode. */
  readonly inode: bigint
  /** Bytes. Of a symlink the length of its target; of a directory whatever its tree says. */
  readonly size: number
  /** Bytes that it takes in its tree; less than `size` where it has holes. */
  readonly allocated: number
  /** The lower twelve bits of a mode: setuid, setgid, sticky, rwxrwxrwx. */
  readonly permissions: number
  readonly links: number
  readonly uid: number
  readonly gid: number
  /** Of devices. */
  readonly device?: { readonly major: number; readonly minor: number }
  /** Nanoseconds since 1970. */
  readonly modifiedNs: bigint
  readonly changedNs: bigint
  readonly accessedNs: bigint
  readonly bornNs?: bigint
}

interface Node {
  /** Names the tree in which `inode` counts: another string for each filesystem of each point, never used for two. */
  readonly tree: string
  /**
   * Nothing that this node says ever changes: attributes, contents, and of a directory its names. Whoever asked once may
   * remember it for as long as the tree is open.
   */
  readonly isFrozen: boolean
  /** Known since the node was found, so told at once. Of a node that is not frozen: as of now. */
  attributes(): Attributes
  /** By full name ('user.x', 'security.capability', 'system.posix_acl_access'), as getxattr(2) gives the values. */
  xattrs(options?: AbortOptions): Promise<ReadonlyMap<string, Uint8Array>>
}

export interface FileNode extends Node {
  readonly kind: 'file'
  /** The contents: `size` is that of the attributes, 'zero' extents are holes. Dispose closes it; other readers of it go on. */
  open(options?: AbortOptions): Promise<BlockReader>
}

export interface SymlinkNode extends Node {
  readonly kind: 'symlink'
  /** Any text: absolute, dangling, hostile. Nobody here follows it. */
  readLink(options?: AbortOptions): Promise<string>
}

export interface SpecialNode extends Node {
  readonly kind: SpecialKind
}

/** Names are those of `name.ts`: never '', '.', '..', nor with a slash or a NUL in them, whatever a guest's disk says. */
export interface Entry {
  readonly name: string
  readonly node: TreeNode
}

export interface DirectoryNode extends Node {
  readonly kind: 'directory'
  /** Undefined: there is no such name. That it could not be looked up is an error. */
  lookup(name: string, options?: AbortOptions): Promise<TreeNode | undefined>
  /**
   * Each entry once, in batches of the tree's choice, in an order that stays the same while the directory does. A batch comes
   * with all its attributes. Ending the iteration early ends the work.
   */
  list(options?: AbortOptions): AsyncIterable<readonly Entry[]>
}

export type TreeNode = FileNode | DirectoryNode | SymlinkNode | SpecialNode

export interface Statfs {
  readonly blockSize: number
  /** In blocks. */
  readonly blocks: bigint
  readonly free: bigint
  readonly files: bigint
}

export interface FileTree extends AsyncDisposable {
  readonly root: DirectoryNode
  statfs?(options?: AbortOptions): Promise<Statfs>
}
