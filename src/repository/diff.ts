/** What differs between two disks, from their trees: equal node ids end the comparison, so it costs what changed. */
import { mergeRanges, type Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { TreeNode } from './node-codec.ts'
import { presentSpans } from './presence.ts'
import type { ChunkRef } from './repository.ts'
import { widthAt } from './tree-geometry.ts'
import type { TreeReader } from './tree-reader.ts'

export interface DiskDiff {
  /** Changed bytes in whole chunks, ascending and joined, clipped to the larger disk. */
  readonly extents: readonly Range[]
  readonly bytesChanged: number
}

/** Differing nodes of one level that are read at once. */
const NODES_AT_ONCE = 64

export async function diffDisks(before: TreeReader, after: TreeReader, options: AbortOptions = {}): Promise<DiskDiff> {
  const { chunkSize } = after.geometry
  const size = Math.max(before.geometry.size, after.geometry.size)
  const isComparable = before.domain === after.domain && before.geometry.chunkSize === chunkSize
  const ranges: Range[] = []
  let bytesChanged = 0
  const add = (offset: number, length: number) => {
    const clipped = Math.min(length, size - offset)
    if (clipped <= 0) return
    bytesChanged += clipped
    const last = ranges.at(-1)
    if (last && last.offset + last.length === offset)
      ranges[ranges.length - 1] = { offset: last.offset, length: last.length + clipped }
    else ranges.push({ offset, length: clipped })
  }
  if (isComparable) {
    for await (const chunk of changedChunks(before, after, options)) add(chunk * chunkSize, chunkSize)
    return { extents: ranges, bytesChanged }
  }
  // Ids under other keys or of other chunks say nothing about each other: whatever holds data in either may differ.
  const held: Range[] = []
  for (const tree of [before, after])
    for await (const chunk of storedChunks(tree, options)) {
      const offset = chunk * tree.geometry.chunkSize
      held.push({ offset, length: Math.min(tree.geometry.chunkSize, size - offset) })
    }
  for (const { offset, length } of mergeRanges(held)) add(offset, length)
  return { extents: ranges, bytesChanged }
}

async function* changedChunks(a: TreeReader, b: TreeReader, options: AbortOptions): AsyncIterable<number> {
  // Nodes of one level cover the same chunks in every disk, so the comparison begins where both have nodes.
  const level = Math.min(a.geometry.topLevel, b.geometry.topLevel)
  const count = Math.max(a.geometry.nodes[level] ?? 0, b.geometry.nodes[level] ?? 0)
  for (let first = 0; first < count; first += NODES_AT_ONCE) {
    const indexes = Array.from({ length: Math.min(NODES_AT_ONCE, count - first) }, (_, n) => first + n)
    const [ofA, ofB] = await Promise.all([entriesAt(a, level, indexes, options), entriesAt(b, level, indexes, options)])
    const differing = indexes.filter((_, n) => !same(ofA[n], ofB[n]))
    yield* changedBelow(a, b, level, differing, options)
  }
}

/** Chunks that differ under the nodes `indexes` of `level`, ascending. */
async function* changedBelow(
  a: TreeReader,
  b: TreeReader,
  level: number,
  indexes: readonly number[],
  options: AbortOptions,
): AsyncIterable<number> {
  for (let first = 0; first < indexes.length; first += NODES_AT_ONCE) {
    const batch = indexes.slice(first, first + NODES_AT_ONCE)
    const [ofA, ofB] = await Promise.all([nodesAt(a, level, batch, options), nodesAt(b, level, batch, options)])
    for (const [n, index] of batch.entries()) {
      const children = differingChildren(ofA[n], ofB[n], index * widthAt(a.geometry, level))
      if (level === 0) yield* children
      else yield* changedBelow(a, b, level - 1, children, options)
    }
  }
}

function differingChildren(a: TreeNode | undefined, b: TreeNode | undefined, first: number): number[] {
  const children: number[] = []
  for (let position = 0; position < (a ?? b)!.width; position++)
    if (!same(a?.ref(position), b?.ref(position))) children.push(first + position)
  return children
}

const same = (a: ChunkRef | undefined, b: ChunkRef | undefined): boolean =>
  a && b ? Buffer.compare(a.id, b.id) === 0 : a === b

/** The entries of nodes `indexes` of `level`, as their parents name them; past the end of the disk there is none. */
async function entriesAt(tree: TreeReader, level: number, indexes: readonly number[], options: AbortOptions) {
  const width = level >= tree.geometry.topLevel ? Number.POSITIVE_INFINITY : widthAt(tree.geometry, level + 1)
  const count = tree.geometry.nodes[level] ?? 0
  const parents = [...new Set(indexes.filter(index => index < count).map(index => Math.floor(index / width)))]
  const nodes = new Map<number, TreeNode | undefined>()
  for (const [n, node] of (await tree.nodes(level + 1, parents, options)).entries()) nodes.set(parents[n]!, node)
  return indexes.map(index =>
    nodes.get(Math.floor(index / width))?.ref(width === Number.POSITIVE_INFINITY ? index : index % width),
  )
}

async function nodesAt(tree: TreeReader, level: number, indexes: readonly number[], options: AbortOptions) {
  const count = tree.geometry.nodes[level] ?? 0
  const within = indexes.filter(index => index < count)
  const found = await tree.nodes(level, within, options)
  return indexes.map(index => (index < count ? found[within.indexOf(index)] : undefined))
}

async function* storedChunks(tree: TreeReader, options: AbortOptions): AsyncIterable<number> {
  const { chunks } = tree.geometry
  if (chunks === 0) return
  for await (const { first, count, isPresent } of presentSpans(tree, 0, chunks, options))
    if (isPresent) for (let chunk = first; chunk < first + count; chunk++) yield chunk
}
