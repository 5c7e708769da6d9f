/**
 * The files of a guest. The kernel remembers them for longer than a guest stays open, so a node here is a name below another
 * one: where the guest was opened anew it is looked up again, and nobody notices.
 */
import type { BlockReader } from '../block/block-device.ts'
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { DirectoryNode, Entry, FileNode, SymlinkNode, TreeNode } from '../files/file-tree.ts'
import { type OpenGuestFiles, type UseGuest, watched, withGuest } from './open-guest-files.ts'
import { usedReader } from './open-points.ts'

export interface GuestFolder {
  readonly useGuest: UseGuest
  /** The name of its tree: the same each time that the guest is opened, whatever whoever parses it calls that. */
  readonly tree: string
  /** The folder in a guest that is open. */
  readonly resolve: Resolve<DirectoryNode>
}

type Resolve<N> = (guest: OpenGuestFiles, options: AbortOptions) => Promise<N>

export async function guestLookup(
  within: GuestFolder,
  name: string,
  options: AbortOptions,
): Promise<TreeNode | undefined> {
  return await withGuest(within.useGuest, options, async guest => {
    const folder = await within.resolve(guest, options)
    const found = await folder.lookup(name, options)
    return found && guestNode({ within, folder, name, guest }, found)
  })
}

export async function* guestEntries(within: GuestFolder, options: AbortOptions): AsyncGenerator<readonly Entry[]> {
  using use = await within.useGuest(options)
  const guest = use.value
  const folder = await watched(use, () => within.resolve(guest, options))
  const batches = folder.list(options)[Symbol.asyncIterator]()
  try {
    for (;;) {
      const { done, value } = await watched(use, () => batches.next())
      if (done) return
      yield value.map(({ name, node }) => ({ name, node: guestNode({ within, folder, name, guest }, node) }))
    }
  } finally {
    await batches.return?.()
  }
}

interface Named {
  readonly within: GuestFolder
  /** That one in `guest`. */
  readonly folder: DirectoryNode
  readonly name: string
  /** In which it was found. */
  readonly guest: OpenGuestFiles
}

function guestNode(named: Named, found: TreeNode): TreeNode {
  const { useGuest } = named.within
  const tree = treeOf(named, found)
  const common = { tree, isFrozen: found.isFrozen, attributes: () => found.attributes() }
  switch (found.kind) {
    case 'directory': {
      const resolve = resolver(named, found, isDirectory)
      const within = { useGuest, tree, resolve }
      return {
        ...common,
        kind: 'directory',
        xattrs: xattrsOf(useGuest, resolve),
        lookup: (name, options = {}) => guestLookup(within, name, options),
        list: (options = {}) => guestEntries(within, options),
      }
    }
    case 'file': {
      const resolve = resolver(named, found, isFile)
      return {
        ...common,
        kind: 'file',
        xattrs: xattrsOf(useGuest, resolve),
        open: (options = {}) => openFile(useGuest, resolve, options),
      }
    }
    case 'symlink': {
      const resolve = resolver(named, found, isSymlink)
      return {
        ...common,
        kind: 'symlink',
        xattrs: xattrsOf(useGuest, resolve),
        readLink: (options = {}) =>
          withGuest(useGuest, options, async guest => (await resolve(guest, options)).readLink(options)),
      }
    }
    default: {
      const isAlike = (node: TreeNode): node is typeof found => node.kind === found.kind
      return { ...common, kind: found.kind, xattrs: xattrsOf(useGuest, resolver(named, found, isAlike)) }
    }
  }
}

/** Where another tree begins, as a subvolume does, it is called by its place. */
function treeOf({ within, folder, name }: Named, found: TreeNode): string {
  return found.tree === folder.tree ? within.tree : `${within.tree}/${folder.attributes().inode}/${name}`
}

const isDirectory = (node: TreeNode): node is DirectoryNode => node.kind === 'directory'
const isFile = (node: TreeNode): node is FileNode => node.kind === 'file'
const isSymlink = (node: TreeNode): node is SymlinkNode => node.kind === 'symlink'

/** The node itself while its guest is open; afterwards what has its name, which is the same: nothing in a point changes. */
function resolver<N extends TreeNode>(
  { within, name, guest }: Named,
  found: N,
  isAlike: (node: TreeNode) => node is N,
): Resolve<N> {
  let known = { guest, node: found }
  return async (current, options) => {
    if (known.guest === current) return known.node
    const folder = await within.resolve(current, options)
    const node = await folder.lookup(name, options)
    if (!node || !isAlike(node))
      throw new LifeboatError('no-such-file', `'${name}' is not there any more`, { details: { object: name } })
    known = { guest: current, node }
    return node
  }
}

const xattrsOf =
  (useGuest: UseGuest, resolve: Resolve<TreeNode>) =>
  (options: AbortOptions = {}) =>
    withGuest(useGuest, options, async guest => (await resolve(guest, options)).xattrs(options))

/** The guest stays open for as long as the file is. */
async function openFile(useGuest: UseGuest, resolve: Resolve<FileNode>, options: AbortOptions): Promise<BlockReader> {
  const use = await useGuest(options)
  try {
    const reader = await watched(use, async () => (await resolve(use.value, options)).open(options))
    return {
      ...usedReader(reader, use),
      readInto: (target, offset, late) => watched(use, () => reader.readInto(target, offset, late)),
      async [Symbol.asyncDispose]() {
        await reader[Symbol.asyncDispose]()
        use[Symbol.dispose]()
      },
    }
  } catch (error) {
    use[Symbol.dispose]()
    throw error
  }
}
