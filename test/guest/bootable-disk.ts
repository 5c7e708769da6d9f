/**
 * A disk image that boots by itself, made from a folder: GPT, one small partition for the boot loader, ext4 for the rest.
 * No loop device, no mount and no root are needed. The root file system is always partition 2.
 */
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { tool } from './tool.ts'

export interface BootableDisk {
  /** Holds boot/vmlinuz and boot/initrd.img. A boot/grub/grub.cfg is added. */
  readonly root: string
  readonly output: string
  readonly sizeMiB: number
  readonly firmware: 'bios' | 'uefi'
  readonly commandLine: string
  readonly label: string
  readonly journalMiB: number
  /** Runs a program that must read files of other owners; by default it is run as we are. */
  readonly asRoot?: (command: string, ...args: readonly string[]) => Promise<string>
}

const SECTOR = 512
const MiB = 1024 * 1024
/** Partition 1 starts at 1 MiB: 1 MiB for GRUB's core image, or a FAT file system with the EFI program. */
const LOADER_SECTOR = MiB / SECTOR
const loaderMiB = { bios: 1, uefi: 8 }
const GRUB_MODULES = [
  'part_gpt',
  'ext2',
  'linux',
  'normal',
  'configfile',
  'serial',
  'terminal',
  'echo',
  'boot',
  'minicmd',
]

export async function makeBootableDisk(disk: BootableDisk): Promise<void> {
  const rootSector = LOADER_SECTOR + (loaderMiB[disk.firmware] * MiB) / SECTOR
  mkdirSync(join(disk.root, 'boot/grub'), { recursive: true })
  writeFileSync(join(disk.root, 'boot/grub/grub.cfg'), grubConfig(disk.commandLine))
  writeFileSync(disk.output, '')
  truncateSync(disk.output, disk.sizeMiB * MiB)
  const type = { bios: 'ef02', uefi: 'ef00' }[disk.firmware]
  const partitions = [
    `-n1:${LOADER_SECTOR}:${rootSector - 1}`,
    `-t1:${type}`,
    `-n2:${rootSector}:0`,
    '-t2:8300',
    '-c2:root',
  ]
  await tool('sgdisk', '-U', '99999999-2222-3333-4444-555555555555', ...partitions, disk.output)
  // GPT's second copy takes the last 33 sectors; the block count is said because mkfs cannot know where to stop.
  const blocks = Math.floor((disk.sizeMiB * MiB - rootSector * SECTOR - MiB) / 4096)
  const extended = `offset=${rootSector * SECTOR},lazy_itable_init=0,lazy_journal_init=0`
  const journal = `size=${disk.journalMiB}`
  const run = disk.asRoot ?? tool
  await run(
    'mkfs.ext4',
    '-q',
    '-F',
    '-b',
    '4096',
    '-L',
    disk.label,
    '-E',
    extended,
    '-J',
    journal,
    '-d',
    disk.root,
    disk.output,
    `${blocks}`,
  )
  await (disk.firmware === 'bios' ? embedGrubForBios(disk.output) : embedGrubForUefi(disk.output))
}

const grubConfig = (commandLine: string): string =>
  `serial --unit=0 --speed=115200
terminal_output serial
linux /boot/vmlinuz ${commandLine}
initrd /boot/initrd.img
boot
`

/** What grub-install does by asking the running system, done here by the numbers: boot.img finds core.img at sector 2048. */
async function embedGrubForBios(output: string): Promise<void> {
  const core = await grubImage(output, 'i386-pc', ['biosdisk'])
  const boot = readFileSync('/usr/lib/grub/i386-pc/boot.img')
  boot.writeBigUInt64LE(BigInt(LOADER_SECTOR), 0x5c)
  // The jump that checks for a floppy drive becomes two no-operations, as grub-bios-setup does.
  boot.writeUInt16LE(0x9090, 0x66)
  core.writeBigUInt64LE(BigInt(LOADER_SECTOR + 1), 0x1f4)
  if (core.length > loaderMiB.bios * MiB)
    throw new Error(`GRUB's core image has ${core.length} bytes: too large for its partition`)
  const file = openSync(output, 'r+')
  writeSync(file, boot, 0, 440, 0)
  writeSync(file, core, 0, core.length, LOADER_SECTOR * SECTOR)
  closeSync(file)
}

async function embedGrubForUefi(output: string): Promise<void> {
  const program = await grubImage(output, 'x86_64-efi', ['efi_gop'])
  const path = `${output}.efi`
  writeFileSync(path, program)
  const target = `${output}@@${LOADER_SECTOR * SECTOR}`
  const sectors = `${(loaderMiB.uefi * MiB) / SECTOR}`
  await tool('mformat', '-i', target, '-T', sectors, '-h', '64', '-s', '32', '-v', 'EFI', '::')
  await tool('mmd', '-i', target, '::/EFI', '::/EFI/BOOT')
  await tool('mcopy', '-i', target, path, '::/EFI/BOOT/BOOTX64.EFI')
  rmSync(path)
}

async function grubImage(output: string, format: string, modules: readonly string[]): Promise<Buffer> {
  const early = `${output}.early.cfg`
  const image = `${output}.core`
  // The firmware numbers disks its own way, so the root is found by what lies on it.
  writeFileSync(
    early,
    'search --file --set=root /boot/grub/grub.cfg\nset prefix=($root)/boot/grub\nconfigfile /boot/grub/grub.cfg\n',
  )
  await tool(
    'grub-mkimage',
    '-O',
    format,
    '-o',
    image,
    '-c',
    early,
    '-p',
    '/boot/grub',
    'search',
    'search_fs_file',
    ...modules,
    ...GRUB_MODULES,
  )
  const bytes = readFileSync(image)
  rmSync(early)
  rmSync(image)
  return bytes
}
