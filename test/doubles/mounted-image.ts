/** Images that Windows and cameras write, made and filled by the drivers that Linux has for them outside of its kernel. Needs root and FUSE. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { shell } from '../guest/tool.ts'

type ForeignFilesystem = 'ntfs' | 'exfat' | 'ext4' | 'vfat'

const MAKE: Readonly<Record<ForeignFilesystem, string>> = {
  ntfs: 'mkntfs --quick --force --quiet',
  exfat: 'mkfs.exfat',
  ext4: 'mkfs.ext4 -q -F -O ea_inode,inline_data',
  vfat: 'mkfs.vfat',
}

const MOUNT = {
  ntfs: 'ntfs-3g -o streams_interface=xattr "$1" "$2"',
  exfat: 'mount.exfat-fuse "$1" "$2"',
  ext4: 'mount -t ext4 "$1" "$2"',
} as const

export interface FilledImage extends AsyncDisposable {
  readonly path: string
}

/** Of a size with a unit, as truncate takes it; `fill` has the folder where it is mounted. `make` is another way to make it. */
export async function filledImage(
  kind: ForeignFilesystem,
  size: string,
  fill: (folder: string) => Promise<void>,
  make: string = MAKE[kind],
): Promise<FilledImage> {
  const place = await mkdtemp(join(tmpdir(), 'filled-image-'))
  const [path, folder] = [join(place, 'image'), join(place, 'mounted')]
  await shell(`mkdir "$2"; truncate -s ${size} "$1"; ${make} "$1" 2>&1`, path, folder)
  if (kind === 'vfat') {
    await fill(folder)
    await shell('mcopy -s -m -Q -i "$1" "$2"/* ::', path, folder)
  } else await fillMounted(MOUNT[kind], path, folder, fill)
  return { path, [Symbol.asyncDispose]: () => rm(place, { recursive: true }) }
}

async function fillMounted(
  mount: string,
  path: string,
  folder: string,
  fill: (folder: string) => Promise<void>,
): Promise<void> {
  const device = (await shell('losetup --find --show "$1"', path)).trim()
  try {
    await shell(mount, device, folder)
    try {
      await fill(folder)
    } finally {
      // A driver outside of the kernel writes its last after the unmount has returned.
      await shell('umount "$2"; while fuser -s "$1" 2>/dev/null; do sleep 0.05; done', device, folder)
    }
  } finally {
    await shell('losetup --detach "$1"', device)
  }
}
