/**
 * The layouts of guests' disks that are tested, as a table: which disks, how the scratch guest makes them, and what must be
 * found on them. Sizes are as small as the tools allow.
 */
import { EXTENDED, mbr, SECTOR, writeAt, writeExtended } from './partition-tables.ts'
import { below, changedAtLast, referenceTree, type TrueFile, windowsTree } from './reference-tree.ts'
import { tool } from './tool.ts'

export interface DiskRecipe {
  readonly name: string
  readonly sizeMiB: number
  readonly table?: (path: string) => Promise<void>
}

/** What a filesystem can tell of a file. */
export interface Holds {
  readonly owner: boolean
  readonly xattrs: boolean
  readonly links: boolean
  /** known: which they are; counted: only how much is not one, since ntfs-3g tells no more. */
  readonly holes: 'known' | 'counted' | 'none'
  /** Times are cut down to a multiple of it. */
  readonly timeNs: bigint
}

export const UNIX: Holds = { owner: true, xattrs: true, links: true, holes: 'known', timeNs: 1n }
const ISO: Holds = { owner: true, xattrs: false, links: false, holes: 'none', timeNs: 1_000_000_000n }
const NTFS: Holds = { owner: false, xattrs: false, links: true, holes: 'counted', timeNs: 100n }
const EXFAT: Holds = { owner: false, xattrs: false, links: true, holes: 'none', timeNs: 10_000_000n }
const FAT: Holds = { owner: false, xattrs: false, links: true, holes: 'none', timeNs: 2_000_000_000n }

export interface ExpectedVolume {
  readonly name: string
  readonly type?: string
  readonly state: 'readable' | 'locked' | 'unsupported' | 'nothing'
  readonly truth?: readonly TrueFile[]
  readonly holds?: Holds
}

export interface Layout {
  readonly name: string
  readonly makes: readonly DiskRecipe[]
  /** Run in the scratch guest; absent where the table is all there is. */
  readonly script?: string
  readonly volumes: readonly ExpectedVolume[]
  /** Opens what is locked; `unlocked` is what is found then in the place of the locked. */
  readonly key?: string
  readonly unlocked?: readonly ExpectedVolume[]
}

const KEY = 'a key for tests'
const unix = referenceTree()
const windows = windowsTree()
/** A year before 1970, a minor number above 255 and a name of 255 bytes are more than Linux reads from a CD. */
const isoTree = unix.filter(({ path }) => !/^early$|^disk$|\/n{255}$/.test(path))
const volume = (name: string, type: string, truth: readonly TrueFile[], holds: Holds): ExpectedVolume => ({
  name,
  type,
  state: 'readable',
  truth,
  holds,
})
const linux = (name: string, type: string, truth = unix): ExpectedVolume => volume(name, type, truth, UNIX)

const whole = (
  name: string,
  sizeMiB: number,
  script: string,
  expected: (volume: string) => ExpectedVolume,
): Layout => ({ name, makes: [{ name, sizeMiB }], script, volumes: [expected(`${name}-whole`)] })

const LUKS_OPEN = 'cryptsetup open --key-file /key'
const luks = (name: string, format: string): Layout => ({
  name,
  makes: [{ name, sizeMiB: 64 }],
  script: `
    cryptsetup luksFormat -q --key-file /key ${format} $(disk ${name})
    ${LUKS_OPEN} $(disk ${name}) ${name}
    mkfs.ext4 -q /dev/mapper/${name}
    fill /dev/mapper/${name}
    cryptsetup close ${name}`,
  volumes: [{ name: `${name}-whole`, type: 'crypto_LUKS', state: 'locked' }],
  key: KEY,
  unlocked: [linux(`${name}-whole`, 'ext4')],
})

/**
 * The guest is killed when the last of them is made: their journals are as after a power failure. fsync brings what was done last to
 * the journal and no further; sync would write it to its place as well.
 */
const dirty = (name: string, sizeMiB: number, type: string, mkfs: string): Layout => ({
  name,
  makes: [{ name, sizeMiB }],
  script: `
    ${mkfs} $(disk ${name})
    mkdir /m/${name}
    mount -t ${type} $(disk ${name}) /m/${name}
    extract unix /m/${name}
    sync
    mv /m/${name}/many/f0001 /m/${name}/moved
    rm /m/${name}/many/f0002
    echo 'written at last' | dd of=/m/${name}/note conv=fsync`,
  volumes: [linux(`${name}-whole`, type, changedAtLast(unix))],
})

