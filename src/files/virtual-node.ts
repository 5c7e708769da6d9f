/** Nodes that are made here and read from nowhere: documents, links and directories of a mount, and all of a tree in memory. */
import type { BlockReader } from '../block/block-device.ts'
import type { AbortOptions } from '../core/scope.ts'
import type {
  Attributes,
  DirectoryNode,
  Entry,
  FileNode,
  SpecialKind,
  SpecialNode,
  SymlinkNode,
  TreeNode,
} from './file-tree.ts'
import { encodeName } from './name.ts'

/** What a node says of itself. Left out: a file of root's that everybody may read, with one name and the time 0. */
export interface VirtualNode {
  readonly tree: string
  readonly inode: bigint
  readonly isFrozen?: boolean
  readonly permissions?: number
  readonly links?: number
  readonly uid?: number
  readonly gid?: number
  readonly modifiedNs?: bigint
  readonly changedNs?: bigint
  readonly accessedNs?: bigint
  readonly bornNs?: bigint
  readonly xattrs?: ReadonlyMap<string, Uint8Array>
}

const NO_XATTRS: ReadonlyMap<string, Uint8Array> = new Map()

type Kind = Pick<Attributes, 'kind' | 'size' | 'device'> & { readonly allocated?: number }

function commonOf(given: VirtualNode, kind: Kind) {
  const modifiedNs = given.modifiedNs ?? 0n
  const isDirectory = kind.kind === 'directory'
  const attributes: Attributes = {
    allocated: kind.size,
    inode: given.inode,
    permissions: given.permissions ?? (isDirectory ? 0o755 : kind.kind === 'symlink' ? 0o777 : 0o644),
    links: given.links ?? (isDirectory ? 2 : 1),
    uid: given.uid ?? 0,
    gid: given.gid ?? 0,
    modifiedNs,
    changedNs: given.changedNs ?? modifiedNs,
    accessedNs: given.accessedNs ?? modifiedNs,
    ...(given.bornNs === undefined ? {} : { bornNs: given.bornNs }),
    ...kind,
  }
  return {
    tree: given.tree,
    isFrozen: given.isFrozen ?? true,
    attributes: () => attributes,
    xattrs: async () => given.xattrs ?? NO_XATTRS,
  }
}

/** `open` is called for each reader; whoever disposes of one says nothing to the others. */
export const virtualFile = (
  given: VirtualNode & {
    readonly size: number
    readonly allocated?: number
    readonly open: (options?: AbortOptions) => Promise<BlockReader>
  },
): FileNode => ({
  kind: 'file',
  ...commonOf(given, { kind: 'file', size: given.size, allocated: given.allocated ?? given.size }),
  open: given.open,
})

export const virtualSymlink = (given: VirtualNode & { readonly target: string }): SymlinkNode => ({
  kind: 'symlink',
  ...commonOf(given, { kind: 'symlink', size: encodeName(given.target).length }),
  readLink: async () => given.target,
})

export const virtualSpecial = (
  given: VirtualNode & { readonly kind: SpecialKind; readonly device?: Attributes['device'] },
): SpecialNode => ({
  kind: given.kind,
  ...commonOf(given, {
    kind: given.kind,
    size: 0,
    ...(given.device === undefined ? {} : { device: given.device }),
  }),
})

/**
 * A directory whose entries are made when somebody asks: its nodes may be of other trees. Without a `lookup` of its own it
 * looks through the entries, so give one where they are many or cost something.
 */
export const virtualDirectory = (
  given: VirtualNode & {
    readonly entries: (options: AbortOptions) => Promise<readonly Entry[]> | AsyncIterable<readonly Entry[]>
    readonly lookup?: (name: string, options: AbortOptions) => Promise<TreeNode | undefined>
  },
): DirectoryNode => {
  const list = async function* (options: AbortOptions = {}): AsyncGenerator<readonly Entry[]> {
    options.signal?.throwIfAborted()
    const entries = given.entries(options)
    if (Symbol.asyncIterator in entries) yield* entries
    else yield await entries
  }
  return {
    kind: 'directory',
    ...commonOf(given, { kind: 'directory', size: 0 }),
    list,
    async lookup(name, options = {}) {
      options.signal?.throwIfAborted()
      if (given.lookup !== undefined) return given.lookup(name, options)
      for await (const batch of list(options)) {
        const found = batch.find(entry => entry.name === name)
        if (found !== undefined) return found.node
      }
      return undefined
    },
  }
}
