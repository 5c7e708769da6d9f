/**
 * A real Debian 12 with systemd and the guest agent on a 1 GiB disk that boots by itself. Building it takes a minute or two
 * and needs root (or `sudo -n`), because a root file system holds files of many owners.
 */
import { chmodSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { makeBootableDisk } from './bootable-disk.ts'
import { commandChannel } from './command-channel.ts'
import { cached, sourceOf } from './recipe-cache.ts'
import type { GuestImage } from './tiny-image.ts'
import { tool } from './tool.ts'

const COMMAND_LINE = 'root=LABEL=lifeboat-root console=ttyS0,115200 quiet mitigations=off panic=-1 ro'

export async function debianImage(): Promise<Omit<GuestImage, 'direct'>> {
  const sources = [import.meta.url, siblingUrl('bootable-disk.ts'), siblingUrl('command-channel.ts')]
  const folder = await cached('debian', sources.map(sourceOf), build)
  return { disk: join(folder, 'disk.raw'), bootTimeoutMs: 600_000 }
}

const siblingUrl = (name: string): string => new URL(name, import.meta.url).href

async function build(folder: string): Promise<void> {
  const tar = join(folder, 'root.tar')
  const root = join(folder, 'root')
  const own = join(folder, 'own')
  const output = join(folder, 'disk.raw')
  writeOwnFiles(own)
  try {
    await asRoot('mmdebstrap', ...recipe(own), 'bookworm', tar)
    await asRoot('sh', '-euc', UNPACK, 'sh', tar, root, `${process.getuid?.()}`)
    const size = { sizeMiB: 1024, journalMiB: 16 }
    await makeBootableDisk({
      root,
      output,
      firmware: 'bios',
      ...size,
      commandLine: COMMAND_LINE,
      label: 'lifeboat-root',
      asRoot,
    })
    chmodSync(output, 0o444)
  } finally {
    await asRoot('rm', '-rf', root, tar)
    rmSync(own, { recursive: true })
  }
}

const asRoot = (command: string, ...args: readonly string[]): Promise<string> =>
  process.getuid?.() === 0 ? tool(command, ...args) : tool('sudo', '-n', command, ...args)

/** The boot loader's configuration asks for fixed names, and we write it beside them. */
const UNPACK = `
mkdir "$2"
tar -C "$2" -xf "$1" --numeric-owner
cd "$2/boot"
mv vmlinuz-* vmlinuz
mv initrd.img-* initrd.img
mkdir -p grub
chown "$3" grub
`

const PACKAGES = [
  'linux-image-cloud-amd64',
  'initramfs-tools',
  'zstd',
  'systemd-sysv',
  'udev',
  'kmod',
  'qemu-guest-agent',
]

/** Our files are put in place before the kernel is configured, so that its initrd is made once and by our rules. */
const recipe = (own: string): string[] => [
  ...['--variant=minbase', '--mode=root', `--include=${PACKAGES.join(',')}`],
  '--aptopt=Acquire::Languages "none"',
  ...['doc', 'man', 'locale'].map(name => `--dpkgopt=path-exclude=/usr/share/${name}/*`),
  `--essential-hook=cp -rP --no-preserve=ownership '${own}/.' "$1"`,
]

const FSTAB = `LABEL=lifeboat-root / ext4 defaults 0 1
LABEL=lifeboat-data /data ext4 noauto 0 0
`
const CHANNEL_UNIT = `[Unit]
Description=Command channel on the serial port
After=multi-user.target
[Service]
ExecStart=/usr/local/sbin/command-channel
StandardInput=tty
StandardOutput=tty
TTYPath=/dev/ttyS0
TTYReset=yes
[Install]
WantedBy=multi-user.target
`
/** What a guest that lives for minutes does not need, and what would compete for the serial port. */
const MASKED = [
  'serial-getty@ttyS0.service',
  'getty@tty1.service',
  'apt-daily.timer',
  'apt-daily-upgrade.timer',
  'e2scrub_all.timer',
  'e2scrub_reap.service',
  'fstrim.timer',
]

function writeOwnFiles(own: string): void {
  const put = (name: string, text: string, mode = 0o644): void => {
    mkdirSync(dirname(join(own, name)), { recursive: true })
    writeFileSync(join(own, name), text, { mode })
  }
  put('etc/hostname', 'lifeboat-guest\n')
  put('etc/fstab', FSTAB)
  put('data/.mount-point', '')
  // The initrd holds what these disks need and no more: GRUB reads it sector by sector, under emulation.
  put('etc/initramfs-tools/conf.d/lifeboat', 'MODULES=list\nCOMPRESS=zstd\n')
  put('usr/share/initramfs-tools/modules.d/lifeboat', 'virtio_pci\nvirtio_blk\n')
  put('etc/systemd/journald.conf.d/lifeboat.conf', '[Journal]\nStorage=volatile\n')
  put('etc/systemd/system/command-channel.service', CHANNEL_UNIT)
  put(
    'usr/local/sbin/command-channel',
    commandChannel({ mountData: 'mount /data 2>/dev/null', poweroff: 'systemctl poweroff' }),
    0o755,
  )
  const wanted = join(own, 'etc/systemd/system/multi-user.target.wants')
  mkdirSync(wanted)
  symlinkSync('../command-channel.service', join(wanted, 'command-channel.service'))
  for (const unit of MASKED) symlinkSync('/dev/null', join(own, 'etc/systemd/system', unit))
}