const gpt =
  (...partitions: readonly string[]) =>
  async (path: string): Promise<void> => {
    await tool('sgdisk', ...partitions, path)
  }

const MIB_SECTORS = (1024 * 1024) / SECTOR
const at = (type: number, startMiB: number, lengthMiB: number) => ({
  type,
  start: startMiB * MIB_SECTORS,
  length: lengthMiB * MIB_SECTORS,
})

async function extendedTable(path: string): Promise<void> {
  const extended = at(EXTENDED, 48, 94)
  writeAt(path, mbr([at(0x07, 1, 46), extended, at(0x83, 143, 44)]), 0)
  writeExtended(path, extended.start, [at(0x83, 49, 46), at(0x06, 97, 44)])
}

export const LAYOUTS: readonly Layout[] = [
  whole('ext2', 48, 'mkfs.ext4 -q -t ext2 $(disk ext2); fill $(disk ext2)', name => linux(name, 'ext2')),
  whole('ext3', 64, 'mkfs.ext4 -q -t ext3 $(disk ext3); fill $(disk ext3)', name => linux(name, 'ext3')),
  whole('ext4', 64, 'mkfs.ext4 -q -L data $(disk ext4); fill $(disk ext4)', name => linux(name, 'ext4')),
  whole('xfs', 300, 'mkfs.xfs -q $(disk xfs); fill $(disk xfs)', name => linux(name, 'xfs')),
  whole(
    'btrfs',
    160,
    `mkfs.btrfs -q $(disk btrfs)
    mount -t btrfs $(disk btrfs) /m
    btrfs subvolume create /m/@
    btrfs subvolume create /m/home
    extract unix /m/@
    mkdir /m/snapshots
    btrfs subvolume snapshot -r /m/@ /m/snapshots/first
    rm /m/@/many/f0002; mv /m/@/many/f0001 /m/@/moved; echo 'written at last' > /m/@/note
    btrfs subvolume set-default /m/@
    umount /m`,
    name =>
      linux(name, 'btrfs', [
        ...below('@', changedAtLast(unix)),
        ...below('snapshots', []),
        ...below('snapshots/first', unix),
        ...below('home', []),
      ]),
  ),
  {
    name: 'btrfs-two',
    makes: ['btrfsa', 'btrfsb'].map(name => ({ name, sizeMiB: 128 })),
    script: `
      mkfs.btrfs -q -d raid0 -m raid1 $(disk btrfsa) $(disk btrfsb)
      btrfs device scan $(disk btrfsa) $(disk btrfsb)
      fill $(disk btrfsa) -o compress=zstd`,
    volumes: [linux('btrfsa-whole', 'btrfs')],
  },
  whole(
    'ntfs',
    64,
    `mkntfs -q -F -f $(disk ntfs)
    ntfs-3g -o big_writes,compression $(disk ntfs) /m
    mkdir /m/packed
    setfattr -n system.ntfs_attrib_be -v 0x00000800 /m/packed
    extract windows /m
    umount /m; sleep 1`,
    name => volume(name, 'ntfs', windows, NTFS),
  ),
  whole('fat32', 64, 'mkfs.vfat -F 32 -n DATA $(disk fat32); fill_fat vfat $(disk fat32) -o utf8,tz=UTC', name =>
    volume(name, 'vfat', windows, FAT),
  ),
  whole('exfat', 32, 'mkfs.exfat $(disk exfat); fill_fat exfat $(disk exfat)', name =>
    volume(name, 'exfat', windows, EXFAT),
  ),
  whole(
    'iso',
    32,
    `mkdir /tmp/tree; extract unix /tmp/tree --no-xattrs; rm /tmp/tree/early /tmp/tree/disk /tmp/tree/names/nnn*; touch -d @981173106 /tmp/tree/names
    xorriso -as mkisofs -quiet -R -V GUEST -o $(disk iso) /tmp/tree
    rm -r /tmp/tree`,
    name => volume(name, 'iso9660', isoTree, ISO),
  ),
  {
    name: 'gpt',
    makes: [
      {
        name: 'gpt',
        sizeMiB: 160,
        table: gpt('-n1:2048:+40M', '-t1:ef00', '-n2:0:+56M', '-n3:0:+4M', '-t3:8200', '-n7:0:+32M', '-n9:0:+4M'),
      },
    ],
    script: `
      mkfs.vfat -F 32 $(disk gpt-p1); fill_fat vfat $(disk gpt-p1) -o utf8,tz=UTC
      mkfs.ext4 -q $(disk gpt-p2); fill $(disk gpt-p2)
      mkswap $(disk gpt-p3)
      mkfs.exfat $(disk gpt-p7); fill_fat exfat $(disk gpt-p7)`,
    volumes: [
      volume('gpt-p1', 'vfat', windows, FAT),
      linux('gpt-p2', 'ext4'),
      { name: 'gpt-p3', type: 'swap', state: 'nothing' },
      volume('gpt-p7', 'exfat', windows, EXFAT),
      { name: 'gpt-p9', state: 'nothing' },
    ],
  },
  {
    name: 'mbr',
    makes: [{ name: 'mbr', sizeMiB: 192, table: extendedTable }],
    script: `
      mkntfs -q -F -f $(disk mbr-p1); ntfs-3g -o big_writes $(disk mbr-p1) /m; extract windows /m; umount /m; sleep 1
      mkfs.ext4 -q -t ext3 $(disk mbr-p5); fill $(disk mbr-p5)
      mkfs.vfat -F 16 $(disk mbr-p6); fill_fat vfat $(disk mbr-p6) -o utf8,tz=UTC
      mkfs.ext4 -q -t ext2 $(disk mbr-p3); fill $(disk mbr-p3)`,
    volumes: [
      volume('mbr-p1', 'ntfs', windows, NTFS),
      linux('mbr-p3', 'ext2'),
      linux('mbr-p5', 'ext3'),
      volume('mbr-p6', 'vfat', windows, FAT),
    ],
  },
  {
    name: 'lvm',
    makes: ['lvma', 'lvmb'].map(name => ({ name, sizeMiB: 96 })),
    script: `
      lvm pvcreate -q -ff -y $(disk lvma) $(disk lvmb)
      lvm vgcreate -q big-vg $(disk lvma) $(disk lvmb)
      lvm lvcreate -q -y -Wn -n striped -i 2 -L 64M big-vg
      lvm lvcreate -q -y -Wn -n root -L 84M big-vg
      for name in root striped; do
        mkfs.ext4 -q /dev/mapper/big--vg-$name
        fill /dev/mapper/big--vg-$name
      done
      lvm vgchange -q -an big-vg`,
    volumes: [linux('big-vg-root', 'ext4'), linux('big-vg-striped', 'ext4')],
  },
  {
    name: 'md',
    makes: [
      ...['mda', 'mdb'].map(name => ({
        name,
        sizeMiB: 160,
        table: gpt('-n1:2048:+40M', '-t1:fd00', '-n2:0:+56M', '-t2:fd00', '-n3:0:+40M', '-t3:fd00'),
      })),
      { name: 'mdc', sizeMiB: 48 },
    ],
    // With its superblock at the end, each half of the mirror looks like a filesystem of its own.
    script: `
      array() { level=$1 name=$2 metadata=$3; shift 3
        mdadm --create /dev/md$level --run --assume-clean --homehost=guest --name=$name --level=$level --metadata=$metadata \\
          --raid-devices=$# "$@"
        mkfs.ext4 -q /dev/md$level; fill /dev/md$level; mdadm --stop /dev/md$level
      }
      array 0 stripes 1.2 $(disk mda-p1) $(disk mdb-p1)
      array 1 mirror 1.0 $(disk mda-p2) $(disk mdb-p2)
      array 5 parity 1.2 $(disk mda-p3) $(disk mdb-p3) $(disk mdc)`,
    volumes: [linux('md-stripes', 'ext4'), linux('md-mirror', 'ext4'), linux('md-parity', 'ext4')],
  },
  luks('luks1', '--type luks1 --pbkdf-force-iterations 1000'),
  luks('luks2', '--type luks2 --pbkdf argon2id --pbkdf-memory 32768 --pbkdf-parallel 1 --pbkdf-force-iterations 4'),
  {
    name: 'luks-lvm',
    makes: [{ name: 'lukslvm', sizeMiB: 96 }],
    script: `
      cryptsetup luksFormat -q --key-file /key --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $(disk lukslvm)
      ${LUKS_OPEN} $(disk lukslvm) lukslvm
      lvm pvcreate -q -ff -y /dev/mapper/lukslvm
      lvm vgcreate -q secret /dev/mapper/lukslvm
      lvm lvcreate -q -y -Wn -n home -L 60M secret
      mkfs.ext4 -q /dev/mapper/secret-home
      fill /dev/mapper/secret-home
      lvm vgchange -q -an secret
      cryptsetup close lukslvm`,
    volumes: [{ name: 'lukslvm-whole', type: 'crypto_LUKS', state: 'locked' }],
    key: KEY,
    unlocked: [linux('secret-home', 'ext4')],
  },
  {
    name: 'dedup',
    makes: [{ name: 'dedup', sizeMiB: 16 }],
    // A file that Windows has deduplicated is a reparse point of this tag; the contents lie in a store that only Windows reads.
    script: `
      mkntfs -q -F -f $(disk dedup); ntfs-3g $(disk dedup) /m
      echo plain > /m/plain.txt; echo gone > /m/deduplicated.txt
      mkdir -p '/m/System Volume Information/Dedup/ChunkStore'
      setfattr -n system.ntfs_reparse_data -v 0x13000080080000000102030405060708 /m/deduplicated.txt
      umount /m; sleep 1`,
    volumes: [{ name: 'dedup-whole', type: 'ntfs', state: 'readable' }],
  },
  {
    name: 'refs',
    makes: [{ name: 'refs', sizeMiB: 8, table: async path => writeAt(path, refsBootSector(), 0) }],
    volumes: [{ name: 'refs-whole', type: 'ReFS', state: 'unsupported' }],
  },
  {
    name: 'ldm',
    makes: [{ name: 'ldm', sizeMiB: 16, table: gpt('-n1:2048:+1M', '-t1:4201', '-n2:0:+8M', '-t2:4200') }],
    // The first is the database that says what the second is part of.
    volumes: [
      { name: 'ldm-p1', state: 'nothing' },
      { name: 'ldm-p2', state: 'unsupported' },
    ],
  },
  dirty('xfs-dirty', 300, 'xfs', 'mkfs.xfs -q'),
  // At the end: the sync of another would write its journal to its place.
  dirty('ext4-dirty', 64, 'ext4', 'mkfs.ext4 -q'),
]

