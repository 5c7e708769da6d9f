/** An ext4 filesystem with a tree of 1 GiB: 2,048 files of 4 KiB to 8 MiB that do not compress, made once in a cache folder. */
import { mkdir, open, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { GiB, KiB, MiB } from '../src/core/limits.ts'
import { seededRandom } from '../src/core/random.ts'
import { CACHE } from './images.ts'
import { exists, run } from './tools.ts'

const FILES = 2048
const FOLDERS = 64

export async function treeImage(): Promise<string> {
  const image = path.join(CACHE, 'bench', 'tree.raw')
  if (await exists(image)) return image
  const stage = `${image}.stage`
  await rm(stage, { recursive: true, force: true })
  const random = seededRandom('tree')
  for (let folder = 0; folder < FOLDERS; folder++) await mkdir(path.join(stage, `${folder}`), { recursive: true })
  const sizes = sizesOf(1 * GiB)
  for (const [number, size] of sizes.entries()) {
    const file = await open(path.join(stage, `${number % FOLDERS}`, `${number}.bin`), 'w')
    for (let at = 0; at < size; at += MiB) await file.write(random(Math.min(MiB, size - at)))
    await file.close()
  }
  const make =
    'truncate -s 1200M "$2.part"; mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 -d "$1" "$2.part"'
  await run('bash', ['-ec', make, 'bash', stage, image], { maxBuffer: 16 * MiB })
  await rm(stage, { recursive: true, force: true })
  await rename(`${image}.part`, image)
  return image
}

/** As many of each magnitude, so that most bytes are in large files and most files are small; `total` in all. */
function sizesOf(total: number): readonly number[] {
  const shares = Array.from({ length: FILES }, (_, number) => 4 * KiB * 2 ** (11 * (((number * 37) % FILES) / FILES)))
  const sum = shares.reduce((all, share) => all + share, 0)
  return shares.map(share => Math.max(4 * KiB, Math.floor((share * total) / sum)))
}
