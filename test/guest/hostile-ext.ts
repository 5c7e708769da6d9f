/** ext filesystems that nobody's kernel wrote: made by mke2fs and debugfs, then changed by hand where debugfs refuses. */
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { writeAt } from './partition-tables.ts'
import { shell, tool } from './tool.ts'

const MiB = 1024 * 1024
const SUPERBLOCK = 1024
const BLOCK = 1024
const DOUBLY = 18

interface ExtOptions {
  readonly sizeMiB?: number
  readonly type?: 'ext2' | 'ext4'
  readonly inodes?: number
}

/** Without checksums, so that what is changed by hand is believed. */
export async function makeExt(
  path: string,
  commands: readonly string[],
  { sizeMiB = 8, type = 'ext2', inodes }: ExtOptions = {},
): Promise<void> {
  writeFileSync(path, '')
  truncateSync(path, sizeMiB * MiB)
  const features = ['-O', '^metadata_csum,^dir_index,^resize_inode,^64bit']
  const count = inodes === undefined ? [] : ['-N', `${inodes}`]
  await tool('mkfs.ext4', '-q', '-F', '-t', type, '-b', `${BLOCK}`, ...features, ...count, path)
  await change(path, ['write /etc/hostname good.txt', ...commands])
}

/** debugfs ends with 0 whatever happened: what it says is looked at. */
async function change(path: string, commands: readonly string[]): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'lifeboat-debugfs-'))
  try {
    const script = join(folder, 'commands')
    writeFileSync(script, `${commands.join('\n')}\n`)
    const said = await shell('debugfs -w -f "$1" "$2" 2>&1 >/dev/null', script, path)
    const complaints = said.split('\n').filter(line => line !== '' && !/^debugfs \d|^Allocated inode/.test(line))
    if (complaints.length > 0) throw new Error(`debugfs: ${complaints.join('; ')}`)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Little-endian numbers of four bytes at offsets in the superblock. */
export const patchSuperblock = (path: string, fields: ReadonlyArray<readonly [number, number]>): void => {
  for (const [offset, value] of fields) {
    const bytes = Buffer.alloc(4)
    bytes.writeUInt32LE(value >>> 0)
    writeAt(path, bytes, SUPERBLOCK + offset)
  }
}

/** Gives entries of directories names that no kernel would: `from` has at least as many bytes. */
export function renameEntries(path: string, names: ReadonlyMap<string, string>): void {
  const image = readFileSync(path)
  for (const [from, to] of names) {
    let at = image.indexOf(from)
    while (at >= 0 && image[at - 2] !== from.length) at = image.indexOf(from, at + 1)
    if (at < 0) throw new Error(`no entry '${from}'`)
    const bytes = Buffer.from(to, 'latin1')
    const length = Buffer.of(bytes.length)
    writeAt(path, length, at - 2)
    writeAt(path, bytes, at)
  }
}

/**
 * A directory of a hundred thousand entries that takes three blocks: all its pointers lead to the same block of entries, over one
 * block of pointers that is used again and again.
 */
export async function makeEntryBomb(path: string): Promise<void> {
  const names = Array.from({ length: 20 }, (_, n) => `link good.txt bomb/entry-${String(n).padStart(10, '0')}`)
  const filler = join(tmpdir(), `lifeboat-pointers-${process.pid}`)
  writeFileSync(filler, Buffer.alloc(2 * BLOCK, 1))
  try {
    await makeExt(path, ['mkdir bomb', ...names, `write ${filler} pointers`])
  } finally {
    rmSync(filler)
  }
  const blocksOf = async (name: string): Promise<number[]> =>
    (await tool('debugfs', '-R', `blocks ${name}`, path)).trim().split(/\s+/).map(Number)
  const [entries] = await blocksOf('bomb')
  const [single, double] = await blocksOf('pointers')
  const all = (block: number): Buffer => Buffer.from(new Uint32Array(BLOCK / 4).fill(block).buffer)
  writeAt(path, all(entries!), single! * BLOCK)
  // As many as its size says: libext2fs follows all that are not 0.
  writeAt(path, all(single!).fill(0, DOUBLY * 4), double! * BLOCK)
  const direct = Array.from({ length: 11 }, (_, n) => `sif bomb block[${n + 1}] ${entries}`)
  const count = 12 + 256 + 256 * DOUBLY
  await change(path, [
    ...direct,
    `sif bomb block[IND] ${single}`,
    `sif bomb block[DIND] ${double}`,
    `sif bomb size ${count * BLOCK}`,
  ])
}
