/** Archives as the kernel unpacks them into its first root: cpio's "newc", with owner 0 and no times, so that equal trees are equal bytes. */

export type ArchiveEntry = { readonly path: string } & (
  | { readonly kind: 'file'; readonly bytes: Uint8Array; readonly isProgram?: boolean }
  | { readonly kind: 'directory' }
  | { readonly kind: 'symlink'; readonly target: string }
)

/** Directories have to come before what is in them. */
export function encodeCpio(entries: readonly ArchiveEntry[]): Buffer {
  const pieces = entries.flatMap((entry, index) => piecesOf(entry.path, modeOf(entry), contentsOf(entry), index + 1))
  return Buffer.concat([...pieces, ...piecesOf('TRAILER!!!', 0, new Uint8Array(), 0)])
}

/** Paths of all directories above `paths`, outermost first. */
export function directoriesOf(paths: readonly string[]): ArchiveEntry[] {
  const found = new Set<string>()
  for (const path of paths) {
    const parts = path.split('/').slice(0, -1)
    for (let depth = 1; depth <= parts.length; depth++) found.add(parts.slice(0, depth).join('/'))
  }
  return [...found].sort().map(path => ({ path, kind: 'directory' }))
}

function modeOf(entry: ArchiveEntry): number {
  if (entry.kind === 'directory') return 0o040755
  if (entry.kind === 'symlink') return 0o120777
  return entry.isProgram ? 0o100755 : 0o100644
}

function contentsOf(entry: ArchiveEntry): Uint8Array {
  if (entry.kind === 'file') return entry.bytes
  return entry.kind === 'symlink' ? Buffer.from(entry.target) : new Uint8Array()
}

function piecesOf(path: string, mode: number, contents: Uint8Array, inode: number): Uint8Array[] {
  const name = Buffer.from(`${path}\0`)
  const links = mode === 0o040755 ? 2 : 1
  const fields = [inode, mode, 0, 0, links, 0, contents.length, 0, 0, 0, 0, name.length, 0]
  const header = `070701${fields.map(field => field.toString(16).padStart(8, '0')).join('')}`
  return [Buffer.from(header), name, padding(header.length + name.length), contents, padding(contents.length)]
}

const padding = (length: number): Uint8Array => new Uint8Array((4 - (length % 4)) % 4)
