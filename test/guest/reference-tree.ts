/**
 * The tree that every filesystem of the tests holds, as far as it can, told as a table: what a test compares with is what was
 * meant, never what some program read back. Paths and names are strings as `src/files/name.ts` has them.
 */
import type { FileKind } from '../../src/files/file-tree.ts'
import { decodeName } from '../../src/files/name.ts'
import { patternBytes } from '../doubles/pattern.ts'

export interface TrueFile {
  /** From the root of its filesystem, without a slash at either end. */
  readonly path: string
  readonly kind: FileKind
  readonly permissions: number
  readonly uid: number
  readonly gid: number
  /** Absent where it is the time at which the disk was made. */
  readonly modifiedNs?: bigint
  /** Of files. Those that have holes are said in pieces, and `size` is more than they have. */
  readonly size: number
  readonly pieces: readonly { readonly offset: number; readonly bytes: Buffer }[]
  readonly target?: string
  readonly device?: { readonly major: number; readonly minor: number }
  readonly xattrs: Readonly<Record<string, Buffer>>
  /** As text, which is how tar and setfacl take it; `xattrs` has the same in the kernel's bytes. */
  readonly acl?: string
  /** The first name of the same file: everything else is that one's. */
  readonly hardLinkOf?: string
}

const KiB = 1024
const MiB = 1024 * KiB
/** 2001-02-03T04:05:06.123456700Z: NTFS counts in 100 ns. */
const REFERENCE_TIME_NS = 981_173_106_123_456_700n
/** Before 1970, which FAT cannot say. */
const EARLY_NS = -1_000_000_000_500_000_000n
const OWNER = { uid: 1234, gid: 4321 }
const SMALL_FILES = 300
const DEPTH = 40

type Said = Partial<TrueFile> & Pick<TrueFile, 'path' | 'kind'>

const full = (said: Said): TrueFile => ({
  permissions: { directory: 0o755, symlink: 0o777 }[said.kind as string] ?? 0o644,
  ...OWNER,
  modifiedNs: REFERENCE_TIME_NS,
  size: 0,
  pieces: [],
  xattrs: {},
  ...said,
})

const folder = (path: string, more: Partial<TrueFile> = {}): TrueFile => full({ path, kind: 'directory', ...more })
const file = (path: string, bytes: Buffer, more: Partial<TrueFile> = {}): TrueFile =>
  full({ path, kind: 'file', size: bytes.length, pieces: bytes.length > 0 ? [{ offset: 0, bytes }] : [], ...more })
const symlink = (path: string, target: string): TrueFile => full({ path, kind: 'symlink', target, size: target.length })

const text = (words: string): Buffer => Buffer.from(words)
const named = (bytes: string): string => decodeName(Buffer.from(bytes, 'latin1'))

const ACL = 'user::rwx,user:5555:r--,group::r-x,mask::r-x,other::r-x'
/** user_obj, user 5555, group_obj, mask, other: tag, permissions, id; little-endian after the version. */
const ACL_BYTES = Buffer.from(
  '0200000001000700ffffffff02000400b315000004000500ffffffff10000500ffffffff20000500ffffffff',
  'hex',
)
/** cap_net_raw+ep, revision 2: effective bit, permitted, inheritable, and their upper halves. */
const CAPABILITY = Buffer.from('0100000200200000000000000000000000000000', 'hex')

