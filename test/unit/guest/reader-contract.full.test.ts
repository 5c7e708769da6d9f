/** What the drivers of Linux wrote, read by the sandboxed process: the contract of every tree of files. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after } from 'node:test'
import type { Described } from '../../../src/files/memory-tree.ts'
import { type ContractCase, fileTreeContract, manyNames, sampleTree } from '../../contract/file-tree-contract.ts'
import { type FilledImage, filledImage } from '../../doubles/mounted-image.ts'
import { openedReader } from '../../doubles/opened-reader.ts'
import { writeTree } from '../../doubles/written-sample.ts'

type Feature = NonNullable<ContractCase['without']>[number]

const FILESYSTEMS: Readonly<Record<'ext4' | 'ntfs' | 'exfat', readonly Feature[]>> = {
  ext4: [],
  // Links to any bytes are more than its Unicode can say.
  ntfs: ['symlinks', 'fifos', 'permissions', 'odd bytes', 'nanoseconds'],
  exfat: ['symlinks', 'hard links', 'xattrs', 'fifos', 'permissions', 'odd bytes', 'holes', 'nanoseconds'],
}

const images: FilledImage[] = []
after(() => Promise.all(images.map(image => image[Symbol.asyncDispose]())))

for (const kind of ['ext4', 'ntfs', 'exfat'] as const) {
  const without = FILESYSTEMS[kind]
  const image = await filledImage(kind, '128M', folder => fill(folder, without))
  images.push(image)
  fileTreeContract({
    name: `the reader's ${kind}`,
    without,
    open: async cleanup => {
      const { guests } = cleanup.use(await openedReader(image.path))
      return await guests.open('vda-whole')
    },
  })
}

async function fill(folder: string, without: readonly Feature[]): Promise<void> {
  await writeTree(folder, withoutFeatures(sampleTree, without))
  await mkdir(join(folder, 'many'))
  for (const name of manyNames()) await writeFile(join(folder, 'many', name), '')
}

/** Names of one file stay names of one file. */
function withoutFeatures(
  entries: Readonly<Record<string, Described>>,
  without: readonly Feature[],
  made = new Map<Described, Described>(),
): Record<string, Described> {
  const kept: Record<string, Described> = {}
  for (const [name, described] of Object.entries(entries)) {
    if (described.kind === 'symlink' && without.includes('symlinks')) continue
    if (described.kind === 'fifo' && without.includes('fifos')) continue
    if (without.includes('odd bytes') && (!name.isWellFormed() || /[\\"\n]/.test(name))) continue
    const known = made.get(described) ?? plainer(described, without, made)
    made.set(described, known)
    kept[name] = without.includes('hard links') ? { ...known } : known
  }
  return kept
}

function plainer(described: Described, without: readonly Feature[], made: Map<Described, Described>): Described {
  const { xattrs, permissions, modifiedNs, ...rest } = described
  const told = {
    ...rest,
    ...(xattrs !== undefined && !without.includes('xattrs') ? { xattrs } : {}),
    ...(permissions !== undefined && !without.includes('permissions') ? { permissions } : {}),
    ...(modifiedNs === undefined
      ? {}
      : { modifiedNs: without.includes('nanoseconds') ? inSeconds(modifiedNs) : modifiedNs }),
  } as Described
  return told.kind === 'directory' ? { ...told, entries: withoutFeatures(told.entries, without, made) } : told
}

/** FAT counts from 1980, in twos. */
function inSeconds(timeNs: bigint): bigint {
  const twos = timeNs / 2_000_000_000n
  return (twos > 160_000_000n ? twos : 160_000_000n) * 2_000_000_000n
}
