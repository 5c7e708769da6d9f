/** A folder of this host as a tree of files: served by mounts, restored, and compared with, in tests and measurements. */
import { type BigIntStats, lstatSync } from 'node:fs'
import { type FileHandle, lstat, open, opendir, readlink } from 'node:fs/promises'
import { fileDevice } from '../../src/block/file.ts'
import { LifeboatError } from '../../src/core/errors.ts'
import type { AbortOptions } from '../../src/core/scope.ts'
import type { Attributes, DirectoryNode, Entry, FileKind, FileTree, TreeNode } from '../../src/files/file-tree.ts'
import { decodeName, encodeName, isName } from '../../src/files/name.ts'
import { xattrsOf } from '../../src/native/file-attributes.ts'

interface Options {
  /** Nobody changes the folder while the tree is open. */
  readonly isFrozen?: boolean
}

const BATCH = 128
const SLASH = Buffer.from('/')

export async function directoryTree(folder: string, { isFrozen = true }: Options = {}): Promise<FileTree> {
  const root = await nodeAt(Buffer.from(folder), isFrozen)
  if (root?.kind !== 'directory') throw new LifeboatError('no-such-file', `${folder} is not a folder`)
  return { root, [Symbol.asyncDispose]: async () => {} }
}

async function nodeAt(path: Buffer, isFrozen: boolean): Promise<TreeNode | undefined> {
  const stat = await lstat(path, { bigint: true }).catch(error => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
  return stat && nodeOf(path, stat, isFrozen)
}

function nodeOf(path: Buffer, stat: BigIntStats, isFrozen: boolean): TreeNode {
  const attributes = attributesOf(stat)
  const common = {
    tree: `directory ${stat.dev}`,
    isFrozen,
    attributes: () => attributes,
    xattrs: async ({ signal }: AbortOptions = {}) => {
      signal?.throwIfAborted()
      return new Map((await xattrsOf(path)).map(({ name, value }) => [decodeName(name), value]))
    },
  }
  switch (attributes.kind) {
    case 'file':
      return { kind: 'file', ...common, open: options => openFile(path, options) }
    case 'directory':
      return { kind: 'directory', ...common, ...directoryAt(path, isFrozen) }
    case 'symlink':
      return {
        kind: 'symlink',
        ...common,
        readLink: async ({ signal } = {}) => {
          signal?.throwIfAborted()
          return decodeName(await readlink(path, { encoding: 'buffer' }))
        },
      }
    default:
      return { kind: attributes.kind, ...common }
  }
}

const below = (path: Buffer, name: Buffer): Buffer => Buffer.concat([path, SLASH, name])

function directoryAt(path: Buffer, isFrozen: boolean): Pick<DirectoryNode, 'lookup' | 'list'> {
  return {
    async lookup(name, { signal } = {}) {
      signal?.throwIfAborted()
      return isName(name) ? nodeAt(below(path, encodeName(name)), isFrozen) : undefined
    },
    async *list({ signal } = {}) {
      let batch: Entry[] = []
      for await (const name of namesIn(path)) {
        signal?.throwIfAborted()
        // At once, on this thread: a local folder answers in less time than it takes to hand the question over.
        const stat = lstatSync(below(path, name), { bigint: true, throwIfNoEntry: false })
        if (stat) batch.push({ name: decodeName(name), node: nodeOf(below(path, name), stat, isFrozen) })
        if (batch.length < BATCH) continue
        yield batch
        batch = []
      }
      yield batch
    },
  }
}

async function* namesIn(path: Buffer): AsyncGenerator<Buffer> {
  // The types know no names in bytes here.
  for await (const { name } of await opendir(path as unknown as string, { encoding: 'buffer' as 'utf8' }))
    yield name as unknown as Buffer
}

/** By its descriptor, so that its name may be any bytes. */
async function openFile(path: Buffer, { signal }: AbortOptions = {}) {
  signal?.throwIfAborted()
  await using file: FileHandle = await open(path, 'r')
  return await fileDevice(`/proc/self/fd/${file.fd}`, { readOnly: true })
}

function kindOf(stat: BigIntStats): FileKind {
  if (stat.isFile()) return 'file'
  if (stat.isDirectory()) return 'directory'
  if (stat.isSymbolicLink()) return 'symlink'
  if (stat.isFIFO()) return 'fifo'
  if (stat.isSocket()) return 'socket'
  return stat.isBlockDevice() ? 'block-device' : 'character-device'
}

function attributesOf(stat: BigIntStats): Attributes {
  const kind = kindOf(stat)
  const isDevice = kind === 'block-device' || kind === 'character-device'
  const major = Number(((stat.rdev >> 8n) & 0xfffn) | ((stat.rdev >> 32n) & 0xfffff000n))
  const minor = Number((stat.rdev & 0xffn) | ((stat.rdev >> 12n) & 0xffffff00n))
  return {
    kind,
    inode: stat.ino,
    size: Number(stat.size),
    allocated: Number(stat.blocks) * 512,
    permissions: Number(stat.mode) & 0o7777,
    links: Number(stat.nlink),
    uid: Number(stat.uid),
    gid: Number(stat.gid),
    ...(isDevice ? { device: { major, minor } } : {}),
    modifiedNs: stat.mtimeNs,
    changedNs: stat.ctimeNs,
    accessedNs: stat.atimeNs,
    bornNs: stat.birthtimeNs,
  }
}
