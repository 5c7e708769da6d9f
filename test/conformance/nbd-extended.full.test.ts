/**
 * Extended headers with peers that speak them: Debian 13's libnbd and QEMU against our server, and our client against its
 * qemu-nbd. One request may then name more than 4 GiB, here all 10 TiB of a disk.
 */
import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { markedExtents } from '../../src/block/marked-extents.ts'
import { memoryDevice } from '../../src/block/memory.ts'
import { systemClock } from '../../src/core/clock.ts'
import { GiB, KiB, MiB } from '../../src/core/limits.ts'
import { connectNbd } from '../../src/nbd/client.ts'
import type { NbdExport } from '../../src/nbd/nbd-export.ts'
import { type NbdServer, type ServeNbdOptions, serveNbd } from '../../src/nbd/server.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { sparseDevice } from '../doubles/sparse-device.ts'
import { trixie, trixieLacking } from '../doubles/trixie.ts'

const folder = await mkdtemp(join(tmpdir(), 'lifeboat-nbd-extended-'))
after(() => rm(folder, { recursive: true, force: true }))
const path = (name: string) => join(folder, name)
const TiB = 1024 * GiB
const SIZE = 10 * TiB
const skip = trixieLacking

type Agreed = Parameters<NonNullable<ServeNbdOptions['onEnter']>>[0]
let servers = 0

/** Its URI is as the tree's programs see it; `agreed` is the server's own record of what was negotiated. */
async function serve(entry: Pick<NbdExport, 'device'> & Partial<NbdExport>) {
  const name = `${++servers}.sock`
  const agreed: Agreed[] = []
  const exports = [{ name: 'vda', readOnly: false, ...entry }]
  const server: NbdServer = await serveNbd({
    exports,
    listen: { socket: path(name) },
    clock: systemClock,
    onEnter: session => agreed.push(session),
  })
  return Object.assign(server, { agreed, there: `nbd+unix:///vda?socket=/mnt/${name}` })
}

const allExtended = (agreed: readonly Agreed[]) => {
  assert.ok(agreed.length > 0)
  assert.deepEqual([...new Set(agreed.map(({ headers }) => headers))], ['extended'])
}

test('libnbd: zeroes, trims and maps 10 TiB with one request each, and filters contexts by payload', {
  skip,
}, async () => {
  const peer = await trixie(folder)
  const device = sparseDevice(SIZE)
  const contexts = [
    {
      name: 'qemu:dirty-bitmap:written',
      extents: (range: { offset: number; length: number }) => markedExtents(range, [{ offset: 5 * TiB, length: MiB }]),
    },
  ]
  await using server = await serve({ device, fastZero: true, contexts })
  const script = `
h.add_meta_context("base:allocation")
h.add_meta_context("qemu:dirty-bitmap:written")
h.connect_uri("${server.there}")
assert h.get_extended_headers_negotiated()
assert h.get_size() == ${SIZE} and h.can_fast_zero() and h.can_block_status_payload()
h.pwrite(b"x" * 65536, ${5 * TiB})
seen = []
def said(context, offset, entries, error):
    seen.append((context, offset, list(entries)))
h.block_status_64(${SIZE}, 0, said)
print(seen)
seen.clear()
h.block_status_filter(${SIZE}, 0, ["qemu:dirty-bitmap:written"], said)
print(seen)
h.trim(${SIZE}, 0)
h.zero(${SIZE}, 0, nbd.CMD_FLAG_FAST_ZERO)
h.zero(${SIZE - 4096}, 4096)
assert h.pread(65536, ${5 * TiB}) == bytes(65536)
assert h.pread_structured(65536, ${5 * TiB}, lambda *args: 0) == bytes(65536)
h.cache(65536, ${TiB})
h.flush()
h.shutdown()
`
  const said = (await peer.run('nbdsh', '-c', script)).trim().split('\n')
  const allocation = [
    [5 * TiB, 3],
    [65_536, 0],
    [5 * TiB - 65_536, 3],
  ]
  const written = [
    [5 * TiB, 0],
    [MiB, 1],
    [5 * TiB - MiB, 0],
  ]
  const python = (context: string, entries: readonly (readonly number[])[]) =>
    `('${context}', 0, [${entries.map(entry => `(${entry.join(', ')})`).join(', ')}])`
  assert.deepEqual(said, [
    `[${python('base:allocation', allocation)}, ${python('qemu:dirty-bitmap:written', written)}]`,
    `[${python('qemu:dirty-bitmap:written', written)}]`,
  ])
  assert.deepEqual(device.calls.slice(0, 4), [
    `extents 0+${SIZE}`,
    `trim 0+${SIZE}`,
    `zero 0+${SIZE}`,
    `zero 4096+${SIZE - 4096}`,
  ])
  allExtended(server.agreed)
  assert.deepEqual(server.agreed[0]?.contexts, ['base:allocation', 'qemu:dirty-bitmap:written'])
})

