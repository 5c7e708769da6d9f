/** Our client against other projects' servers. */
import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { KiB, MiB } from '../../src/core/limits.ts'
import { forEachLimited } from '../../src/core/scope.ts'
import { type ConnectNbdOptions, connectNbd, type NbdClient } from '../../src/nbd/client.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { lacking, run, startPeer } from '../doubles/peer-tools.ts'

const folder = await mkdtemp(join(tmpdir(), 'lifeboat-nbd-client-'))
after(() => rm(folder, { recursive: true, force: true }))
const path = (name: string) => join(folder, name)

const SIZE = 40 * MiB
const content = patternBytes(SIZE)
content.fill(0, 4 * MiB, 9 * MiB)
await writeFile(path('content.raw'), content)
let peers = 0
const freshSocket = () => path(`${++peers}.sock`)

const client = (socket: string, options: Partial<ConnectNbdOptions> = {}): Promise<NbdClient> =>
  connectNbd({ exportName: '', clock: systemClock, ...options, socket })

async function readAll(device: NbdClient, step: number): Promise<Buffer> {
  const target = Buffer.alloc(device.size, 0xee)
  const starts = Array.from({ length: Math.ceil(device.size / step) }, (_, i) => i * step)
  await forEachLimited(starts, 16, at => device.readInto(target.subarray(at, Math.min(at + step, device.size)), at))
  return target
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}

test('qemu-nbd: reads in every header mode, small and larger than one request may be; writes, zeroes and flushes', {
  skip: lacking('qemu-nbd', 'qemu-img'),
}, async () => {
  await run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', path('content.raw'), path('a.qcow2'))
  const socket = freshSocket()
  await using _peer = await startPeer(socket, 'qemu-nbd', '-t', '-e', '8', '-f', 'qcow2', '-k', socket, path('a.qcow2'))
  for (const headers of ['simple', 'structured', 'extended'] as const) {
    await using device = await client(socket, { headers, connections: 3, requestsInFlight: 32 })
    assert.equal(device.connectionCount, 3)
    for (const step of [SIZE, 1 * MiB + 512, 96 * KiB])
      assert.ok((await readAll(device, step)).equals(content), headers)
    const extents = await collect(device.extents({ offset: 0, length: SIZE }))
    const zero = extents.filter(extent => extent.kind === 'zero').reduce((sum, extent) => sum + extent.length, 0)
    assert.equal(zero, headers === 'simple' ? 0 : 5 * MiB)
    assert.equal(
      extents.reduce((sum, extent) => sum + extent.length, 0),
      SIZE,
    )
  }
  await using device = await client(socket)
  const change = patternBytes(35 * MiB, 99)
  await device.write(change, 3 * MiB, { fua: true })
  await device.zero({ offset: 1 * MiB, length: 1 * MiB }, { fua: true })
  await device.trim({ offset: 0, length: 64 * KiB })
  await device.flush()
  const target = Buffer.alloc(35 * MiB)
  await device.readInto(target, 3 * MiB)
  assert.ok(target.equals(change))
  await device.readInto(target.subarray(0, MiB), MiB)
  assert.ok(target.subarray(0, MiB).every(byte => byte === 0))
  await device.write(content.subarray(0, 38 * MiB), 0)
})

test("qemu-nbd: a qcow2's persistent bitmap says what was written since", {
  skip: lacking('qemu-nbd', 'qemu-img', 'qemu-io'),
}, async () => {
  await run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', path('content.raw'), path('b.qcow2'))
  await run('qemu-img', 'bitmap', '--add', '-g', '65536', path('b.qcow2'), 'lifeboat-b0')
  await run('qemu-io', '-c', 'write 1M 64k', '-c', 'write 17M 100k', path('b.qcow2'))
  const socket = freshSocket()
  await using _peer = await startPeer(
    socket,
    'qemu-nbd',
    '-t',
    '-r',
    '-e',
    '4',
    '-B',
    'lifeboat-b0',
    '-f',
    'qcow2',
    '-k',
    socket,
    path('b.qcow2'),
  )
  const context = 'qemu:dirty-bitmap:lifeboat-b0'
  await using device = await client(socket, { contexts: ['base:allocation', context, 'qemu:dirty-bitmap:other'] })
  assert.deepEqual(device.contexts, ['base:allocation', context])
  assert.equal(device.readOnly, true)
  const dirty = (await collect(device.blockStatus({ offset: 0, length: SIZE }, context))).filter(
    ({ flags }) => flags === 1,
  )
  assert.deepEqual(
    dirty.map(({ offset, length }) => [offset, length]),
    [
      [1 * MiB, 64 * KiB],
      [17 * MiB, 128 * KiB],
    ],
  )
  const part = await collect(device.blockStatus({ offset: 1 * MiB + 100, length: 1000 }, context))
  assert.deepEqual(part, [{ offset: 1 * MiB + 100, length: 1000, flags: 1 }])
  await assert.rejects(collect(device.blockStatus({ offset: 0, length: 1 }, 'qemu:dirty-bitmap:other')), {
    code: 'nbd-refused',
  })
  await assert.rejects(device.write(Buffer.alloc(512), 0), { code: 'nbd-refused' })
  await assert.rejects(client(socket, { exportName: 'nope' }), { code: 'nbd-refused' })
})

