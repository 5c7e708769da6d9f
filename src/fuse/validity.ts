/** How long the kernel may go by an answer: a name as long as its directory stays, attributes as long as the node does. */
import { limits } from '../core/limits.ts'
import type { DirectoryNode, TreeNode } from '../files/file-tree.ts'
import type { Validity } from './wire.ts'

export const secondsOf = ({ isFrozen }: TreeNode): number =>
  isFrozen ? limits.fuseFrozenSeconds : limits.fuseLiveSeconds

export const validityOf = (node: TreeNode, parent: DirectoryNode): Validity => ({
  entry: secondsOf(parent),
  attributes: secondsOf(node),
})
