/** A file as `files` tells it: for programs, and as a line of a long listing. */
import { messageOf } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { FileKind, SymlinkNode, TreeNode } from '../files/file-tree.ts'
import { isOfOneFile } from '../files/problems.ts'
import type { FileProblems } from './files-problems.ts'
import { modeText, octalMode, shownName, timeText } from './files-text.ts'

/** Names that are no text hold lone surrogates, U+DC00 plus the byte, which JSON escapes. */
export interface FileEntry {
  readonly name: string
  /** Within its volume. */
  readonly path: string
  readonly kind: FileKind
  readonly size: number
  readonly modifiedAt: string
  /** Octal: '0644', '4755'. */
  readonly mode: string
  readonly uid: number
  readonly gid: number
  /** A decimal number, as text: it has 64 bits. */
  readonly inode: string
  readonly links: number
  /** Of links. */
  readonly target?: string
  readonly device?: { readonly major: number; readonly minor: number }
}

export async function fileEntry(
  path: string,
  node: TreeNode,
  problems: FileProblems,
  options: AbortOptions,
): Promise<FileEntry> {
  const { size, modifiedNs, permissions, uid, gid, inode, links, device } = node.attributes()
  return {
    name: path.slice(path.lastIndexOf('/') + 1) || '/',
    path,
    kind: node.kind,
    size,
    modifiedAt: timeText(modifiedNs),
    mode: octalMode(permissions),
    uid,
    gid,
    inode: String(inode),
    links,
    ...(node.kind === 'symlink' ? { target: await targetOf(path, node, problems, options) } : {}),
    ...(device ? { device } : {}),
  }
}

/** Of a damaged link nothing is known but that it is there. */
async function targetOf(path: string, node: SymlinkNode, problems: FileProblems, options: AbortOptions) {
  try {
    return await node.readLink(options)
  } catch (error) {
    if (!isOfOneFile(error)) throw error
    problems.add(path, messageOf(error), error)
    return undefined
  }
}

export const below = (folder: string, name: string): string => (folder === '/' ? `/${name}` : `${folder}/${name}`)

/** '-rw-r--r--   1     0     0         1234 2026-11-21T10:00:00Z fstab', as ls -l but for the time. */
export function longLine(entry: FileEntry, shown: string): string {
  const { kind, mode, links, uid, gid, size, device, modifiedAt, target } = entry
  const amount = device ? `${device.major}, ${device.minor}` : String(size)
  return [
    modeText({ kind, permissions: Number.parseInt(mode, 8) }),
    String(links).padStart(3),
    String(uid).padStart(5),
    String(gid).padStart(5),
    amount.padStart(12),
    modifiedAt.replace(/\.\d+Z$/, 'Z'),
    shownName(shown) + (target === undefined ? '' : ` -> ${shownName(target)}`),
  ].join(' ')
}
