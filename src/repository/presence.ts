/** Which chunks of a disk are stored, from its tree alone. An absent subtree is one step however much of the disk it covers. */
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { TreeNode } from './node-codec.ts'
import type { ChunkSpan } from './repository.ts'
import { chunksBelow } from './tree-geometry.ts'
import type { TreeReader } from './tree-reader.ts'

/** Leaves that a walk asks for at once: 256 MiB of disk, half a megabyte of nodes. */
const LEAVES_AHEAD = 64

/** Chunks [first, first + count), in order, neighbours of one kind not joined. */
export async function* presentSpans(
  tree: TreeReader,
  first: number,
  count: number,
  options: AbortOptions = {},
): AsyncIterable<ChunkSpan> {
  const end = first + count
  for (let at = first; at < end; ) {
    const { node, level, position } = await descend(tree, at, end, options)
    if (!node) {
      const covered = chunksBelow(level)
      const next = Math.min(end, (Math.floor(at / covered) + 1) * covered)
      yield { first: at, count: next - at, isPresent: false }
      at = next
      continue
    }
    const next = Math.min(end, at + limits.leafWidth - position)
    while (at < next) {
      const from = at
      const isPresent = node.has(from % limits.leafWidth)
      while (at < next && node.has(at % limits.leafWidth) === isPresent) at++
      yield { first: from, count: at - from, isPresent }
    }
  }
}

interface Reached {
  /** The leaf; undefined where the way down ended before it, at an absent position of `level`. */
  readonly node: TreeNode | undefined
  readonly level: number
  /** In the leaf. */
  readonly position: number
}

async function descend(tree: TreeReader, chunk: number, end: number, options: AbortOptions): Promise<Reached> {
  for (let level = tree.geometry.topLevel; level >= 0; level--) {
    const index = Math.floor(chunk / chunksBelow(level + 1))
    let node = tree.nodeNow(level, index)
    if (node === 'unknown')
      node = level === 0 ? await leafAhead(tree, index, end, options) : await tree.node(level, index, options)
    if (!node) return { node: undefined, level: level + 1, position: 0 }
    if (level === 0) return { node, level, position: chunk % limits.leafWidth }
  }
  return { node: undefined, level: 0, position: 0 }
}

async function leafAhead(
  tree: TreeReader,
  index: number,
  end: number,
  options: AbortOptions,
): Promise<TreeNode | undefined> {
  const count = Math.min(LEAVES_AHEAD, Math.ceil(end / limits.leafWidth) - index)
  const [leaf] = await tree.nodes(
    0,
    Array.from({ length: count }, (_, n) => index + n),
    options,
  )
  return leaf
}