function refsBootSector(): Buffer {
  const sector = Buffer.alloc(SECTOR)
  sector.write('\0\0\0ReFS\0\0\0\0\0FSRS', 0, 'latin1')
  sector.writeUInt16LE(SECTOR, 20)
  sector.writeBigUInt64LE(BigInt(8 * MIB_SECTORS), 24)
  return sector
}

/** Run once for each layout, with its name. */
export const WORKSHOP_SCRIPT = `#!/bin/sh
set -eu
export PATH=/tools:/bin LC_ALL=C DM_DISABLE_UDEV=1
printf %s '${KEY}' > /key
# Debian's busybox takes its own tar, blkid and mkfs.vfat before those of PATH.
for tool in tar blkid mkswap mkfs.vfat; do alias "$tool=/tools/$tool"; done
disk() { readlink -f "/disks/$1"; }
lvm() {
  /tools/lvm "$@" --config 'activation{udev_sync=0 udev_rules=0} devices{use_devicesfile=0} log{level=0}'
}
# tar only warns where an attribute cannot be set, and would also of the time before 1970.
extract() {
  tar -xpPf "/$1.tar" -C "$2" --numeric-owner --acls --warning=no-timestamp \\
    \${3:---xattrs --xattrs-include=*} 2> /tmp/said || true
  if [ -s /tmp/said ]; then cat /tmp/said; exit 1; fi
}
fill() {
  device=$1; shift
  mount "$@" "$device" /m
  extract unix /m
  umount /m
}
fill_fat() {
  type=$1 device=$2; shift 2
  mount -t "$type" "$@" "$device" /m
  tar -xf /windows.tar -C /m --no-same-owner --no-same-permissions
  umount /m
}
case $1 in
${LAYOUTS.filter(({ script }) => script)
  .map(({ name, script }) => `${name})\n${script}\n;;`)
  .join('\n')}
esac
`