test('nbdinfo and nbdcopy: the map of 10 TiB, and a copy in both directions over several connections', {
  skip,
}, async () => {
  const peer = await trixie(folder)
  {
    const device = sparseDevice(SIZE)
    await device.write(patternBytes(65_536), 7 * TiB)
    await using server = await serve({ device, readOnly: true })
    const map: { offset: number; length: number; type: number }[] = JSON.parse(
      await peer.run('nbdinfo', '--map', '--json', server.there),
    )
    assert.deepEqual(
      map.map(({ offset, length, type }) => [offset, length, type]),
      [
        [0, 7 * TiB, 3],
        [7 * TiB, 65_536, 0],
        [7 * TiB + 65_536, 3 * TiB - 65_536, 3],
      ],
    )
    const info = JSON.parse(await peer.run('nbdinfo', '--json', server.there))
    assert.equal(info.protocol, 'newstyle-fixed')
    assert.equal(info.exports[0]['export-size'], SIZE)
    allExtended(server.agreed)
  }
  const content = patternBytes(24 * MiB + 512)
  content.fill(0, 4 * MiB, 9 * MiB)
  await using device = memoryDevice(Buffer.from(content))
  await using server = await serve({ device })
  await peer.run('nbdcopy', server.there, '/mnt/copy.raw')
  assert.ok((await readFile(path('copy.raw'))).equals(content))
  const other = Buffer.concat([content.subarray(5 * MiB), content.subarray(0, 5 * MiB)])
  await writeFile(path('other.raw'), other)
  await peer.run('nbdcopy', '--flush', '--connections=4', '/mnt/other.raw', server.there)
  await peer.run('nbdcopy', '--no-extents', server.there, '/mnt/copy.raw')
  assert.ok((await readFile(path('copy.raw'))).equals(other))
  allExtended(server.agreed)
  assert.ok(server.agreed.length >= 6, 'several connections')
})

test('QEMU: qemu-io zeroes 10 TiB with one request; qemu-img maps, converts and compares', { skip }, async () => {
  const peer = await trixie(folder)
  const device = sparseDevice(SIZE)
  await using server = await serve({ device, fastZero: true })
  const commands = [
    'write -P 0x5a 9T 300k',
    'write -f -P 0x5b 3T 512',
    `write -z -u -n 4T ${5 * TiB}`,
    'discard 0 1G',
    'flush',
    'read -P 0x5b 3T 512',
    'read -P 0 4T 64k',
  ]
  const said = await peer.run(
    'qemu-io',
    '-f',
    'raw',
    '-d',
    'unmap',
    ...commands.flatMap(line => ['-c', line]),
    server.there,
  )
  assert.doesNotMatch(said, /failed|error/i)
  assert.ok(device.calls.includes(`zero ${4 * TiB}+${5 * TiB}`), device.calls.join(', '))
  assert.ok(device.calls.includes(`trim 0+${GiB}`))
  const map: { start: number; length: number; zero: boolean }[] = JSON.parse(
    await peer.run('qemu-img', 'map', '--output=json', '-f', 'raw', server.there),
  )
  assert.deepEqual(
    map.filter(({ zero }) => !zero).map(({ start, length }) => [start, length]),
    [
      [3 * TiB, 64 * KiB],
      [9 * TiB, 320 * KiB],
    ],
  )
  const small = sparseDevice(8 * GiB)
  await small.write(patternBytes(3 * MiB), 5 * GiB)
  await using second = await serve({ device: small })
  await peer.run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', second.there, '/mnt/copy.qcow2')
  await peer.run('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', second.there, '/mnt/copy.qcow2')
  allExtended(second.agreed)
  allExtended(server.agreed)
})

