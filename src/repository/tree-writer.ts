/**
 * Merges changes into a base's tree as they come, in rising order, and shares every subtree that they leave as it was
 * (docs/repository-format.md, section 5). In memory: one node of each level and the top list.
 */
import type { AbortOptions } from '../core/scope.ts'
import type { TreeNode } from './node-codec.ts'
import type { NodeWriter, TreeEntry } from './node-writer.ts'
import { idPrefixBytes } from './pack-codec.ts'
import { chunksBelow, type TreeGeometry, usedAt, widthAt } from './tree-geometry.ts'

/** A stored tree to build upon. `node` at topLevel + 1 is the top list; undefined = all zeros. */
export interface BaseTree {
  readonly geometry: TreeGeometry
  node(level: number, index: number, options?: AbortOptions): Promise<TreeNode | undefined>
  nodes(level: number, indexes: readonly number[], options?: AbortOptions): Promise<(TreeNode | undefined)[]>
}

interface OpenNode {
  readonly index: number
  readonly entries: (TreeEntry | undefined)[]
  /** Positions whose entry was decided here; the others are the base's. */
  readonly decided: Set<number>
  /** Something below has another place though its content is the same: this node is stored anew, whatever its id. */
  isMoved: boolean
}

export class TreeWriter {
  readonly #geometry: TreeGeometry
  readonly #base: BaseTree | undefined
  readonly #nodes: NodeWriter
  readonly #open: (OpenNode | undefined)[] = []
  #next = 0
  #bytesWritten = 0

  constructor(geometry: TreeGeometry, base: BaseTree | undefined, nodes: NodeWriter) {
    this.#geometry = geometry
    this.#base = base
    this.#nodes = nodes
  }

  /** Node records and their footer rows, bytes. */
  get bytesWritten(): number {
    return this.#bytesWritten
  }

