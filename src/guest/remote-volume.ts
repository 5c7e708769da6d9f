/** One volume of the connection: what its nodes ask, and what is kept of the answers. */
import { constants } from 'node:os'
import { LRUCache } from 'lru-cache'
import { isLifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type Extent, type Range, rangeEnd } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { DirectoryNode, FileTree, Statfs, TreeNode } from '../files/file-tree.ts'
import { decodeName, encodeName, isName } from '../files/name.ts'
import type { CallOptions, GuestConnection } from './guest-connection.ts'
import { filesystemError, protocolError } from './guest-errors.ts'
import { ByteBudget } from './remote-file.ts'
import { remoteNode } from './remote-node.ts'
import * as wire from './wire.ts'

/** What all volumes of one connection share. */
export class Kept {
  readonly readAhead = new ByteBudget(limits.guestReadAheadBytes)
  readonly directories = new LRUCache<string, ReadonlyMap<string, TreeNode>>({
    maxSize: limits.guestEntriesKept,
    sizeCalculation: directory => directory.size + 1,
  })
  readonly xattrs = new LRUCache<string, wire.XattrMap>({
    maxSize: limits.guestXattrBytesKept,
    sizeCalculation: xattrsBytes,
  })
  /** Names that no directory may have. */
  namesLeftOut = 0
}

function xattrsBytes(xattrs: wire.XattrMap, key: string): number {
  let bytes = 256 + key.length
  for (const [name, value] of xattrs) bytes += 128 + name.length + value.length
  return bytes
}

export class RemoteVolume {
  readonly name: string
  readonly tree: string
  readonly kept: Kept
  readonly #connection: GuestConnection

  constructor(name: string, tree: string, connection: GuestConnection, kept: Kept) {
    this.name = name
    this.tree = tree
    this.kept = kept
    this.#connection = connection
  }

  async open(options: AbortOptions): Promise<FileTree> {
    const parse = (body: Buffer): DirectoryNode => {
      const root = remoteNode(this, wire.parseFound(body))
      if (root.kind !== 'directory') throw protocolError('a root that is no directory')
      return root
    }
    const root = await this.#ask('root', new wire.RequestBody().text(Buffer.from(this.name)), parse, {
      ...options,
      ms: limits.guestMountMs,
    })
    // The tree ends with its connection, which others use.
    return { root, statfs: options => this.#statfs(options), [Symbol.asyncDispose]: async () => {} }
  }

  async #statfs(options: AbortOptions = {}): Promise<Statfs> {
    return await this.#ask('statfs', new wire.RequestBody().text(Buffer.from(this.name)), wire.parseStatfs, options)
  }

  async lookup(directory: wire.RemoteNode, name: string, options: AbortOptions): Promise<TreeNode | undefined> {
    options.signal?.throwIfAborted()
    if (!isName(name)) return undefined
    const known = this.kept.directories.get(this.#key(directory))
    if (known) return known.get(name)
    const body = new wire.RequestBody().node(directory).name(encodeName(name))
    const parse = (reply: Buffer) => remoteNode(this, wire.parseFound(reply))
    return await this.#ask('lookup', body, parse, options).catch(error => {
      if (isLifeboatError(error, 'guest-filesystem') && error.details.errno === 'ENOENT') return undefined
      throw error
    })
  }

  knownEntries(directory: wire.RemoteNode): ReadonlyMap<string, TreeNode> | undefined {
    return this.kept.directories.get(this.#key(directory))
  }

  keepEntries(directory: wire.RemoteNode, entries: ReadonlyMap<string, TreeNode>): void {
    this.kept.directories.set(this.#key(directory), entries)
  }

  async page(directory: wire.RemoteNode, position: bigint, options: AbortOptions): Promise<wire.ListPage> {
    const page = await this.#ask('list', new wire.RequestBody().node(directory).u64(position), wire.parseList, options)
    this.kept.namesLeftOut += page.leftOut
    return page
  }

  async readLink(node: wire.RemoteNode, options: AbortOptions): Promise<string> {
    const parse = (body: Buffer) => wire.parseText(body, limits.guestLinkBytesMax)
    return decodeName(await this.#ask('readLink', new wire.RequestBody().node(node), parse, options))
  }

  async read(node: wire.RemoteNode, target: Uint8Array, offset: number, options: AbortOptions): Promise<void> {
    const body = new wire.RequestBody().node(node).u64(BigInt(offset)).u32(target.length)
    const got = await this.#ask('read', body, bytes => bytes.length, { ...options, target })
    if (got < target.length)
      throw filesystemError(constants.errno.EIO, `the file ends at ${offset + got}, before its size`, this.name)
  }

  async extents(node: wire.RemoteNode, range: Range, options: AbortOptions): Promise<readonly Extent[]> {
    const body = new wire.RequestBody().node(node).u64(BigInt(range.offset)).u64(BigInt(range.length))
    return await this.#ask('extents', body, reply => placed(wire.parseExtents(reply), range), options)
  }

  async xattrs(node: wire.RemoteNode, options: AbortOptions): Promise<wire.XattrMap> {
    const key = this.#key(node)
    const known = this.kept.xattrs.get(key)
    if (known) return known
    const xattrs = new Map<string, Uint8Array>()
    for (let first = 0, bytes = 0; ; ) {
      const body = new wire.RequestBody().node(node).u32(first)
      const page = await this.#ask('xattrs', body, reply => wire.parseXattrPage(reply, first, xattrs), options)
      bytes += page.bytes
      if (bytes > limits.guestXattrBytesMax)
        throw filesystemError(constants.errno.E2BIG, 'a file has more extended attributes than can be read', this.name)
      first = page.next
      if (first === 0) break
    }
    this.kept.xattrs.set(key, xattrs)
    return xattrs
  }

  /** Files with the same ones share them: a label of SELinux is on thousands. */
  xattrsOf(bytes: Buffer): wire.XattrMap {
    if (bytes.length === 0) return NO_XATTRS
    const key = bytes.toString('latin1')
    const known = this.kept.xattrs.get(key)
    if (known) return known
    const xattrs = wire.parseXattrs(bytes)
    this.kept.xattrs.set(key, xattrs)
    return xattrs
  }

  /** Throws 'guest-filesystem' where the server refuses. What it should not have said ends the connection. */
  async #ask<T>(
    operation: wire.Operation,
    body: wire.RequestBody,
    parse: (body: Buffer) => T,
    options: CallOptions,
  ): Promise<T> {
    return await this.#connection.ask(operation, body, parse, { ...options, object: this.name })
  }

  /** Nodes are those of a volume, so two volumes may have the same. */
  #key(node: wire.RemoteNode): string {
    return `${this.tree}\0${node}`
  }
}

const NO_XATTRS: wire.XattrMap = new Map()

/** They follow each other from the beginning of `range`; what is past its end was not asked for. */
function placed(extents: readonly wire.RemoteExtent[], range: Range): readonly Extent[] {
  const end = rangeEnd(range)
  const result: Extent[] = []
  let offset = range.offset
  for (const { length, kind } of extents) {
    if (offset >= end) throw protocolError('extents past what was asked for')
    const within = length > BigInt(end - offset) ? end - offset : Number(length)
    result.push({ offset, length: within, kind })
    offset += within
  }
  if (result.length === 0) throw protocolError('no extents')
  return result
}
