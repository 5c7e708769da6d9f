/** Every record of a tree, in disk order, whatever cannot be read on the way: for verify. */
import type { Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { TreeNode } from './node-codec.ts'
import type { ChunkRef } from './repository.ts'
import { chunksBelow, type TreeGeometry, widthAt } from './tree-geometry.ts'
import type { TreeReader } from './tree-reader.ts'

export interface WalkedRecord {
  readonly kind: 'node' | 'chunk'
  readonly ref: ChunkRef
  /** Bytes of the disk that hang on it. */
  readonly range: Range
}

export interface TreeVisitor {
  /** Whether to go into this node. Called before it is read. */
  enters(record: WalkedRecord): boolean
  /** The node was read and authenticated. */
  read(record: WalkedRecord): void
  failed(record: WalkedRecord, error: unknown): void
}

/** Nodes that are asked for at once. */
const NODES_AT_ONCE = 64

/** Yields the chunks of each leaf that is entered. */
export async function* walkTree(
  tree: TreeReader,
  visitor: TreeVisitor,
  options: AbortOptions = {},
): AsyncIterable<readonly WalkedRecord[]> {
  yield* walkNode(tree, tree.geometry.topLevel + 1, 0, tree.top, visitor, options)
}

async function* walkNode(
  tree: TreeReader,
  level: number,
  index: number,
  node: TreeNode,
  visitor: TreeVisitor,
  options: AbortOptions,
): AsyncIterable<readonly WalkedRecord[]> {
  const first = index * widthAt(tree.geometry, level)
  const children: { child: number; record: WalkedRecord }[] = []
  for (let position = 0; position < node.width; position++) {
    const ref = node.ref(position)
    if (!ref) continue
    const child = first + position
    const kind = level === 0 ? 'chunk' : 'node'
    const record: WalkedRecord = { kind, ref, range: coveredBy(tree.geometry, level, child) }
    if (kind === 'chunk' || visitor.enters(record)) children.push({ child, record })
  }
  if (level === 0) {
    yield children.map(({ record }) => record)
    return
  }
  for (let at = 0; at < children.length; at += NODES_AT_ONCE) {
    const batch = children.slice(at, at + NODES_AT_ONCE)
    const indexes = batch.map(({ child }) => child)
    const results = await tree.settledNodes(level - 1, indexes, options)
    for (const [n, { child, record }] of batch.entries()) {
      const result = results[n]!
      if (result.status === 'rejected') visitor.failed(record, result.reason)
      else {
        visitor.read(record)
        if (result.value) yield* walkNode(tree, level - 1, child, result.value, visitor, options)
      }
    }
  }
}

/** Bytes below position `child` of a node at `level`. */
function coveredBy({ size, chunkSize }: TreeGeometry, level: number, child: number): Range {
  const bytes = chunksBelow(level) * chunkSize
  return { offset: child * bytes, length: Math.min(bytes, size - child * bytes) }
}
