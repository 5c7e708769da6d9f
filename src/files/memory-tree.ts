/** A tree of files in memory, built from a plain description: what tests serve and restore, and a mount's own documents. */
import type { BlockReader, PlacedBytes } from '../block/block-device.ts'
import { type Extent, intersect, type Range } from '../core/range.ts'
import type { Attributes, DirectoryNode, Entry, FileTree, SpecialKind, TreeNode } from './file-tree.ts'
import { isName } from './name.ts'
import { type VirtualNode, virtualDirectory, virtualFile, virtualSpecial, virtualSymlink } from './virtual-node.ts'

type Given = Partial<Omit<VirtualNode, 'tree' | 'isFrozen'>>

/** One object under two names is one file with two names (hard links). */
export type Described =
  | (Given & { readonly kind: 'file'; readonly size: number; readonly parts: readonly PlacedBytes[] })
  | (Given & { readonly kind: 'directory'; readonly entries: Readonly<Record<string, Described>> })
  | (Given & { readonly kind: 'symlink'; readonly target: string })
  | (Given & { readonly kind: SpecialKind; readonly device?: Attributes['device'] })

export const file = (bytes: Uint8Array | string, given: Given = {}): Described => {
  const content = typeof bytes === 'string' ? Buffer.from(bytes) : bytes
  return { kind: 'file', size: content.length, parts: [{ bytes: content, offset: 0 }], ...given }
}
/** Holes but for its parts, which are in order and do not overlap. */
export const sparseFile = (size: number, parts: readonly PlacedBytes[], given: Given = {}): Described => ({
  kind: 'file',
  size,
  parts,
  ...given,
})
export const directory = (entries: Readonly<Record<string, Described>>, given: Given = {}): Described => ({
  kind: 'directory',
  entries,
  ...given,
})
export const symlink = (target: string, given: Given = {}): Described => ({ kind: 'symlink', target, ...given })
export const special = (
  kind: SpecialKind,
  given: Given & { readonly device?: Attributes['device'] } = {},
): Described => ({
  kind,
  ...given,
})

interface Options {
  /** The name of this tree among others. */
  readonly tree?: string
  /** Entries in one batch of a list. */
  readonly batch?: number
}

/** Frozen. The root is `directory(...)` or its entries alone. */
export function memoryTree(root: Readonly<Record<string, Described>>, options: Options = {}): FileTree {
  const build = builder(options.tree ?? 'memory', options.batch ?? 100)
  const node = build({ kind: 'directory', entries: root })
  if (node.kind !== 'directory') throw new TypeError('the root of a tree is a directory')
  return { root: node, [Symbol.asyncDispose]: async () => {} }
}

function builder(tree: string, batch: number): (described: Described) => TreeNode {
  const nodes = new Map<Described, { links: number; inode: bigint; node?: TreeNode }>()
  const count = (described: Described): void => {
    const known = nodes.get(described)
    if (known !== undefined) known.links++
    else nodes.set(described, { links: 1, inode: described.inode ?? BigInt(nodes.size + 1) })
    if (known === undefined && described.kind === 'directory') Object.values(described.entries).forEach(count)
  }
  const nodeOf = (described: Described): TreeNode => {
    const known = nodes.get(described)!
    known.node ??= make(described, { tree, inode: known.inode, links: known.links }, batch, nodeOf)
    return known.node
  }
  return described => {
    count(described)
    return nodeOf(described)
  }
}

function make(
  described: Described,
  identity: Pick<VirtualNode, 'tree' | 'inode' | 'links'>,
  batch: number,
  nodeOf: (described: Described) => TreeNode,
): TreeNode {
  const given = { ...identity, ...described, ...identity, links: described.links ?? identity.links ?? 1 }
  switch (described.kind) {
    case 'file':
      return virtualFile({
        ...given,
        size: described.size,
        allocated: described.parts.reduce((sum, part) => sum + part.bytes.length, 0),
        open: async () => partsReader(described.size, described.parts),
      })
    case 'directory':
      return memoryDirectory(given, described.entries, batch, nodeOf)
    case 'symlink':
      return virtualSymlink({ ...given, target: described.target })
    default:
      return virtualSpecial({ ...given, kind: described.kind })
  }
}

function memoryDirectory(
  given: VirtualNode,
  entries: Readonly<Record<string, Described>>,
  batch: number,
  nodeOf: (described: Described) => TreeNode,
): DirectoryNode {
  const names = Object.keys(entries)
  const wrong = names.find(name => !isName(name))
  if (wrong !== undefined) throw new TypeError(`'${wrong}' cannot be a name`)
  const folders = names.filter(name => entries[name]!.kind === 'directory').length
  return virtualDirectory({
    ...given,
    links: 2 + folders,
    async *entries({ signal }) {
      for (let at = 0; at < names.length; at += batch) {
        signal?.throwIfAborted()
        yield names.slice(at, at + batch).map((name): Entry => ({ name, node: nodeOf(entries[name]!) }))
      }
    },
    lookup: async name => (Object.hasOwn(entries, name) ? nodeOf(entries[name]!) : undefined),
  })
}

/** Parts of a file with holes between them. */
function partsReader(size: number, parts: readonly PlacedBytes[]): BlockReader {
  const check = ({ offset, length }: Range) => {
    if (offset < 0 || length < 0 || offset + length > size)
      throw new RangeError(`${offset}+${length} is outside the ${size} bytes of the file`)
  }
  return {
    size,
    blockSize: 4096,
    async readInto(target, offset, { signal } = {}) {
      const range = { offset, length: target.length }
      check(range)
      signal?.throwIfAborted()
      target.fill(0)
      for (const part of parts) {
        const held = intersect(range, { offset: part.offset, length: part.bytes.length })
        if (held === undefined) continue
        const from = held.offset - part.offset
        target.set(part.bytes.subarray(from, from + held.length), held.offset - offset)
      }
    },
    async *extents(range, { signal } = {}): AsyncGenerator<Extent> {
      check(range)
      let at = range.offset
      const end = range.offset + range.length
      for (const part of parts) {
        signal?.throwIfAborted()
        const held = intersect({ offset: at, length: end - at }, { offset: part.offset, length: part.bytes.length })
        if (held === undefined) continue
        if (held.offset > at) yield { offset: at, length: held.offset - at, kind: 'zero' }
        yield { ...held, kind: 'data' }
        at = held.offset + held.length
      }
      if (at < end) yield { offset: at, length: end - at, kind: 'zero' }
    },
    [Symbol.asyncDispose]: async () => {},
  }
}