  /** Chunk `index` is `entry`; undefined = zeros. Indexes rise. */
  async put(index: number, entry: TreeEntry | undefined, options: AbortOptions = {}): Promise<void> {
    this.#rise(index, 1)
    const width = widthAt(this.#geometry, 0)
    const leaf = await this.#enter(0, Math.floor(index / width), options)
    if (isElsewhere(leaf.entries[index % width], entry)) leaf.isMoved = true
    decide(leaf, index % width, entry)
  }

  /** Chunks [first, first + count) are zeros. Gives how many of them were not. Subtrees that are zeros already cost nothing. */
  async clear(first: number, count: number, options: AbortOptions = {}): Promise<number> {
    if (count === 0) return 0
    this.#rise(first, count)
    return await this.#clear(this.#geometry.topLevel + 1, 0, first, first + count, options)
  }

  /** Closes all nodes and gives the entries of the top list. */
  async finish(options: AbortOptions = {}): Promise<readonly (TreeEntry | undefined)[]> {
    const { chunks, topLevel } = this.#geometry
    const width = widthAt(this.#geometry, 0)
    // A disk that became smaller: the nodes on the path of its last chunk drop what lies behind it.
    if (this.#base && chunks > 0 && chunks < this.#base.geometry.chunks)
      await this.#enter(0, Math.floor((chunks - 1) / width), options)
    const top = await this.#enter(topLevel + 1, 0, options)
    await this.#leave(topLevel, options)
    await this.#fillAbove(topLevel + 1, top, options)
    return top.entries
  }

  #rise(first: number, count: number): void {
    if (first < this.#next || first + count > this.#geometry.chunks)
      throw new RangeError(`chunk ${first} is written out of order or past the end of the disk`)
    this.#next = first + count
  }

  async #enter(level: number, index: number, options: AbortOptions): Promise<OpenNode> {
    const current = this.#open[level]
    if (current?.index === index) return current
    if (current) await this.#leave(level, options)
    if (level <= this.#geometry.topLevel) {
      const above = this.#above(level, index)
      await this.#enter(level + 1, above.index, options)
    }
    const entered = await this.#openNode(level, index, options)
    this.#open[level] = entered
    return entered
  }

  async #openNode(level: number, index: number, options: AbortOptions): Promise<OpenNode> {
    return { index, entries: await this.#baseEntries(level, index, options), decided: new Set(), isMoved: false }
  }

  /** Closes the open nodes of levels 0 to `level`, from below. */
  async #leave(level: number, options: AbortOptions): Promise<void> {
    for (let k = 0; k <= level; k++) {
      const node = this.#open[k]
      if (!node) continue
      await this.#fillAbove(k, node, options)
      const { index, position } = this.#above(k, node.index)
      const parent = this.#open[k + 1]
      if (parent?.index !== index) throw new RangeError('a node was left after its parent')
      const before = parent.entries[position]
      const stored = await this.#store(k, node, before, options)
      if (isElsewhere(before, stored)) parent.isMoved = true
      decide(parent, position, stored)
      this.#open[k] = undefined
    }
  }

  /** Where node `index` of `level` stands in the level above. */
  #above(level: number, index: number): { index: number; position: number } {
    if (level === this.#geometry.topLevel) return { index: 0, position: index }
    const width = widthAt(this.#geometry, level + 1)
    return { index: Math.floor(index / width), position: index % width }
  }

  async #store(
    level: number,
    { entries, isMoved }: Pick<OpenNode, 'entries' | 'isMoved'>,
    before: TreeEntry | undefined,
    options: AbortOptions,
  ): Promise<TreeEntry | undefined> {
    if (entries.every(entry => entry === undefined)) return undefined
    const id = this.#nodes.idOf(level, entries)
    if (before && !isMoved && isSame(before, id) && this.#nodes.mayKeep(before)) return before
    const placed = await this.#nodes.append(level, entries, id, options)
    this.#bytesWritten += placed.length + idPrefixBytes + 3
    return placed
  }

  /** The entries that the base has at this place of the new tree, where they are references; else nothing yet (see #fillAbove). */
  async #baseEntries(level: number, index: number, options: AbortOptions): Promise<(TreeEntry | undefined)[]> {
    const width = widthAt(this.#geometry, level)
    const entries = new Array<TreeEntry | undefined>(width).fill(undefined)
    const base = this.#base
    if (!base || level - 1 > base.geometry.topLevel) return entries
    const used = usedAt(this.#geometry, level, index)
    const inTopList = level - 1 === base.geometry.topLevel
    const baseWidth = widthAt(base.geometry, level)
    // The new top list may gather several nodes of the base's level, or the first positions of its top list.
    for (let position = 0; position < used; ) {
      const child = index * width + position
      const parent = inTopList ? 0 : Math.floor(child / baseWidth)
      if (inTopList ? child >= baseWidth : parent >= base.geometry.nodes[level]!) break
      const from = child - parent * baseWidth
      const count = Math.min(baseWidth - from, used - position)
      const node = await base.node(level, parent, options)
      if (node) for (let p = 0; p < count; p++) entries[position + p] = node.ref(from + p)
      position += count
    }
    return entries
  }

  /** Whether the base has chunks under this node but, being smaller, no such node. */
  #isMissingInBase(level: number, index: number): boolean {
    if (!this.#base || level <= this.#base.geometry.topLevel) return false
    return index * chunksBelow(level + 1) < this.#base.geometry.chunks
  }

  /** A disk that grew past its base's top level: nodes that the base does not have are made from its top list. */
  async #fillAbove(level: number, node: OpenNode, options: AbortOptions): Promise<void> {
    const width = widthAt(this.#geometry, level)
    const used = usedAt(this.#geometry, level, node.index)
    for (let position = 0; position < used; position++) {
      const index = node.index * width + position
      if (!this.#isMissingInBase(level - 1, index)) return
      if (!node.decided.has(position)) node.entries[position] = await this.#build(level - 1, index, options)
    }
  }

  async #build(level: number, index: number, options: AbortOptions): Promise<TreeEntry | undefined> {
    const node = await this.#openNode(level, index, options)
    await this.#fillAbove(level, node, options)
    return await this.#store(level, node, undefined, options)
  }

  async #clear(level: number, index: number, first: number, end: number, options: AbortOptions): Promise<number> {
    const node = await this.#enter(level, index, options)
    const below = chunksBelow(level)
    const start = index * widthAt(this.#geometry, level)
    const from = Math.max(start, Math.floor(first / below))
    const to = Math.min(start + usedAt(this.#geometry, level, index), Math.ceil(end / below))
    let cleared = 0
    for (let child = from; child < to; child++) {
      const position = child - start
      const isInherited = !node.decided.has(position) && this.#isMissingInBase(level - 1, child)
      if (!isInherited && !node.entries[position] && !this.#isOpen(level - 1, child)) continue
      if (level > 0) cleared += await this.#clear(level - 1, child, first, end, options)
      else {
        decide(node, position, undefined)
        cleared++
      }
    }
    return cleared
  }

  #isOpen(level: number, index: number): boolean {
    return level >= 0 && this.#open[level]?.index === index
  }
}

const isSame = (entry: TreeEntry, id: Uint8Array): boolean => Buffer.compare(entry.id, id) === 0

/** The same content in another place. Node ids cover contents alone, so that nothing else would tell. */
const isElsewhere = (before: TreeEntry | undefined, now: TreeEntry | undefined): boolean =>
  before !== undefined && now !== undefined && before !== now && isSame(before, now.id)

function decide(node: OpenNode, position: number, entry: TreeEntry | undefined): void {
  node.entries[position] = entry
  node.decided.add(position)
}
