/** The process that reads guests' filesystems without a VM: what it finds on disks, and what its end means to who uses it. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import type { BlockReader } from '../../../src/block/block-device.ts'
import { memoryDevice } from '../../../src/block/memory.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { isLifeboatError, LifeboatError } from '../../../src/core/errors.ts'
import { limits } from '../../../src/core/limits.ts'
import type { Volume } from '../../../src/guest/guest-filesystems.ts'
import { readerGuests } from '../../../src/guest/reader.ts'
import { entriesOf } from '../../contract/file-tree-contract.ts'
import { extImage } from '../../doubles/ext-image.ts'
import { openedReader } from '../../doubles/opened-reader.ts'
import { mbr } from '../../guest/partition-tables.ts'
import { tool } from '../../guest/tool.ts'

const MiB = 1024 * 1024
const SECTOR = 512

async function smallExt(): Promise<Buffer> {
  await using image = await extImage(4096, { options: ['-L', 'a"\\b'] })
  return await readFile(image.path)
}
const ext = await smallExt()

const brief = ({ name, state, type, needs }: Volume): string =>
  [name, state, type, ...(needs === undefined ? [] : [`needs the ${needs}`])].join(' ')

async function volumesOf(...images: readonly BlockReader[]): Promise<readonly Volume[]> {
  await using opened = await openedReader(...images)
  return await opened.guests.volumes()
}

/** With these bytes at these places. */
function disk(size: number, ...pieces: readonly [number, Uint8Array | string][]): BlockReader {
  const bytes = Buffer.alloc(size)
  for (const [offset, piece] of pieces) Buffer.from(piece).copy(bytes, offset)
  return memoryDevice(bytes)
}

test('volumes of a disk without a table, of an MBR and of its logical partitions', async () => {
  const table = mbr([{ type: 0x83, start: 2048, length: 8192 }, undefined, { type: 0x05, start: 20480, length: 20480 }])
  const logical = mbr([{ type: 0x83, start: 2048, length: 8192 }])
  const partitioned = disk(24 * MiB, [0, table], [MiB, ext], [20480 * SECTOR, logical], [22528 * SECTOR, ext])
  const volumes = await volumesOf(memoryDevice(ext), partitioned)
  assert.deepEqual(volumes.map(brief), ['vda-whole readable ext4', 'vdb-p1 readable ext4', 'vdb-p5 readable ext4'])
  assert.equal(volumes[0]?.label, 'a"\\b')
  assert.equal(volumes[1]?.sizeBytes, 8192 * SECTOR)
  assert.match(volumes[1]?.uuid ?? '', /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/)
})

test('a GPT is read, by its copy at the end where its head was overwritten', async () => {
  await using image = await extImage(16 * 1024)
  await tool('sgdisk', '--clear', '--new=3:2048:+4M', image.path)
  const whole = await readFile(image.path)
  ext.copy(whole, MiB)
  const beheaded = Buffer.from(whole).fill(0xff, SECTOR, 2 * SECTOR)
  const damaged = Buffer.from(whole)
  damaged[1024 + 40]! ^= 1
  for (const bytes of [whole, beheaded, damaged])
    assert.deepEqual((await volumesOf(memoryDevice(bytes))).map(brief), ['vda-p3 readable ext4'])
})

