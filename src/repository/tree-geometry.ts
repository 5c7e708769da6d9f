/** The shape of a disk's tree, which its size and chunk size alone decide (docs/repository-format.md, section 5). */
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'

export interface TreeGeometry {
  readonly size: number
  readonly chunkSize: number
  /** Chunks of the disk. */
  readonly chunks: number
  /** Nodes of each level, leaves first, up to and including the top level. */
  readonly nodes: readonly number[]
  /** T: the level whose entries the manifest holds. */
  readonly topLevel: number
  /** m(T): positions of the top list. */
  readonly topWidth: number
}

export function treeGeometry(size: number, chunkSize: number): TreeGeometry {
  if (!isChunkSize(chunkSize)) throw new LifeboatError('absurd-object', `a chunk size of ${chunkSize} is not possible`)
  if (!Number.isSafeInteger(size) || size < 0 || size > limits.diskSizeMax)
    throw new LifeboatError('absurd-object', `a disk of ${size} bytes is not possible`)
  const chunks = Math.ceil(size / chunkSize)
  const nodes = [Math.ceil(chunks / limits.leafWidth)]
  while (nodes.at(-1)! > limits.manifestEntriesMax) nodes.push(Math.ceil(nodes.at(-1)! / limits.nodeWidth))
  return { size, chunkSize, chunks, nodes, topLevel: nodes.length - 1, topWidth: nodes.at(-1)! }
}

export const isChunkSize = (value: number): boolean =>
  value >= limits.chunkSizeMin && value <= limits.chunkSizeMax && Number.isInteger(Math.log2(value))

/** Positions of one node at `level`; at topLevel + 1 it is the top list. */
export function widthAt(tree: TreeGeometry, level: number): number {
  if (level > tree.topLevel) return tree.topWidth
  return level === 0 ? limits.leafWidth : limits.nodeWidth
}

/** Positions of node `index` at `level` that lie within the disk; entries past them are absent. */
export function usedAt(tree: TreeGeometry, level: number, index: number): number {
  if (level > tree.topLevel) return tree.topWidth
  const below = level === 0 ? tree.chunks : tree.nodes[level - 1]!
  return Math.min(widthAt(tree, level), below - index * widthAt(tree, level))
}

/** Chunks below one position of a node at `level`: 1 for a leaf, 64 for level 1, 64 x 256 for level 2. */
export const chunksBelow = (level: number): number =>
  level === 0 ? 1 : limits.leafWidth * limits.nodeWidth ** (level - 1)
