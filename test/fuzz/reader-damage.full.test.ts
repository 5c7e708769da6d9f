/** Random damage to every filesystem that the reader parses, thousands of images. */
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { damageCampaign } from '../doubles/damage-campaign.ts'
import { filledImage } from '../doubles/mounted-image.ts'
import { patternBytes } from '../doubles/pattern.ts'

const EXT = 'mkfs.ext4 -q -F -N 256'

const CAMPAIGNS = [
  { name: 'ext4', kind: 'ext4', make: `${EXT} -O ea_inode,inline_data`, size: '8M', images: 300 },
  {
    name: 'ext4 without checksums',
    kind: 'ext4',
    make: `${EXT} -O ^has_journal,^metadata_csum,inline_data`,
    size: '2M',
    images: 500,
  },
  { name: 'ext2', kind: 'ext4', make: `${EXT} -O none,filetype,sparse_super`, size: '2M', images: 300 },
  { name: 'NTFS', kind: 'ntfs', make: undefined, size: '2M', images: 600 },
  { name: 'FAT16', kind: 'vfat', make: 'mkfs.vfat -F 16 -s 1', size: '4M', images: 200 },
  { name: 'exFAT', kind: 'exfat', make: undefined, size: '8M', images: 300 },
] as const

for (const { name, kind, make, size, images } of CAMPAIGNS)
  test(`${name} that is damaged is told of, and ends nobody else`, async t => {
    const hasLinks = kind === 'ext4' || kind === 'ntfs'
    await using image = await filledImage(kind, size, folder => fill(folder, hasLinks), make)
    await damageCampaign(name, await readFile(image.path), images, line => t.diagnostic(line))
  })

async function fill(folder: string, hasLinks: boolean): Promise<void> {
  for (let i = 0; i < 40; i++) await writeFile(join(folder, `file with a longer name ${i}`), patternBytes(i * 4, i))
  await mkdir(join(folder, 'a', 'b'), { recursive: true })
  await writeFile(join(folder, 'a', 'b', 'large'), patternBytes(20_000))
  if (hasLinks) await symlink('x'.repeat(100), join(folder, 'a', 'link'))
}
