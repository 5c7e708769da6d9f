/**
 * The nodes that the kernel knows. It holds a node by its id as often as an answer has named it (LOOKUP, READDIRPLUS), and gives
 * so many back with FORGET; then the node goes from here, and would be found again under the same id.
 *
 * An id is a file's tree and inode in one number below 2^53, so that hard links share it, no two files of any trees do, and
 * st_ino, which is the id, stays what it was for the life of the mount.
 */
import { LifeboatError } from '../core/errors.ts'
import type { DirectoryNode, TreeNode } from '../files/file-tree.ts'
import { FUSE_ROOT_ID } from './constants.ts'

const INODE_BITS = 33
const INODES = 2 ** INODE_BITS
/** Those above stand for inodes that are larger than this, in the order in which they came. */
const DIRECT_INODES = 2n ** 32n
const TREES_MAX = 2 ** (53 - INODE_BITS) - 1

/** A node that the kernel holds. */
export interface KnownNode {
  node: TreeNode
  held: number
  /** Of a node that stays as it is, once somebody asked: `ls -l` asks for some of every file. */
  xattrs?: ReadonlyMap<string, Uint8Array>
}

interface Tree {
  readonly base: number
  readonly large: Map<string, number>
}

export class NodeTable {
  readonly #known = new Map<number, KnownNode>()
  readonly #trees = new Map<string, Tree>()

  constructor(root: DirectoryNode) {
    // The kernel never gives it back.
    this.#known.set(FUSE_ROOT_ID, { node: root, held: 1 })
  }

  get size(): number {
    return this.#known.size
  }

  /** Undefined where the kernel names what it does not hold. */
  get(nodeId: number): TreeNode | undefined {
    return this.#known.get(nodeId)?.node
  }

  known(nodeId: number): KnownNode | undefined {
    return this.#known.get(nodeId)
  }

  /** The id of any node, whether or not the kernel knows it: st_ino. */
  idOf(node: TreeNode): number {
    const tree = this.#treeOf(node.tree)
    const { inode, changedNs } = node.attributes()
    // The kernel remembers where a symlink leads for as long as it knows the inode. Here as elsewhere another target is another symlink.
    if (node.kind === 'symlink' && !node.isFrozen) return tree.base + largeInode(tree, `${inode} ${changedNs}`)
    return tree.base + (inode >= 0n && inode < DIRECT_INODES ? Number(inode) : largeInode(tree, `${inode}`))
  }

  /** The kernel is told of this node once more: what was found last stands for its id. */
  hold(node: TreeNode): number {
    const id = this.idOf(node)
    const known = this.#known.get(id)
    if (known === undefined) this.#known.set(id, { node, held: 1 })
    else {
      known.node = node
      known.held++
    }
    return id
  }

  forget(nodeId: number, count: number): void {
    const known = this.#known.get(nodeId)
    if (known === undefined || nodeId === FUSE_ROOT_ID) return
    known.held -= count
    if (known.held <= 0) this.#known.delete(nodeId)
  }

  #treeOf(name: string): Tree {
    const known = this.#trees.get(name)
    if (known !== undefined) return known
    if (this.#trees.size >= TREES_MAX)
      throw new LifeboatError('internal', `more than ${TREES_MAX} trees were looked at in one mount`, {
        hint: 'Unmount, and mount again.',
      })
    const tree: Tree = { base: (this.#trees.size + 1) * INODES, large: new Map() }
    this.#trees.set(name, tree)
    return tree
  }
}

function largeInode({ large }: Tree, key: string): number {
  const known = large.get(key)
  if (known !== undefined) return known
  const inode = Number(DIRECT_INODES) + large.size
  large.set(key, inode)
  return inode
}