test('our client and qemu-nbd: all commands, 10 TiB in one request, and a dirty bitmap', { skip }, async () => {
  const peer = await trixie(folder)
  await peer.run('qemu-img', 'create', '-f', 'qcow2', '/mnt/a.qcow2', `${SIZE}`)
  const bytes = patternBytes(40 * MiB)
  {
    await using _peer = await peer.serve(
      'w.sock',
      'qemu-nbd',
      '-e',
      '8',
      '-f',
      'qcow2',
      '-k',
      '/mnt/w.sock',
      '/mnt/a.qcow2',
    )
    await using client = await connectNbd({
      socket: path('w.sock'),
      exportName: '',
      headers: 'extended',
      connections: 3,
      clock: systemClock,
    })
    assert.deepEqual([client.headers, client.size, client.connectionCount], ['extended', SIZE, 3])
    await client.write(bytes, 6 * TiB, { fua: true })
    const target = Buffer.alloc(40 * MiB)
    await client.readInto(target, 6 * TiB)
    assert.ok(target.equals(bytes))
    await client.cache({ offset: 0, length: MiB })
    const extents = await Array.fromAsync(client.extents({ offset: 0, length: SIZE }))
    assert.deepEqual(
      extents.filter(({ kind }) => kind === 'data').map(({ offset, length }) => [offset, length]),
      [[6 * TiB, 40 * MiB]],
    )
    assert.ok(extents.length <= 5, 'extents of terabytes')
    await client.zero({ offset: 6 * TiB, length: 20 * MiB })
    await client.trim({ offset: 0, length: 5 * TiB })
    await client.flush()
  }
  await peer.run('qemu-img', 'create', '-f', 'qcow2', '/mnt/b.qcow2', `${SIZE}`)
  await peer.run('qemu-img', 'bitmap', '--add', '-g', '65536', '/mnt/b.qcow2', 'b0')
  await peer.run('qemu-io', '-c', 'write 6T 1M', '-c', 'write 9T 1k', '/mnt/b.qcow2')
  await using _peer = await peer.serve(
    'r.sock',
    'qemu-nbd',
    '-r',
    '-B',
    'b0',
    '-f',
    'qcow2',
    '-k',
    '/mnt/r.sock',
    '/mnt/b.qcow2',
  )
  const context = 'qemu:dirty-bitmap:b0'
  await using client = await connectNbd({
    socket: path('r.sock'),
    exportName: '',
    headers: 'extended',
    contexts: ['base:allocation', context],
    clock: systemClock,
  })
  assert.deepEqual([client.headers, client.contexts], ['extended', ['base:allocation', context]])
  const status = await Array.fromAsync(client.blockStatus({ offset: 0, length: SIZE }, context))
  const dirty = status.filter(({ flags }) => flags === 1)
  assert.deepEqual(
    dirty.map(({ offset, length }) => [offset, length]),
    [
      [6 * TiB, MiB],
      [9 * TiB, 64 * KiB],
    ],
  )
  assert.equal(
    status.reduce((sum, { length }) => sum + length, 0),
    SIZE,
  )
})
