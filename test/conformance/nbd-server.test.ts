/** Other projects' clients against our server: over memory, over a sparse file, and over a device that answers in random order. */
import assert from 'node:assert/strict'
import { mkdtemp, open, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { BlockDevice } from '../../src/block/block-device.ts'
import { fileDevice } from '../../src/block/file.ts'
import { memoryDevice } from '../../src/block/memory.ts'
import { systemClock } from '../../src/core/clock.ts'
import { KiB, MiB } from '../../src/core/limits.ts'
import { seededRandom } from '../../src/core/random.ts'
import { serveNbd } from '../../src/nbd/server.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { lacking, run } from '../doubles/peer-tools.ts'
import { slowDevice } from '../doubles/slow-device.ts'

const folder = await mkdtemp(join(tmpdir(), 'lifeboat-nbd-server-'))
after(() => rm(folder, { recursive: true, force: true }))
const path = (name: string) => join(folder, name)

const SIZE = 24 * MiB + 512
const content = patternBytes(SIZE)
content.fill(0, 4 * MiB, 9 * MiB)
content.fill(0, 20 * MiB, 20 * MiB + 64 * KiB)
await writeFile(path('content.raw'), content)

/** A file with the content's holes as real ones. */
async function sparseFile(name: string): Promise<string> {
  await writeFile(path(name), '')
  await truncate(path(name), SIZE)
  const file = await open(path(name), 'r+')
  for (const [start, end] of [
    [0, 4 * MiB],
    [9 * MiB, 20 * MiB],
    [20 * MiB + 64 * KiB, SIZE],
  ] as const)
    await file.write(content, start, end - start, start)
  await file.close()
  return path(name)
}

const devices: readonly [string, () => Promise<BlockDevice>][] = [
  ['memory', async () => memoryDevice(Buffer.from(content))],
  ['file', async () => fileDevice(await sparseFile('device.raw'), { readOnly: false })],
  ['slow', async () => slowDevice(memoryDevice(Buffer.from(content)), seededRandom('conformance'))],
]

let servers = 0
async function serve(device: BlockDevice, readOnly = false) {
  const socket = path(`${++servers}.sock`)
  const exports = [{ name: 'vda', description: 'first disk', device, readOnly }]
  const server = await serveNbd({ exports, listen: { socket }, clock: systemClock })
  return Object.assign(server, { socket })
}

interface MapEntry {
  offset: number
  length: number
  type: number
}

for (const [kind, make] of devices) {
  test(`${kind}: nbdinfo sees the export, its description and its holes`, { skip: lacking('nbdinfo') }, async () => {
    await using device = await make()
    await using server = await serve(device, true)
    const list = JSON.parse(await run('nbdinfo', '--list', '--json', server.uri('')))
    assert.equal(list.exports[0]['export-name'], 'vda')
    const { exports } = JSON.parse(await run('nbdinfo', '--json', server.uri('vda')))
    assert.equal(exports[0].description, 'first disk')
    assert.equal(exports[0]['export-size'], SIZE)
    assert.deepEqual(
      [exports[0].is_read_only, exports[0].can_df, exports[0].can_multi_conn, exports[0].can_cache],
      [true, true, true, true],
    )
    assert.deepEqual(exports[0].contexts, ['base:allocation'])
    const map: MapEntry[] = JSON.parse(await run('nbdinfo', '--map', '--json', server.uri('vda')))
    assert.deepEqual(
      map.map(({ offset, length, type }) => [offset, length, type]),
      [
        [0, 4 * MiB, 0],
        [4 * MiB, 5 * MiB, 3],
        [9 * MiB, 11 * MiB, 0],
        [20 * MiB, 64 * KiB, 3],
        [20 * MiB + 64 * KiB, SIZE - 20 * MiB - 64 * KiB, 0],
      ],
    )
  })

  test(`${kind}: nbdcopy in both directions, over several connections`, { skip: lacking('nbdcopy') }, async () => {
    await using device = await make()
    await using server = await serve(device)
    await run('nbdcopy', server.uri('vda'), path('copy.raw'))
    assert.ok((await readFile(path('copy.raw'))).equals(content))
    const other = Buffer.concat([content.subarray(5 * MiB), content.subarray(0, 5 * MiB)])
    await writeFile(path('other.raw'), other)
    await run('nbdcopy', '--flush', '--connections=4', '--requests=16', path('other.raw'), server.uri('vda'))
    await run('nbdcopy', '--no-extents', '--request-size=65536', server.uri('vda'), path('copy.raw'))
    assert.ok((await readFile(path('copy.raw'))).equals(other))
  })

  test(`${kind}: qemu-img compares, maps and converts; qemu-io reads and writes`, {
    skip: lacking('qemu-img', 'qemu-io'),
  }, async () => {
    await using device = await make()
    await using server = await serve(device)
    const uri = server.uri('vda')
    await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', path('content.raw'), uri)
    const map: { start: number; length: number; zero: boolean; data: boolean }[] = JSON.parse(
      await run('qemu-img', 'map', '--output=json', '-f', 'raw', uri),
    )
    assert.deepEqual(
      map.filter(entry => entry.zero).map(({ start, length }) => [start, length]),
      [
        [4 * MiB, 5 * MiB],
        [20 * MiB, 64 * KiB],
      ],
    )
    await run('qemu-img', 'convert', '-n', '-W', '-m', '16', '-f', 'raw', '-O', 'raw', path('content.raw'), uri)
    await run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', uri, path('copy.qcow2'))
    await run('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', path('content.raw'), path('copy.qcow2'))
    const script = [
      'write -P 0x5a 1M 300k',
      'write -f -P 0x5b 5M 512',
      'write -z 2M 1M',
      'write -z -u 10M 1M',
      'discard 12M 1M',
      'flush',
      'read -P 0x5a 1M 300k',
      'read -P 0x5b 5M 512',
      'read -P 0 2M 1M',
      'read -P 0 10M 1M',
      'aio_write -P 1 14M 2M',
      'aio_write -P 2 17M 2M',
      'aio_flush',
      'read -P 1 14M 2M',
      'read -P 2 17M 2M',
    ]
    const said = await run('qemu-io', '-f', 'raw', ...script.flatMap(line => ['-c', line]), uri)
    assert.doesNotMatch(said, /failed|error/i)
  })

  test(`${kind}: fio writes and verifies at depth 16 over two connections`, { skip: lacking('fio') }, async () => {
    await using device = await make()
    await using server = await serve(device)
    const args = ['--ioengine=nbd', `--uri=${server.uri('vda')}`, '--iodepth=16', '--thread', '--output-format=terse']
    await run(
      'fio',
      // Its state files would stay in the working folder.
      '--verify_state_save=0',
      '--name=x',
      ...args,
      '--rw=randwrite',
      '--bsrange=512-64k',
      '--size=8M',
      '--numjobs=2',
      '--offset_increment=8M',
      '--verify=crc32c',
      '--randseed=7',
    )
  })
}

test('a file exported for writing holds the bytes afterwards, and its trimmed parts are holes', {
  skip: lacking('qemu-io'),
}, async () => {
  const name = await sparseFile('written.raw')
  {
    await using device = await fileDevice(name, { readOnly: false })
    await using server = await serve(device)
    await run(
      'qemu-io',
      '-f',
      'raw',
      '-d',
      'unmap',
      '-c',
      'write -P 7 1M 1M',
      '-c',
      'discard 10M 2M',
      '-c',
      'flush',
      server.uri('vda'),
    )
  }
  const bytes = await readFile(name)
  assert.ok(bytes.subarray(MiB, 2 * MiB).every(byte => byte === 7))
  assert.ok(bytes.subarray(10 * MiB, 12 * MiB).every(byte => byte === 0))
})

test('a read-only export refuses writers', { skip: lacking('qemu-io') }, async () => {
  await using device = memoryDevice(Buffer.from(content))
  await using server = await serve(device, true)
  await assert.rejects(run('qemu-io', '-f', 'raw', '-c', 'write 0 512', server.uri('vda')))
  await run('qemu-io', '-r', '-f', 'raw', '-c', 'read 0 512', server.uri('vda'))
})
