/**
 * What the appliance boots: Debian's kernel for virtual machines and a first root with busybox, the tools that find and open volumes,
 * and the drivers of filesystems. It is built once on a host, of packages that are downloaded; what Lifeboat itself adds, its scripts
 * and its agent, is appended at each start, so that another version of them needs no network.
 */
import { copyFile, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import { builtOnce, builtPlace } from '../recovery/built-once.ts'
import { moduleFiles, programFiles } from './appliance-files.ts'
import { unpackPackages } from './appliance-packages.ts'
import { directoriesOf, encodeCpio } from './cpio.ts'

export interface ApplianceImage {
  readonly kernel: string
  readonly root: string
}

export interface ImageRequest extends AbortOptions {
  readonly clock: Clock
  readonly cacheDir: string
  /** Told that it takes a while, where there is none yet. */
  readonly tell?: (message: string) => void
}

/** What the image holds. A change of it, or of how it is put together (`layout`), is another image. */
const RECIPE = {
  layout: 3,
  architecture: process.arch,
  /** Ten megabytes instead of seventy; it lacks a driver of NTFS, for which there is ntfs-3g, with streams and replay. */
  kernel: 'linux-image-cloud-amd64',
  packages: ['busybox-static', 'util-linux', 'lvm2', 'mdadm', 'cryptsetup-bin', 'ntfs-3g'],
  programs: ['blkid', 'lvm', 'mdadm', 'cryptsetup', 'ntfs-3g', 'ntfsrecover'],
  /** OpenSSL loads it for old hashes that LUKS volumes may use. */
  plugins: ['legacy.so'],
  /** Loaded at the start, in this order. */
  atStart: ['virtio_pci', 'virtio_console', 'virtio_blk'],
  /** Loaded when they are needed. */
  onDemand: [
    ...['ext4', 'xfs', 'btrfs', 'vfat', 'exfat', 'isofs', 'udf', 'squashfs', 'erofs', 'fuse'],
    ...['nls_cp437', 'nls_ascii', 'nls_iso8859_1', 'nls_utf8', 'crc32c_generic', 'crc32c_intel', 'loop'],
    ...[
      'dm_mod',
      'dm_crypt',
      'dm_zero',
      'dm_mirror',
      'dm_raid',
      'dm_snapshot',
      'dm_thin_pool',
      'dm_cache',
      'dm_cache_smq',
      'dm_zero',
      'dm_integrity',
    ],
    ...['md_mod', 'linear', 'raid0', 'raid1', 'raid10', 'raid456'],
    ...[
      'aes_generic',
      'aesni_intel',
      'xts',
      'cbc',
      'ecb',
      'essiv',
      'sha256_generic',
      'sha512_generic',
      'xxhash_generic',
    ],
    ...['serpent_generic', 'twofish_generic', 'camellia_generic', 'blake2b_generic', 'algif_skcipher', 'algif_hash'],
  ],
} as const

const placeOf = (cacheDir: string) => ({ cacheDir, name: 'appliance', recipe: [JSON.stringify(RECIPE)] })

/** Builds it where this host has none. Throws 'appliance-unavailable'. */
export async function applianceImage({ cacheDir, clock, tell, signal }: ImageRequest): Promise<ApplianceImage> {
  if (process.arch !== 'x64') throw noOtherProcessor()
  const buildTold = async (folder: string) => {
    tell?.("the appliance that reads guests' filesystems is built, once on this host, of packages that apt-get fetches")
    await build(folder, { signal })
  }
  return filesIn(await builtOnce({ ...placeOf(cacheDir), clock, signal, build: buildTold }))
}

/** The versions of its packages and when it was built; undefined where this host has none yet. */
export async function builtAppliance(cacheDir: string): Promise<{ versions: string; builtAt: Date } | undefined> {
  const file = path.join(builtPlace(placeOf(cacheDir)), VERSIONS)
  try {
    return { versions: await readFile(file, 'utf8'), builtAt: (await stat(file)).mtime }
  } catch {
    return undefined
  }
}

const VERSIONS = 'packages.txt'
const filesIn = (folder: string): ApplianceImage => ({
  kernel: path.join(folder, 'kernel'),
  root: path.join(folder, 'root.cpio'),
})

async function build(folder: string, { signal }: AbortOptions): Promise<void> {
  const versions = await unpackPackages({ folder, kernel: RECIPE.kernel, names: RECIPE.packages, signal })
  const unpacked = path.join(folder, 'root')
  const { kernel, root } = filesIn(folder)
  const release = await onlyName(path.join(unpacked, 'lib/modules'))
  await copyFile(path.join(unpacked, 'boot', `vmlinuz-${release}`), kernel)
  const files = [
    ...(await programFiles(unpacked, RECIPE, { signal })),
    ...(await moduleFiles(unpacked, release, RECIPE, { signal })),
  ]
  // As it is: to decompress it would take an emulated processor two seconds of each start.
  await writeFile(root, encodeCpio([...directoriesOf(files.map(({ path }) => path)), ...files]))
  await writeFile(path.join(folder, VERSIONS), `${versions.join('\n')}\n`)
  for (const name of ['root', 'lists']) await rm(path.join(folder, name), { recursive: true, force: true })
}

async function onlyName(folder: string): Promise<string> {
  const [name] = await readdir(folder)
  if (name === undefined) throw new LifeboatError('tool-failed', `${folder} is empty`)
  return name
}

const noOtherProcessor = (): LifeboatError =>
  new LifeboatError('appliance-unavailable', `the appliance does not run on this kind of processor (${process.arch})`, {
    hint: 'Use a host with an x86-64 processor; ext2/3/4, NTFS, FAT and exFAT are read without the appliance.',
  })
