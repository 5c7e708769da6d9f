/** The sample of the FileTree contract, and other described trees, as files of this host. */
import { execFileSync } from 'node:child_process'
import { chmod, link, lstat, mkdir, open, symlink, writeFile } from 'node:fs/promises'
import type { Described } from '../../src/files/memory-tree.ts'
import { encodeName } from '../../src/files/name.ts'

const SLASH = Buffer.from('/')

/** Into `folder`, which is there. */
export async function writeTree(folder: string, entries: Readonly<Record<string, Described>>): Promise<void> {
  await writeEntries(Buffer.from(folder), entries, new Map())
}

async function writeEntries(
  folder: Buffer,
  entries: Readonly<Record<string, Described>>,
  written: Map<Described, Buffer>,
): Promise<void> {
  for (const [name, described] of Object.entries(entries)) {
    const path = Buffer.concat([folder, SLASH, encodeName(name)])
    const first = written.get(described)
    if (first) await link(first, path)
    else await write(path, described, written)
    written.set(described, path)
  }
}

async function write(path: Buffer, described: Described, written: Map<Described, Buffer>): Promise<void> {
  if (described.kind === 'directory') {
    await mkdir(path)
    await writeEntries(path, described.entries, written)
  } else if (described.kind === 'symlink') return await symlink(encodeName(described.target), path)
  else if (described.kind === 'file') await writeContents(path, described)
  else execFileSync('mkfifo', [path.toString()])
  for (const [name, value] of described.xattrs ?? [])
    execFileSync('setfattr', ['-n', name, '-v', `0x${Buffer.from(value).toString('hex')}`, path.toString()])
  if (described.permissions !== undefined) await chmod(path, described.permissions)
  if (described.modifiedNs !== undefined) await setModified(path, described.modifiedNs)
}

async function writeContents(path: Buffer, described: Described & { readonly kind: 'file' }): Promise<void> {
  if (described.parts.every(part => part.offset === 0 && part.bytes.length === described.size))
    return await writeFile(path, described.parts[0]?.bytes ?? '')
  await using file = await open(path, 'w')
  await file.truncate(described.size)
  for (const { bytes, offset } of described.parts) await file.write(bytes, 0, bytes.length, offset)
}

/** Node's utimes counts in doubles, which lose the nanoseconds. */
async function setModified(path: Buffer, timeNs: bigint): Promise<void> {
  const seconds = `${timeNs / 1_000_000_000n}.${String(timeNs % 1_000_000_000n).padStart(9, '0')}`
  execFileSync('touch', ['-d', `@${seconds}`, path.toString()])
  const { mtimeNs } = await lstat(path, { bigint: true })
  if (mtimeNs !== timeNs) throw new Error(`this host's filesystem keeps ${mtimeNs}, not ${timeNs}`)
}