test('what needs a whole system says so, and what has no files is nothing', async () => {
  const volumes = await volumesOf(
    disk(MiB, [0, 'XFSB']),
    disk(MiB, [65536 + 64, '_BHRfS_M']),
    disk(MiB, [512, 'LABELONE']),
    disk(MiB, [0, Buffer.from('LUKS\xba\xbe', 'latin1')]),
    disk(MiB, [3, '-FVE-FS-']),
    disk(MiB, [4096, Buffer.from('fc4e2ba9', 'hex')]),
    disk(MiB, [32769, 'CD001']),
    disk(MiB, [4086, 'SWAPSPACE2']),
    disk(MiB, [3, Buffer.from('ReFS\0\0\0\0')]),
    disk(MiB),
    disk(MiB, [0, 'what is this?']),
  )
  assert.deepEqual(
    volumes.map(volume => brief(volume).replace(/^vd.-whole /, '')),
    [
      ...['unsupported xfs needs the appliance', 'unsupported btrfs needs the appliance'],
      ...['unsupported LVM2_member needs the appliance', 'unsupported crypto_LUKS needs the appliance'],
      ...['unsupported BitLocker needs the appliance', 'unsupported linux_raid_member needs the appliance'],
      ...['unsupported iso9660 needs the appliance', 'nothing swap', 'unsupported ReFS', 'nothing ', 'nothing '],
    ],
  )
  assert.match(volumes[8]?.reason ?? '', /boot the point/)
})

test('a process that was killed is told of, and the next call has another one', async () => {
  await using opened = await openedReader(memoryDevice(ext))
  const tree = await opened.guests.open('vda-whole')
  process.kill(opened.pids[0]!, 'SIGKILL')
  await assert.rejects(entriesOf(tree.root), error => isLifeboatError(error, 'guest-lost'))
  const names = (await entriesOf((await opened.guests.open('vda-whole')).root)).map(({ name }) => name)
  assert.deepEqual(names, ['lost+found'])
  assert.equal(opened.pids.length, 2)
})

test('killed in mid read of the disk, the call fails with what to do', async () => {
  const reading = Promise.withResolvers<void>()
  const hung: BlockReader = {
    ...memoryDevice(ext),
    readInto: (_target, _offset, { signal } = {}) => {
      reading.resolve()
      return new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason)))
    },
  }
  await using opened = await openedReader(hung)
  const volumes = opened.guests.volumes()
  const told = assert.rejects(volumes, error => {
    assert.ok(isLifeboatError(error, 'guest-lost'))
    assert.match(error.message, /ended with SIGKILL/)
    assert.match(error.details.hint ?? '', /Try again/)
    return true
  })
  await reading.promise
  process.kill(opened.pids[0]!, 'SIGKILL')
  await told
})

test('processes that die again and again are given up', async () => {
  await using opened = await openedReader(memoryDevice(ext))
  for (let i = 0; i < limits.guestReaderStarts; i++) {
    await opened.guests.volumes()
    process.kill(opened.pids[i]!, 'SIGKILL')
    await assert.rejects(opened.guests.open('vda-whole'), error => isLifeboatError(error, 'guest-lost'))
  }
  await assert.rejects(opened.guests.volumes(), /ended 8 processes that read them/)
  assert.equal(opened.pids.length, limits.guestReaderStarts)
})

test('a store that is away is told as such, and asked again', async () => {
  const whole = memoryDevice(ext)
  let fails = true
  let asked = 0
  const flaky: BlockReader = {
    ...whole,
    readInto: async (target, offset) => {
      asked++
      if (fails) throw new LifeboatError('store-unreachable', 'away')
      await whole.readInto(target, offset)
    },
  }
  await using opened = await openedReader(flaky)
  await assert.rejects(opened.guests.volumes(), error => {
    assert.ok(isLifeboatError(error, 'guest-filesystem'))
    assert.match(error.message, /the disk could not be read: Input\/output error/)
    return true
  })
  assert.ok(asked > 0)
  fails = false
  assert.deepEqual((await opened.guests.volumes()).map(brief), ['vda-whole readable ext4'])
})

test('a program that was not built says what to install', async () => {
  const open = readerGuests({ clock: systemClock, treePrefix: () => 'x', program: '/nowhere/lifeboat-reader' })
  await assert.rejects(open([{ name: 'vda', image: memoryDevice(ext) }]), error => {
    assert.ok(isLifeboatError(error, 'tool-missing'))
    assert.match(error.details.hint ?? '', /libext2fs-dev libtsk-dev/)
    return true
  })
})