test('nbdkit: memory and file, and its simple-replies-only mode', { skip: lacking('nbdkit') }, async () => {
  const socket = freshSocket()
  await using _memory = await startPeer(socket, 'nbdkit', '-f', '-U', socket, 'memory', '40M')
  {
    await using device = await client(socket, { connections: 2 })
    await device.write(content, 0)
    assert.ok((await readAll(device, 256 * KiB)).equals(content))
    const extents = await collect(device.extents({ offset: 0, length: SIZE }))
    assert.ok(extents.some(extent => extent.kind === 'zero'))
  }
  const plain = freshSocket()
  await using _file = await startPeer(plain, 'nbdkit', '-f', '-r', '--no-sr', '-U', plain, 'file', path('content.raw'))
  await using device = await client(plain)
  assert.deepEqual([device.headers, device.contexts], ['simple', []])
  assert.ok((await readAll(device, 1 * MiB)).equals(content))
})

test('nbdkit: an injected error fails that call and no other', { skip: lacking('nbdkit') }, async () => {
  const socket = freshSocket()
  const filter = ['--filter=error', 'file', path('content.raw'), 'error-pread=ENOSPC', 'error-pread-rate=50%']
  await using _peer = await startPeer(socket, 'nbdkit', '-f', '-r', '-U', socket, ...filter)
  await using device = await client(socket)
  let failed = 0
  for (let i = 0; i < 64; i++) {
    const target = Buffer.alloc(64 * KiB)
    const offset = i * 64 * KiB
    const outcome = await device.readInto(target, offset).then(
      () => undefined,
      error => error,
    )
    if (outcome === undefined) assert.ok(target.equals(content.subarray(offset, offset + target.length)))
    else {
      assert.equal(outcome.code, 'nbd-io')
      assert.equal(outcome.details.errno, 28)
      failed++
    }
  }
  assert.ok(failed > 0 && failed < 64, `${failed} of 64 failed`)
})

test('nbdkit: with delays, requests run side by side; an abort and a deadline end those that wait', {
  skip: lacking('nbdkit'),
}, async () => {
  const socket = freshSocket()
  const slow = ['--filter=delay', 'file', path('content.raw'), 'delay-read=200ms']
  await using _peer = await startPeer(socket, 'nbdkit', '-f', '-r', '-U', socket, ...slow)
  await using device = await client(socket, { requestsInFlight: 16 })
  await forEachLimited(
    Array.from({ length: 16 }, (_, i) => i),
    16,
    async i => {
      const target = Buffer.alloc(4096)
      await device.readInto(target, i * MiB)
      assert.ok(target.equals(content.subarray(i * MiB, i * MiB + 4096)))
    },
  )
  const stop = new AbortController()
  const target = Buffer.alloc(MiB, 0xee)
  const waiting = device.readInto(target, 0, { signal: stop.signal })
  setTimeout(() => stop.abort(new Error('enough')), 20)
  await assert.rejects(waiting, /enough/)
  assert.ok(
    target.every(byte => byte === 0xee),
    'the memory of an aborted call is left alone',
  )
  await device.readInto(target, 0)
  assert.ok(target.equals(content.subarray(0, MiB)), 'the connection goes on after an abort')
  await using hasty = await client(socket, { requestMs: 50 })
  await assert.rejects(hasty.readInto(target, 0), { code: 'nbd-io', retry: 'transient' })
  await assert.rejects(hasty.readInto(target, 0), { code: 'nbd-io' })
})

test('nbdkit: a server with a smallest block is read at any offset', { skip: lacking('nbdkit') }, async () => {
  const socket = freshSocket()
  const policy = [
    '--filter=blocksize-policy',
    'file',
    path('content.raw'),
    'blocksize-minimum=4096',
    'blocksize-preferred=65536',
    'blocksize-maximum=1M',
    'blocksize-error-policy=error',
  ]
  await using _peer = await startPeer(socket, 'nbdkit', '-f', '-r', '-U', socket, ...policy)
  await using device = await client(socket)
  assert.equal(device.blockSize, 65536)
  for (const [offset, length] of [
    [0, 4 * MiB],
    [1, 1],
    [4095, 2],
    [100, 3 * MiB],
    [SIZE - 5, 5],
  ] as const) {
    const target = Buffer.alloc(length)
    await device.readInto(target, offset)
    assert.ok(target.equals(content.subarray(offset, offset + length)), `${offset}+${length}`)
  }
})

test('a server that dies fails what is in flight, and says so as transient', { skip: lacking('nbdkit') }, async () => {
  const socket = freshSocket()
  const slow = ['--filter=delay', 'file', path('content.raw'), 'delay-read=60']
  const peer = await startPeer(socket, 'nbdkit', '-f', '-r', '-U', socket, ...slow)
  await using device = await client(socket)
  const waiting = device.readInto(Buffer.alloc(512), 0)
  const outcome = assert.rejects(waiting, { code: 'nbd-io', retry: 'transient' })
  await new Promise(resolve => setTimeout(resolve, 50))
  await peer[Symbol.asyncDispose]()
  await outcome
})
