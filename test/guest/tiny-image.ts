/**
 * A whole small Linux on a 64 MiB disk that boots by itself: Debian's cloud kernel, busybox, GRUB. Boots from virtio-blk and
 * nvme alike. A disk whose file system is labelled `lifeboat-data` is mounted at /data.
 */
import { chmodSync, copyFileSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { makeBootableDisk } from './bootable-disk.ts'
import { commandChannel } from './command-channel.ts'
import { type Kernel, kernel, modulesInOrder } from './kernel.ts'
import { cached, sourceOf } from './recipe-cache.ts'
import { shell, tool } from './tool.ts'

export interface GuestImage {
  /** A raw disk. Never write to it: give a copy to the guest. */
  readonly disk: string
  /** For booting without the disk's own boot loader, which saves 5 to 10 seconds. */
  readonly direct: { readonly kernel: string; readonly initrd: string; readonly append: string }
  /** Milliseconds that the guest may take from start to prompt: at least five times what it takes on a quiet machine. */
  readonly bootTimeoutMs: number
}

const COMMAND_LINE = 'console=ttyS0,115200 quiet mitigations=off panic=-1 ro'

export async function tinyImage({ firmware = 'bios' }: { firmware?: 'bios' | 'uefi' } = {}): Promise<GuestImage> {
  const linux = await kernel()
  const sources = [
    import.meta.url,
    new URL('bootable-disk.ts', import.meta.url).href,
    new URL('command-channel.ts', import.meta.url).href,
  ]
  const folder = await cached(`tiny-${firmware}`, [linux.release, ...sources.map(sourceOf)], into =>
    build(into, linux, firmware),
  )
  return {
    disk: join(folder, 'disk.raw'),
    direct: { kernel: linux.image, initrd: join(folder, 'initrd.img'), append: COMMAND_LINE },
    bootTimeoutMs: 180_000,
  }
}

async function build(folder: string, linux: Kernel, firmware: 'bios' | 'uefi'): Promise<void> {
  const initrd = join(folder, 'initrd.img')
  await makeInitrd(folder, initrd, linux)
  const root = join(folder, 'root')
  makeFolders(root, ['boot', 'data', 'dev', 'etc', 'proc', 'root', 'sbin', 'sys', 'tmp', 'var'])
  await addBusybox(root)
  copyFileSync(linux.image, join(root, 'boot/vmlinuz'))
  copyFileSync(initrd, join(root, 'boot/initrd.img'))
  writeProgram(join(root, 'sbin/init'), INIT)
  writeProgram(
    join(root, 'sbin/command-channel'),
    commandChannel({
      mountData: 'data=$(findfs LABEL=lifeboat-data 2>/dev/null) && mount -t ext4 $data /data',
      poweroff: 'umount /data 2>/dev/null; mount -o remount,ro /; poweroff -f',
    }),
  )
  const output = join(folder, 'disk.raw')
  const size = { sizeMiB: 64, journalMiB: 4 }
  await makeBootableDisk({ root, output, firmware, ...size, commandLine: COMMAND_LINE, label: 'lifeboat-root' })
  chmodSync(output, 0o444)
  rmSync(root, { recursive: true })
}

async function makeInitrd(folder: string, output: string, linux: Kernel): Promise<void> {
  const root = join(folder, 'initrd')
  makeFolders(root, ['dev', 'lib', 'mnt', 'proc', 'sys'])
  await addBusybox(root)
  const modules = await modulesInOrder(linux, ['virtio_pci', 'virtio_blk'])
  for (const module of modules) copyFileSync(module, join(root, 'lib', basename(module)))
  writeProgram(join(root, 'init'), initrdInit(modules.map(module => `/lib/${basename(module)}`)))
  await packInitrd(root, output, 19)
}

/** The folder goes with it. */
export async function packInitrd(root: string, output: string, level: number): Promise<void> {
  const pack = 'cd "$1"; find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0 | zstd -q "-$3" > "$2"'
  await shell(pack, root, output, `${level}`)
  rmSync(root, { recursive: true })
}

/** Device nodes appear a moment after their module is loaded, so the root is looked for until it is there. */
const initrdInit = (modules: readonly string[]): string => `#!/bin/sh
export PATH=/bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
${modules.map(module => `insmod ${module}`).join('\n')}
while :; do
  for disk in /dev/vda2 /dev/nvme0n1p2; do
    [ -b $disk ] && mount -t ext4 -o ro $disk /mnt && break 2
  done
  sleep 0.1
done
umount /sys /proc; mount -o move /dev /mnt/dev
exec switch_root /mnt /sbin/init
`

const INIT = `#!/bin/sh
export PATH=/bin:/sbin HOME=/root
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmp /tmp
exec < /dev/console > /dev/console 2>&1
mount -o remount,rw /
exec command-channel
`

export async function addBusybox(root: string): Promise<void> {
  makeFolders(root, ['bin'])
  copyFileSync('/bin/busybox', join(root, 'bin/busybox'))
  chmodSync(join(root, 'bin/busybox'), 0o755)
  const names = (await tool('/bin/busybox', '--list')).split('\n').filter(name => name !== '' && name !== 'busybox')
  for (const name of names) symlinkSync('busybox', join(root, 'bin', name))
}

function makeFolders(root: string, names: readonly string[]): void {
  for (const name of names) mkdirSync(join(root, name), { recursive: true })
}

function writeProgram(path: string, text: string): void {
  writeFileSync(path, text, { mode: 0o755 })
}
