/** The files of a remote volume as nodes. What a listing told of them stays with them, so that nobody asks twice. */
import { createHash } from 'node:crypto'
import { constants } from 'node:os'
import type { BlockReader } from '../block/block-device.ts'
import { limits } from '../core/limits.ts'
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
} from '../files/file-tree.ts'
import { filesystemError } from './guest-errors.ts'
import { RemoteReader } from './remote-file.ts'
import type { RemoteVolume } from './remote-volume.ts'
import type { Found, ListPage, RemoteNode, XattrMap } from './wire.ts'

export function remoteNode(volume: RemoteVolume, found: Found): TreeNode {
  const { kind } = found.attributes
  if (kind === 'directory') return new RemoteDirectory(volume, found)
  if (kind === 'file') return new RemoteFile(volume, found)
  if (kind === 'symlink') return new RemoteSymlink(volume, found)
  return new RemoteSpecial(volume, found, kind)
}

/** What is read is a snapshot that nobody writes to. */
class Common {
  readonly isFrozen = true
  readonly volume: RemoteVolume
  readonly id: RemoteNode
  readonly #attributes: Attributes
  readonly #xattrs: XattrMap | undefined

  constructor(volume: RemoteVolume, { node, attributes, xattrs }: Found) {
    this.volume = volume
    this.id = node
    this.#attributes = attributes
    this.#xattrs = xattrs && volume.xattrsOf(xattrs)
  }

  get tree(): string {
    return this.volume.tree
  }

  attributes(): Attributes {
    return this.#attributes
  }

  async xattrs(options: AbortOptions = {}): Promise<XattrMap> {
    return this.#xattrs ?? (await this.volume.xattrs(this.id, options))
  }
}

class RemoteFile extends Common implements FileNode {
  get kind(): 'file' {
    return 'file'
  }

  async open(): Promise<BlockReader> {
    const { volume, id } = this
    const contents = {
      size: this.attributes().size,
      read: (target: Uint8Array, offset: number, options: AbortOptions) => volume.read(id, target, offset, options),
      extents: (range: { offset: number; length: number }, options: AbortOptions) => volume.extents(id, range, options),
    }
    return new RemoteReader(contents, volume.kept.readAhead)
  }
}

class RemoteSymlink extends Common implements SymlinkNode {
  get kind(): 'symlink' {
    return 'symlink'
  }

  async readLink(options: AbortOptions = {}): Promise<string> {
    return await this.volume.readLink(this.id, options)
  }
}

class RemoteSpecial extends Common implements SpecialNode {
  readonly kind: SpecialKind

  constructor(volume: RemoteVolume, found: Found, kind: SpecialKind) {
    super(volume, found)
    this.kind = kind
  }
}

class RemoteDirectory extends Common implements DirectoryNode {
  get kind(): 'directory' {
    return 'directory'
  }

  async lookup(name: string, options: AbortOptions = {}): Promise<TreeNode | undefined> {
    return await this.volume.lookup(this.id, name, options)
  }

  async *list(options: AbortOptions = {}): AsyncGenerator<readonly Entry[]> {
    options.signal?.throwIfAborted()
    const known = this.volume.knownEntries(this.id)
    if (known) return yield Array.from(known, ([name, node]) => ({ name, node }))
    const listed = new Map<string, TreeNode>()
    let count = 0
    let leftOut = 0
    for await (const page of this.#pages(options)) {
      leftOut += page.leftOut
      const entries = page.entries.map(({ name, found }) => ({
        name,
        node: found ? remoteNode(this.volume, found) : damagedFile(this.volume, this.id, name),
      }))
      count += entries.length
      if (count > limits.guestEntriesMax) throw endless(this.volume)
      if (count <= limits.guestEntriesKept) for (const { name, node } of entries) listed.set(name, node)
      if (entries.length > 0) yield entries
    }
    // Told behind all that can be read, as other damage of a directory is.
    if (leftOut > 0) throw noNames(this.volume, leftOut)
    if (listed.size === count) this.volume.keepEntries(this.id, listed)
  }

  /** The next page is on its way while the caller looks at one. */
  async *#pages({ signal }: AbortOptions): AsyncGenerator<ListPage> {
    const ended = new AbortController()
    const either = signal ? AbortSignal.any([signal, ended.signal]) : ended.signal
    const begin = (position: bigint): Promise<ListPage> => {
      const page = this.volume.page(this.id, position, { signal: either })
      page.catch(() => {})
      return page
    }
    let coming: Promise<ListPage> | undefined = begin(0n)
    try {
      let position = 0n
      while (coming) {
        const page: ListPage = await coming
        if (page.next !== 0n && page.next === position) throw endless(this.volume)
        position = page.next
        coming = position === 0n ? undefined : begin(position)
        yield page
      }
    } finally {
      // An abort makes an error with a stack: where nothing is under way that would be all it does.
      if (coming) ended.abort()
    }
  }
}

const endless = (volume: RemoteVolume) =>
  filesystemError(constants.errno.EIO, 'a directory leads back into itself, or has more entries than any', volume.name)
const noNames = (volume: RemoteVolume, count: number) =>
  filesystemError(constants.errno.EIO, `${count} names that no file can have are left out`, volume.name)
const UNREADABLE = 'what this name stands for is damaged'

/** A name whose file cannot be read is shown as an empty file that cannot be opened: leaving it out would look as if it had never been. */
function damagedFile(volume: RemoteVolume, directory: RemoteNode, name: string): FileNode {
  const id = createHash('sha256').update(directory, 'latin1').update('/').update(name, 'utf16le').digest()
  const time = { modifiedNs: 0n, changedNs: 0n, accessedNs: 0n }
  const owner = { permissions: 0, links: 1, uid: 0, gid: 0 }
  // Above all inodes that filesystems count up to.
  const inode = id.readBigUInt64LE() | (1n << 63n)
  const attributes: Attributes = { kind: 'file', inode, size: 0, allocated: 0, ...owner, ...time }
  const fail = async () => {
    throw filesystemError(constants.errno.EIO, UNREADABLE, volume.name)
  }
  return {
    kind: 'file',
    tree: volume.tree,
    isFrozen: true,
    attributes: () => attributes,
    xattrs: fail,
    open: fail,
  }
}
