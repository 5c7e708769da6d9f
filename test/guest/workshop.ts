/**
 * A scratch guest in which disks are made that this host's kernel cannot make: Debian's cloud kernel with the drivers of
 * filesystems, LVM, mdraid and LUKS, and this host's own tools with their libraries, all in memory. What it leaves is what it
 * wrote to the disks.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { copyFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { commandChannel } from './command-channel.ts'
import { kernel, modulesInOrder } from './kernel.ts'
import { addBusybox, packInitrd } from './tiny-image.ts'
import { shell } from './tool.ts'
import { startVm, type TestVm } from './vm.ts'

export interface WorkshopDisk {
  /** Seen inside as /disks/<name>, its partitions as /disks/<name>-p<N>. */
  readonly name: string
  /** Raw. */
  readonly path: string
}

const MODULES = [
  ...[
    'virtio_pci',
    'virtio_scsi',
    'sd_mod',
    'xfs',
    'btrfs',
    'vfat',
    'nls_cp437',
    'nls_ascii',
    'nls_utf8',
    'exfat',
    'fuse',
  ],
  ...['dm_mod', 'dm_crypt', 'xts', 'ecb', 'cbc', 'raid0', 'raid1', 'raid456'],
]

const TOOLS = [
  ...['mkfs.ext4', 'mkfs.xfs', 'mkfs.btrfs', 'btrfs', 'mkntfs', 'ntfs-3g', 'mkfs.vfat', 'mkfs.exfat', 'xorriso'],
  ...['mkswap', 'lvm', 'mdadm', 'cryptsetup', 'tar', 'setfattr', 'blkid'],
]

/** Where a program of this name has a library that only its last call looks for. */
const COPY_TOOLS = `
root=$1; shift
for name in "$@"; do
  path=$(command -v "$name")
  mkdir -p "$root/tools"
  cp -L "$path" "$root/tools/$name"
  ldd "$path" | grep -oE '/[^ ]+' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
  done
done
cp -L "$(ldd "$(command -v cryptsetup)" | grep -oE '/[^ ]*/' | sort | uniq -c | sort -rn | awk 'NR==1{print $2}')libgcc_s.so.1" "$root/lib/x86_64-linux-gnu/"
`

/** `files` lie in the guest's root; those with a name that ends in .sh may be run. */
export async function startWorkshop(
  disks: readonly WorkshopDisk[],
  files: ReadonlyMap<string, string | Buffer>,
): Promise<TestVm> {
  const folder = mkdtempSync(join(tmpdir(), 'lifeboat-workshop-'))
  try {
    const initrd = join(folder, 'initrd.img')
    const linux = await kernel()
    await makeInitrd(join(folder, 'root'), initrd, files)
    const vm = await startVm({
      disks: [],
      memoryMiB: 768,
      direct: { kernel: linux.image, initrd, append: 'console=ttyS0,115200 quiet mitigations=off panic=-1' },
      extraArguments: ['-device', 'virtio-scsi-pci,id=scsi', ...disks.flatMap(diskArguments)],
    })
    try {
      await vm.waitForPrompt()
      return vm
    } catch (error) {
      await vm.kill()
      throw error
    }
  } finally {
    // QEMU has read the kernel and the initrd before the guest's first instruction.
    rmSync(folder, { recursive: true, force: true })
  }
}

function diskArguments({ name, path }: WorkshopDisk, lun: number): string[] {
  const node = { driver: 'raw', 'node-name': name, discard: 'unmap', 'detect-zeroes': 'unmap' }
  return [
    ...['-blockdev', JSON.stringify({ ...node, file: { driver: 'file', filename: path, discard: 'unmap' } })],
    ...['-device', `scsi-hd,bus=scsi.0,lun=${lun},drive=${name},serial=${name}`],
  ]
}

async function makeInitrd(root: string, output: string, files: ReadonlyMap<string, string | Buffer>): Promise<void> {
  for (const name of ['dev', 'disks', 'etc', 'lib/modules', 'm', 'proc', 'root', 'run', 'sys', 'tmp', 'var'])
    mkdirSync(join(root, name), { recursive: true })
  await addBusybox(root)
  await shell(COPY_TOOLS, root, ...TOOLS)
  const modules = await modulesInOrder(await kernel(), MODULES)
  for (const module of modules) await copyFile(module, join(root, 'lib/modules', basename(module)))
  const writeProgram = (name: string, text: string | Buffer): void =>
    writeFileSync(join(root, name), text, { mode: 0o755 })
  writeProgram('init', init(modules.map(module => `/lib/modules/${basename(module)}`)))
  writeProgram('command-channel', commandChannel({ mountData: 'true', poweroff: 'sync; poweroff -f' }))
  for (const [name, contents] of files) writeProgram(name, contents)
  await packInitrd(root, output, 1)
}

/** A disk is found by its number, which the kernel does not promise to keep for its letter. */
const init = (modules: readonly string[]): string => `#!/bin/sh
export PATH=/tools:/bin HOME=/root LC_ALL=C
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
mkdir -p /dev/pts
ln -s /proc/self/fd /dev/fd
${modules.map(module => `insmod ${module}`).join('\n')}
for disk in /sys/block/sd*; do
  name=$(tail -c +5 "$disk/device/vpd_pg80" | tr -dc 'a-z0-9-')
  ln -s "/dev/$(basename "$disk")" "/disks/$name"
  for part in "$disk"/sd*; do
    [ -e "$part/partition" ] && ln -s "/dev/$(basename "$part")" "/disks/$name-p$(cat "$part/partition")"
  done
done
exec < /dev/console > /dev/console 2>&1
exec /command-channel
`