export function referenceTree(): readonly TrueFile[] {
  const linked = {
    permissions: 0o4755,
    acl: ACL,
    xattrs: { 'user.demo': text('val1'), 'system.posix_acl_access': ACL_BYTES },
  }
  const sparse = [
    { offset: 0, bytes: patternBytes(64 * KiB, 2) },
    { offset: 4 * MiB, bytes: text('X'.repeat(4096)) },
  ]
  return [
    folder('dir'),
    file('dir/file.txt', text('hello\n'), linked),
    folder('dir/sub', { permissions: 0o1777 }),
    symlink('dir/sub/link', '../file.txt'),
    // A folder is told before all that is in it, and nothing else in between: tar sets its time when it has left it.
    full({ path: 'hard', kind: 'file', hardLinkOf: 'dir/file.txt' }),
    symlink('dangling', 'nowhere/at-all'),
    symlink('absolute', '/etc/hostname'),
    symlink('long-link', `${'a-long-way/'.repeat(90)}end`),
    file('capable', text('#!/bin/sh\n'), { permissions: 0o755, xattrs: { 'security.capability': CAPABILITY } }),
    file('attributes', text('x'), {
      permissions: 0o600,
      // More than an inode holds, less than the 1 KiB block of a small ext4.
      xattrs: { 'user.big': patternBytes(600, 3), 'user.empty': Buffer.alloc(0) },
    }),
    file('early', text('before 1970'), { modifiedNs: EARLY_NS }),
    file('root-owned', text('0'), { uid: 0, gid: 0, permissions: 0o400 }),
    full({ path: 'fifo', kind: 'fifo', permissions: 0o620 }),
    full({ path: 'null', kind: 'character-device', permissions: 0o666, device: { major: 1, minor: 3 } }),
    full({ path: 'disk', kind: 'block-device', permissions: 0o660, device: { major: 259, minor: 300 } }),
    full({ path: 'sparse', kind: 'file', size: 8 * MiB, pieces: sparse }),
    file('empty', Buffer.alloc(0)),
    file('random-5m.bin', patternBytes(5 * MiB, 1)),
    folder('names'),
    file(named('names/latin-\xe4\xff'), text('not UTF-8')),
    file('names/new\nline', text('two lines')),
    file('names/uml\u00e4ut with space', text('UTF-8')),
    file('names/\u65e5\u672c.txt', text('three bytes each')),
    file(`names/${'n'.repeat(255)}`, text('255')),
    file('names/-rf *', text('options')),
    folder('empty-folder', { permissions: 0o700 }),
    ...deepFolders(),
    folder('many'),
    ...Array.from({ length: SMALL_FILES }, (_, n) =>
      file(`many/f${String(n).padStart(4, '0')}`, patternBytes(n * 29, n + 10)),
    ),
  ]
}

function deepFolders(): TrueFile[] {
  const folders: TrueFile[] = []
  let path = 'deep'
  for (let depth = 0; depth < DEPTH; depth++, path += `/d${depth}`) folders.push(folder(path))
  return [...folders, file(`${path.slice(0, path.lastIndexOf('/'))}/bottom.txt`, text('at the bottom'))]
}

/** Compresses well: NTFS is told to compress its folder. */
export const PACKED = Buffer.from('this line is one of many\n'.repeat(6_000))

/** What Windows' filesystems can hold: no owner, no links or devices, names of UTF-16 without what Windows forbids. */
export const windowsTree = (): readonly TrueFile[] => [
  ...referenceTree().filter(({ path, kind, hardLinkOf, modifiedNs }) => {
    const isPlain = (kind === 'file' || kind === 'directory') && hardLinkOf === undefined
    return isPlain && path.isWellFormed() && !/[\n*?<>|":\\]/.test(path) && modifiedNs !== EARLY_NS
  }),
  folder('packed'),
  file('packed/lines.txt', PACKED),
]

/** What was done to a tree after it had been written, in the last second before the power failed. */
export const changedAtLast = (truth: readonly TrueFile[]): readonly TrueFile[] => [
  ...truth
    .filter(({ path }) => path !== 'many/f0002')
    .map(each => (each.path === 'many/f0001' ? { ...each, path: 'moved' } : each))
    .map(each => (each.path === 'many' ? { ...each, modifiedNs: undefined } : each)),
  file('note', text('written at last\n'), { uid: 0, gid: 0, modifiedNs: undefined }),
]

export const below = (path: string, truth: readonly TrueFile[]): readonly TrueFile[] => [
  folder(path, { uid: 0, gid: 0, modifiedNs: undefined }),
  ...truth.map(each => ({
    ...each,
    path: `${path}/${each.path}`,
    ...(each.hardLinkOf === undefined ? {} : { hardLinkOf: `${path}/${each.hardLinkOf}` }),
  })),
]

export function contentsOf({ size, pieces }: TrueFile): Buffer {
  const bytes = Buffer.alloc(size)
  for (const piece of pieces) piece.bytes.copy(bytes, piece.offset)
  return bytes
}

/** Whether two thirds of it are holes, where its filesystem has such. */
export const isSparse = ({ size, pieces }: TrueFile): boolean =>
  pieces.reduce((sum, { bytes }) => sum + bytes.length, 0) * 3 < size
