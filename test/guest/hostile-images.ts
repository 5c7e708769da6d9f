/**
 * Disks of guests that were made to do harm, or that rotted: what is wrong with each, and what must be seen of it. Built by tools that
 * need no root and no guest; those that start from a good disk take one of `filesystem-images.ts`.
 */
import { createHash } from 'node:crypto'
import { chmodSync, closeSync, openSync, readFileSync, readSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import type { DiskFile, GuestDisks } from './filesystem-images.ts'
import { makeEntryBomb, makeExt, patchSuperblock, renameEntries } from './hostile-ext.ts'
import { EXTENDED, mbr, SECTOR, writeAt } from './partition-tables.ts'
import { cached, sourceOf } from './recipe-cache.ts'
import { copyImage, shell, tool } from './tool.ts'

export interface HostileImage {
  readonly name: string
  readonly injected: string
  /**
   * refused: no volume of it can be opened. problem: what is wrong is told of a file or folder, or left out, and the rest is there.
   * bound: nothing but that it ends.
   */
  readonly seen: 'refused' | 'problem' | 'bound'
  /** Lies beside what is wrong and can be read. */
  readonly good?: string
  /** A key that would be tried on it. */
  readonly key?: string
}

export interface HostileDisk extends HostileImage {
  readonly disk: DiskFile
}

type Recipe = HostileImage & { readonly make: (path: string, good: ReadonlyMap<string, string>) => Promise<void> }

const MiB = 1024 * 1024
const GOOD = 'good.txt'
const superblock = (name: string, injected: string, fields: ReadonlyArray<readonly [number, number]>): Recipe => ({
  name: `super-${name}`,
  injected: `ext superblock: ${injected}`,
  seen: 'refused',
  make: async path => {
    await makeExt(path, [])
    patchSuperblock(path, fields)
  },
})

const RECIPES: readonly Recipe[] = [
  superblock('counts', 'four milliards of inodes and blocks', [
    [0, 0xffffffff],
    [4, 0xffffffff],
  ]),
  superblock('blocksize', 'blocks of 2^50 bytes', [[24, 40]]),
  superblock('groups', 'no inodes and blocks in a group', [
    [32, 0],
    [40, 0],
  ]),
  superblock('features', 'features that nobody knows', [[96, 0xffffffff]]),
  {
    name: 'ext-loop',
    injected: 'a folder that is in itself',
    seen: 'problem',
    good: GOOD,
    make: path => makeExt(path, ['mkdir a', 'mkdir a/b', 'link a a/b/up', 'link a a/b/again']),
  },
  {
    name: 'ext-names',
    injected: 'entries called .., ../x, /x, a NUL b, and nothing',
    seen: 'problem',
    good: GOOD,
    make: makeHostileNames,
  },
  {
    name: 'ext-twice',
    injected: 'a symlink out of the tree, and a folder of the same name with a file in it; a name that comes twice',
    seen: 'problem',
    good: GOOD,
    make: makeDuplicates,
  },
  {
    name: 'ext-sizes',
    injected: 'files of 2^60, 2^64-1 and 16 Ti bytes, a folder of a TiB, a symlink of a GiB',
    seen: 'bound',
    good: GOOD,
    make: path =>
      makeExt(path, [
        ...['huge', 'negative', 'sparse-16t'].map(name => `write /etc/hostname ${name}`),
        'sif huge size 0x1000000000000000',
        'sif negative size 0xffffffffffffffff',
        'sif sparse-16t size 0x00000ffffffff000',
        'mkdir folder',
        'sif folder size 0x10000000000',
        'symlink link target',
        'sif link size 0x40000000',
        'write /etc/hostname times',
        'sif times mtime 0xffffffff',
        'sif times blocks 0xffffffff',
      ]),
  },
  { name: 'ext-bomb', injected: 'a folder of 100,000 entries in three blocks', seen: 'bound', make: makeEntryBomb },
  {
    name: 'ext-deep',
    injected: '10,000 folders in each other',
    seen: 'problem',
    good: GOOD,
    make: path =>
      makeExt(path, Array.from({ length: 10_000 }, () => ['mkdir d', 'cd d']).flat(), { sizeMiB: 32, inodes: 12_000 }),
  },
  {
    name: 'fat-loop',
    injected: 'a folder and a file whose clusters follow themselves',
    seen: 'bound',
    good: GOOD,
    make: makeFatLoop,
  },
  {
    name: 'iso-loop',
    injected: 'a folder that lies where the root does',
    seen: 'bound',
    good: GOOD,
    make: makeIsoLoop,
  },
  { name: 'ntfs-rot', injected: 'bytes of the MFT changed', seen: 'bound', make: rotten('ntfs', 0, 2) },
  { name: 'xfs-rot', injected: 'bytes of the first groups changed', seen: 'bound', make: rotten('xfs', 0, 80) },
  { name: 'btrfs-rot', injected: 'bytes of its trees changed', seen: 'bound', make: rotten('btrfs', 13, 24) },
  { name: 'exfat-rot', injected: 'bytes of its tables changed', seen: 'bound', make: rotten('exfat', 0, 8) },
  {
    name: 'gpt-counts',
    injected: 'a GPT of 4,294,967,295 entries, with a right checksum',
    seen: 'refused',
    make: makeGptCounts,
  },
  {
    name: 'gpt-outside',
    injected: 'partitions that overlap, start behind their end, and lie outside of the disk',
    seen: 'bound',
    make: makeGptOutside,
  },
  {
    name: 'mbr-loop',
    injected: 'an extended partition whose chain comes back to its start, and one in itself',
    seen: 'bound',
    make: makeMbrLoop,
  },
  {
    name: 'lvm-absurd',
    injected: 'a logical volume of 4 milliards of extents, with right checksums',
    seen: 'refused',
    make: makeAbsurdLvm,
  },
  {
    name: 'luks-memory',
    injected: 'a key that takes 4 GiB of memory to try',
    seen: 'refused',
    key: 'a key for tests',
    make: makeLuksMemory,
  },
]

/** `layouts` are those of `guestDisks`, of which some are changed. */
export async function hostileDisks(layouts: readonly GuestDisks[]): Promise<readonly HostileDisk[]> {
  const good = new Map(layouts.flatMap(({ disks }) => disks).map(({ name, path }) => [name, path]))
  const sources = ['hostile-ext.ts', 'partition-tables.ts'].map(name => new URL(name, import.meta.url).href)
  const recipe = [import.meta.url, ...sources].map(sourceOf)
  const folder = await cached('hostile-disks', [...recipe, good.get('ext4') ?? ''], async into => {
    for (const { name, make } of RECIPES) {
      const path = join(into, `${name}.raw`)
      await make(path, good)
      chmodSync(path, 0o444)
    }
  })
  return RECIPES.map(({ make: _, ...image }) => ({
    ...image,
    disk: { name: image.name, path: join(folder, `${image.name}.raw`) },
  }))
}

async function makeHostileNames(path: string): Promise<void> {
  const names = new Map([
    ['placeholder-for-dots', '..'],
    ['placeholder-for-a-way-up', '../escaped'],
    ['placeholder-for-a-way-far-up', '../../../../tmp/escaped'],
    ['placeholder-for-an-absolute', '/tmp/escaped'],
    ['placeholder-for-slash', '/'],
    ['placeholder-for-nul', 'a\0b'],
    ['placeholder-for-dot', '.'],
  ])
  await makeExt(path, [
    'mkdir inside',
    ...[...names.keys()].map(name => `write /etc/hostname inside/${name}`),
    'write /etc/hostname inside/kept',
  ])
  renameEntries(path, names)
}

async function makeDuplicates(path: string): Promise<void> {
  await makeExt(path, [
    'symlink way ../outside',
    'mkdir wax',
    'write /etc/hostname wax/evil',
    'symlink file-way ../outside/evil',
    'write /etc/hostname file-wax',
    'write /etc/hostname twice',
    'write /etc/hostname twicf',
    'mknod device b 7 0',
  ])
  renameEntries(
    path,
    new Map([
      ['wax', 'way'],
      ['file-wax', 'file-way'],
      ['twicf', 'twice'],
    ]),
  )
}

/** FAT 12: a chain is three nibbles for each cluster. */
async function makeFatLoop(path: string): Promise<void> {
  await blank(path, 2)
  await tool('mformat', '-i', path, '-T', '4096', '-h', '16', '-s', '16', '-c', '1', '-v', 'LOOP', '::')
  await shell('printf good | mcopy -i "$1" - ::/good.txt', path)
  await shell('mmd -i "$1" ::/loop; printf in | mcopy -i "$1" - ::/loop/in.txt', path)
  await shell('head -c 4096 /dev/zero | mcopy -i "$1" - ::/ring.bin', path)
  const image = readFileSync(path)
  const reserved = image.readUInt16LE(14)
  const fats = image.readUInt8(16)
  const sectorsPerFat = image.readUInt16LE(22)
  const root = (reserved + fats * sectorsPerFat) * SECTOR
  for (const name of ['LOOP       ', 'RING    BIN']) {
    let at = image.indexOf(name, root, 'latin1')
    // The label has the name of the folder.
    if (image[at + 11] === 0x08) at = image.indexOf(name, at + 32, 'latin1')
    const cluster = image.readUInt16LE(at + 26)
    for (let fat = 0; fat < fats; fat++) {
      const place = (reserved + fat * sectorsPerFat) * SECTOR + Math.floor((cluster * 3) / 2)
      const old = image.readUInt16LE(place)
      image.writeUInt16LE(cluster % 2 === 0 ? (old & 0xf000) | cluster : (old & 0x000f) | (cluster << 4), place)
    }
  }
  writeFileSync(path, image)
}

async function makeIsoLoop(path: string): Promise<void> {
  const folder = `${path}.tree`
  await shell('mkdir -p "$1/looped"; echo good > "$1/good.txt"; echo in > "$1/looped/in.txt"', folder)
  await tool('xorriso', '-as', 'mkisofs', '-quiet', '-R', '-o', path, folder)
  await shell('rm -r "$1"', folder)
  const image = readFileSync(path)
  const root = image.subarray(16 * 2048 + 156)
  // The record's name is upper case; where its extent is comes 31 bytes before, in both byte orders.
  for (let at = image.indexOf('LOOPED', 17 * 2048); at >= 0; at = image.indexOf('LOOPED', at + 1)) {
    if (image[at - 1] !== 6) continue
    root.copy(image, at - 31, 2, 18)
  }
  writeFileSync(path, image)
}

/** The same bytes each time: a linear congruential generator says where and what. */
function rotten(layout: string, fromMiB: number, toMiB: number) {
  return async (path: string, good: ReadonlyMap<string, string>): Promise<void> => {
    const source = good.get(layout)
    if (source === undefined) throw new Error(`no disk '${layout}'`)
    await copyImage(source, path)
    const file = openSync(path, 'r')
    let state = 12345
    const next = (below: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return Math.floor((state / 2 ** 32) * below)
    }
    const places: number[] = []
    const sector = Buffer.alloc(SECTOR)
    // Only what is in use: a changed hole is nothing.
    for (let tries = 0; places.length < 200 && tries < 200_000; tries++) {
      const offset = fromMiB * MiB + next(((toMiB - fromMiB) * MiB) / SECTOR) * SECTOR
      readSync(file, sector, 0, SECTOR, offset)
      if (offset > 0 && sector.some(byte => byte !== 0)) places.push(offset + next(SECTOR - 8))
    }
    closeSync(file)
    for (const place of places) writeAt(path, Buffer.from(Array.from({ length: 8 }, () => next(256))), place)
  }
}

async function makeGptCounts(path: string): Promise<void> {
  await blank(path, 4)
  await tool('sgdisk', '-n1:2048:+1M', path)
  changeGpt(path, header => {
    header.writeUInt32LE(0xffffffff, 80)
    header.writeUInt32LE(0xffffff80, 84)
  })
}

async function makeGptOutside(path: string): Promise<void> {
  await blank(path, 4)
  await tool('sgdisk', '-n1:2048:+512K', '-n2:4096:+512K', '-n3:6144:+256K', path)
  const entries = readAt(path, 2 * SECTOR, 128 * 128)
  const place = (index: number, first: bigint, last: bigint): void => {
    entries.writeBigUInt64LE(first, index * 128 + 32)
    entries.writeBigUInt64LE(last, index * 128 + 40)
  }
  place(0, 34n, 8000n)
  place(1, 5000n, 2048n)
  place(2, 1n << 60n, (1n << 63n) + 5n)
  writeAt(path, entries, 2 * SECTOR)
  changeGpt(path, header => void header.writeUInt32LE(crc32(entries), 88))
}

function changeGpt(path: string, change: (header: Buffer) => void): void {
  const header = readAt(path, SECTOR, 92)
  change(header)
  header.writeUInt32LE(0, 16)
  header.writeUInt32LE(crc32(header), 16)
  writeAt(path, header, SECTOR)
  // The copy at the end would be taken instead.
  writeAt(path, Buffer.alloc(SECTOR), 4 * MiB - SECTOR)
}

async function makeMbrLoop(path: string): Promise<void> {
  await blank(path, 4)
  const extended = { type: EXTENDED, start: 2048, length: 4096 }
  writeAt(path, mbr([extended, { type: 0x83, start: 1, length: 0xffffffff }, { ...extended, start: 0 }]), 0)
  const logical = { type: 0x83, start: 64, length: 512 }
  writeAt(path, mbr([logical, { type: 0x05, start: 1024, length: 1024 }]), 2048 * SECTOR)
  writeAt(path, mbr([logical, { type: 0x05, start: 0, length: 1024 }]), 3072 * SECTOR)
}

const LVM_CRC_START = 0xf597a6cf
/** LVM's CRC is zlib's without its last step, with a start of its own. */
const lvmCrc = (bytes: Uint8Array): number => ~crc32(bytes, ~LVM_CRC_START >>> 0) >>> 0

async function makeAbsurdLvm(path: string, good: ReadonlyMap<string, string>): Promise<void> {
  await copyImage(good.get('lvma')!, path)
  const area = 4096
  const header = readAt(path, area, SECTOR)
  const start = Number(header.readBigUInt64LE(40))
  const size = Number(header.readBigUInt64LE(48))
  const text = readAt(path, area + start, size)
  const checksum = header.readUInt32LE(56)
  if (lvmCrc(text) !== checksum) throw new Error('this is not how LVM computes its checksum')
  const absurd = text
    .toString('latin1')
    .replaceAll(/extent_count = (\d+)/g, (_, digits) => `extent_count = ${'9'.repeat(digits.length)}`)
  const bytes = Buffer.from(absurd, 'latin1')
  writeAt(path, bytes, area + start)
  header.writeUInt32LE(lvmCrc(bytes), 56)
  header.writeUInt32LE(lvmCrc(header.subarray(4)), 0)
  writeAt(path, header, area)
}

/** Both headers of LUKS2 have a JSON text and a checksum over themselves. */
async function makeLuksMemory(path: string, good: ReadonlyMap<string, string>): Promise<void> {
  await copyImage(good.get('luks2')!, path)
  const length = Number(readAt(path, 8, 8).readBigUInt64BE())
  for (const at of [0, length]) {
    const header = readAt(path, at, length)
    const json = header.subarray(4096)
    const text = json.toString('latin1', 0, json.indexOf(0))
    const absurd = text.replace('"memory":32768', '"memory":4194304')
    if (absurd === text) throw new Error('the header has no argon2 key of 32 MiB')
    json.fill(0)
    json.write(absurd, 'latin1')
    header.fill(0, 448, 512)
    createHash('sha256').update(header).digest().copy(header, 448)
    writeAt(path, header, at)
  }
}

async function blank(path: string, sizeMiB: number): Promise<void> {
  writeFileSync(path, '')
  truncateSync(path, sizeMiB * MiB)
}

function readAt(path: string, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length)
  const file = openSync(path, 'r')
  try {
    readSync(file, bytes, 0, length, offset)
  } finally {
    closeSync(file)
  }
  return bytes
}
