import assert from 'node:assert/strict'
import { readdir, rm, stat, writeFile } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { test } from 'node:test'
import type { BlockDevice, BlockReader } from '../../../src/block/block-device.ts'
import { memoryDevice } from '../../../src/block/memory.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { LifeboatError } from '../../../src/core/errors.ts'
import { KiB, MiB } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { connectNbd } from '../../../src/nbd/client.ts'
import { encodeFilter } from '../../../src/nbd/commands.ts'
import * as C from '../../../src/nbd/constants.ts'
import type { NbdExport } from '../../../src/nbd/nbd-export.ts'
import { encodeGo, encodeOption } from '../../../src/nbd/option-codec.ts'
import { type NbdServer, type ServeNbdOptions, serveNbd } from '../../../src/nbd/server.ts'
import { SocketInput } from '../../../src/nbd/socket-input.ts'
import type { HeaderMode } from '../../../src/nbd/wire.ts'
import { endlessDevice } from '../../doubles/endless-device.ts'
import { freshSockets } from '../../doubles/fresh-sockets.ts'
import { gatedDevice } from '../../doubles/gated-device.ts'
import { manualClock } from '../../doubles/manual-clock.ts'
import { patternBytes } from '../../doubles/pattern.ts'
import { errorOf, RawNbdClient } from '../../doubles/raw-nbd-client.ts'
import { slowDevice } from '../../doubles/slow-device.ts'
import { until } from '../../doubles/until.ts'

const { folder, freshSocket } = await freshSockets()

const filled = (length: number) => patternBytes(length)

async function serve(
  entry: Partial<NbdExport> & { device: BlockReader },
  options: Partial<ServeNbdOptions> = {},
): Promise<NbdServer & { path: string }> {
  const path = freshSocket()
  const exports = [{ name: 'disk', readOnly: false, ...entry }]
  const server = await serveNbd({ exports, listen: { socket: path }, clock: systemClock, ...options })
  return Object.assign(server, { path })
}

const readOnlyOf = (bytes: Buffer): BlockReader => {
  const { borrow: _, ...device } = memoryDevice(bytes)
  return device
}

const modes: readonly HeaderMode[] = ['simple', 'structured', 'extended']

test("Node's onread reads an accepted socket straight into the buffer that was asked for", async () => {
  for (const mode of ['onread', 'data'] as const) {
    const buffers = [Buffer.alloc(5), Buffer.alloc(3)]
    let turn = 0
    const seen: string[] = []
    const path = freshSocket()
    const done = Promise.withResolvers<void>()
    const server = createServer({ pauseOnConnect: true }, accepted => {
      const input = new SocketInput(
        accepted,
        {
          target: () => buffers[turn % 2]!,
          received: (buffer, length) => {
            assert.equal(buffer, buffers[turn % 2], 'the bytes are where they were asked for')
            seen.push(Buffer.from(buffer.subarray(0, length)).toString())
            turn++
            if (seen.join('').length === 11) done.resolve()
            if (turn !== 2) return true
            setImmediate(() => input.resume())
            return false
          },
        },
        mode,
      )
      assert.equal(input.mode, mode, 'the internal handle is where it used to be')
      input.start()
    }).listen(path)
    const client = connect(path)
    client.write('hello world')
    await done.promise
    assert.deepEqual(seen, ['hello', ' wo', 'rld'])
    client.destroy()
    server.close()
  }
})

test('every request gets its bytes, in every header mode, from lent and from slow memory, by either kind of input', async () => {
  const bytes = filled(3 * MiB)
  bytes.fill(0, MiB, MiB + 512 * KiB)
  for (const [device, input] of [
    [memoryDevice(bytes), 'onread'],
    [slowDevice(memoryDevice(bytes), seededRandom('slow')), 'onread'],
    [memoryDevice(bytes), 'data'],
  ] as const) {
    await using server = await serve({ device }, { input })
    for (const mode of modes) {
      await using client = await RawNbdClient.go(server.path, 'disk', mode)
      const ranges: [number, number][] = [
        [0, 0],
        [0, 1],
        [4097, 4096],
        [1, 32 * KiB],
        [1, 32 * KiB + 1],
        [MiB - 100, 300 * KiB],
        [0, 3 * MiB],
        [3 * MiB - 7, 7],
      ]
      ranges.forEach(([offset, length], cookie) => {
        client.request(C.NBD_CMD_READ, offset, length, 0, cookie)
      })
      const got = ranges.map(([, length]) => Buffer.alloc(length, 0xee))
      for (let left = ranges.length; left > 0; ) {
        // Replies of a slow device come in any order; simple ones are told apart by their cookie before their data.
        const reply = mode === 'simple' ? await simpleRead(client, ranges) : await client.reply()
        const [offset, length] = ranges[reply.cookieLo]!
        if (reply.kind === 'simple') reply.payload.copy(got[reply.cookieLo]!)
        else if (reply.type === C.NBD_REPLY_TYPE_OFFSET_DATA)
          reply.payload.copy(got[reply.cookieLo]!, Number(reply.payload.readBigUInt64BE()) - offset, 8)
        else if (reply.type === C.NBD_REPLY_TYPE_OFFSET_HOLE) {
          const start = Number(reply.payload.readBigUInt64BE()) - offset
          got[reply.cookieLo]!.fill(0, start, start + reply.payload.readUInt32BE(8))
        } else assert.ok(reply.type === C.NBD_REPLY_TYPE_NONE && (reply.flags & 1) === 1)
        if (mode === 'extended') assert.equal(reply.offset, offset)
        if (reply.kind === 'simple' || (reply.flags & C.NBD_REPLY_FLAG_DONE) !== 0) {
          assert.ok(got[reply.cookieLo]!.equals(bytes.subarray(offset, offset + length)), `${mode} ${offset}+${length}`)
          left--
        }
      }
    }
  }
})

async function simpleRead(client: RawNbdClient, ranges: readonly [number, number][]) {
  const reply = await client.reply()
  return { ...reply, payload: await client.read(ranges[reply.cookieLo]![1]) }
}

test('READ: holes are chunks of their own unless DF asks for one', async () => {
  const bytes = filled(256 * KiB)
  bytes.fill(0, 64 * KiB, 128 * KiB)
  await using server = await serve({ device: readOnlyOf(bytes), readOnly: true })
  await using client = await RawNbdClient.go(server.path, 'disk', 'structured')
  client.request(C.NBD_CMD_READ, 0, 256 * KiB)
  const chunks = await client.chunks()
  assert.deepEqual(
    chunks.map(chunk => chunk.type),
    [C.NBD_REPLY_TYPE_OFFSET_DATA, C.NBD_REPLY_TYPE_OFFSET_HOLE, C.NBD_REPLY_TYPE_OFFSET_DATA],
  )
  client.request(C.NBD_CMD_READ, 0, 256 * KiB, C.NBD_CMD_FLAG_DF)
  const [only, ...more] = await client.chunks()
  assert.equal(more.length, 0)
  assert.ok(only!.payload.subarray(8).equals(bytes))
})

test('requests that are wrong get their error, their payload is consumed, and the connection lives on', async () => {
  const bytes = Buffer.alloc(MiB, 1)
  const { EINVAL, ENOSPC, EPERM } = { EINVAL: C.NBD_EINVAL, ENOSPC: C.NBD_ENOSPC, EPERM: C.NBD_EPERM }
  const payload = Buffer.alloc(4096, 2)
  const fastZero = C.NBD_CMD_FLAG_FAST_ZERO
  for (const mode of modes) {
    const writeFlag = mode === 'extended' ? C.NBD_CMD_FLAG_PAYLOAD_LEN : 0
    const cases: [number, number, number, number, number, Uint8Array?][] = [
      [C.NBD_CMD_READ, MiB - 1, 2, 0, EINVAL],
      [C.NBD_CMD_READ, 2 ** 63, 1, 0, EINVAL],
      [C.NBD_CMD_READ, 0, 2 ** 32 - 1, 0, EINVAL],
      [C.NBD_CMD_READ, 0, 1, C.NBD_CMD_FLAG_REQ_ONE, EINVAL],
      [C.NBD_CMD_READ, 0, 1, 1 << 15, EINVAL],
      [C.NBD_CMD_WRITE, MiB - 1, 4096, writeFlag, ENOSPC, payload],
      [C.NBD_CMD_WRITE, 2 ** 53, 4096, writeFlag, ENOSPC, payload],
      [C.NBD_CMD_WRITE, 0, 4096, writeFlag | C.NBD_CMD_FLAG_DF, EINVAL, payload],
      [C.NBD_CMD_WRITE_ZEROES, MiB, 1, 0, ENOSPC],
      [C.NBD_CMD_WRITE_ZEROES, 0, 4096, fastZero, EINVAL],
      [C.NBD_CMD_WRITE_ZEROES, 0, 4096, fastZero | C.NBD_CMD_FLAG_NO_HOLE, EINVAL],
      [C.NBD_CMD_TRIM, MiB, 1, 0, EINVAL],
      [C.NBD_CMD_CACHE, MiB, 1, 0, EINVAL],
      [C.NBD_CMD_FLUSH, 1, 0, 0, EINVAL],
      [C.NBD_CMD_BLOCK_STATUS, 0, 4096, 0, EINVAL],
      [8, 0, 0, 0, EINVAL],
      [0xffff, 2 ** 60, 2 ** 31, 0, EINVAL],
    ]
    await using server = await serve({ device: memoryDevice(bytes) })
    await using readOnly = await serve({ device: memoryDevice(bytes), readOnly: true })
    await using client = await RawNbdClient.go(server.path, 'disk', mode)
    await using reader = await RawNbdClient.go(readOnly.path, 'disk', mode)
    for (const [type, offset, length, flags, error, data] of cases) {
      client.request(type, offset, length, flags, 9, data)
      const reply = await client.reply()
      assert.deepEqual(
        [errorOf(reply), reply.cookieLo],
        [error, 9],
        `${mode}: ${type} ${offset}+${length} flags ${flags}`,
      )
    }
    for (const type of [C.NBD_CMD_WRITE, C.NBD_CMD_WRITE_ZEROES, C.NBD_CMD_TRIM]) {
      reader.request(
        type,
        0,
        4096,
        type === C.NBD_CMD_WRITE ? writeFlag : 0,
        9,
        type === C.NBD_CMD_WRITE ? payload : undefined,
      )
      assert.equal(errorOf(await reader.reply()), EPERM)
    }
    for (const [type, length] of [
      [C.NBD_CMD_FLUSH, 0],
      [C.NBD_CMD_WRITE_ZEROES, 0],
      [C.NBD_CMD_TRIM, 0],
      [C.NBD_CMD_CACHE, 5],
    ] as const) {
      client.request(type, 0, length, C.NBD_CMD_FLAG_FUA)
      assert.equal(errorOf(await client.reply()), 0)
    }
    reader.request(C.NBD_CMD_FLUSH, 0, 0)
    assert.equal(errorOf(await reader.reply()), 0)
  }
  assert.ok(
    bytes.every(byte => byte === 1),
    'nothing was written',
  )
})

test('64 MiB are read and written at once; a longer write is passed over and refused', async () => {
  const bytes = filled(64 * MiB)
  const copy = Buffer.from(bytes)
  await using server = await serve({ device: memoryDevice(bytes) })
  for (const mode of modes) {
    const flags = mode === 'extended' ? C.NBD_CMD_FLAG_PAYLOAD_LEN : 0
    await using client = await RawNbdClient.go(server.path, 'disk', mode)
    client.request(C.NBD_CMD_READ, 0, 64 * MiB)
    const reply = mode === 'simple' ? await client.reply(64 * MiB) : await client.reply()
    assert.ok(reply.payload.subarray(mode === 'simple' ? 0 : 8).equals(bytes))
    bytes.fill(0)
    client.request(C.NBD_CMD_WRITE, 0, 64 * MiB, flags, 1, copy)
    assert.equal(errorOf(await client.reply()), 0)
    assert.ok(bytes.equals(copy))
  }
  await using big = await serve({ device: { ...readOnlyOf(Buffer.alloc(0)), size: 2 ** 40 } })
  await using client = await RawNbdClient.go(big.path, 'disk')
  client.request(C.NBD_CMD_WRITE, 0, 65 * MiB, 0, 1, Buffer.alloc(65 * MiB))
  assert.notEqual(errorOf(await client.reply()), 0)
  client.request(C.NBD_CMD_FLUSH, 0, 0)
  assert.equal(errorOf(await client.reply()), 0)
})

test('an extended WRITE without PAYLOAD_LEN keeps the stream in step; payloads elsewhere are consumed; 4 GiB ends it', async () => {
  const bytes = Buffer.alloc(MiB)
  await using server = await serve({ device: memoryDevice(bytes) })
  await using client = await RawNbdClient.go(server.path, 'disk', 'extended')
  client.request(C.NBD_CMD_WRITE, 0, 512, 0, 1, Buffer.alloc(512, 7))
  assert.equal(errorOf(await client.reply()), 0)
  assert.equal(bytes[511], 7)
  client.request(C.NBD_CMD_TRIM, 0, 512, C.NBD_CMD_FLAG_PAYLOAD_LEN, 2, Buffer.alloc(512, 7))
  assert.equal(errorOf(await client.reply()), C.NBD_EINVAL)
  client.request(C.NBD_CMD_FLUSH, 0, 0)
  assert.equal(errorOf(await client.reply()), 0)
  client.request(C.NBD_CMD_WRITE, 0, 2 ** 32, C.NBD_CMD_FLAG_PAYLOAD_LEN)
  await client.closed
})

test('BLOCK_STATUS: extents of the range, one with REQ_ONE, and only the contexts that a payload names', async () => {
  const bytes = filled(MiB)
  bytes.fill(0, 64 * KiB, 128 * KiB)
  await using server = await serve({ device: memoryDevice(bytes) })
  const contexts = [C.BASE_ALLOCATION]
  await using client = await RawNbdClient.go(server.path, 'disk', 'structured', contexts)
  const status = async (offset: number, length: number, flags = 0) => {
    client.request(C.NBD_CMD_BLOCK_STATUS, offset, length, flags)
    const [chunk, ...more] = await client.chunks()
    assert.equal(more.length, 0)
    return [...Array((chunk!.payload.length - 4) / 8).keys()].map(i => [
      chunk!.payload.readUInt32BE(4 + 8 * i),
      chunk!.payload.readUInt32BE(8 + 8 * i),
    ])
  }
  assert.deepEqual(await status(0, MiB), [
    [64 * KiB, 0],
    [64 * KiB, 3],
    [MiB - 128 * KiB, 0],
  ])
  assert.deepEqual(await status(100, 1000), [[1000, 0]])
  assert.deepEqual(await status(65 * KiB, MiB - 65 * KiB, C.NBD_CMD_FLAG_REQ_ONE), [[63 * KiB, 3]])
  for (const [offset, length] of [
    [0, 0],
    [MiB, 1],
    [1, MiB],
  ] as const) {
    client.request(C.NBD_CMD_BLOCK_STATUS, offset, length)
    assert.equal(errorOf(await client.reply()), C.NBD_EINVAL)
  }
  await using wide = await RawNbdClient.go(server.path, 'disk', 'extended', contexts)
  wide.request(C.NBD_CMD_BLOCK_STATUS, 0, MiB)
  const [chunk] = await wide.chunks()
  assert.equal(chunk!.type, C.NBD_REPLY_TYPE_BLOCK_STATUS_EXT)
  assert.deepEqual([chunk!.payload.readUInt32BE(0), chunk!.payload.readUInt32BE(4), chunk!.payload.length], [1, 3, 56])
  for (const [ids, error] of [
    [[1], 0],
    [[2], C.NBD_EINVAL],
    [[1, 1], C.NBD_EINVAL],
    [[], C.NBD_EINVAL],
  ] as const) {
    const payload = encodeFilter(MiB, ids)
    wide.request(C.NBD_CMD_BLOCK_STATUS, 0, payload.length, C.NBD_CMD_FLAG_PAYLOAD_LEN, 3, payload)
    assert.equal(errorOf((await wide.chunks())[0]!), error)
  }
})

test('WRITE, WRITE_ZEROES with and without NO_HOLE, and TRIM reach the device; FUA and FLUSH reach its flush', async () => {
  const bytes = filled(4 * MiB)
  const inner = memoryDevice(bytes)
  const seen: string[] = []
  const device: BlockDevice = {
    ...inner,
    write: async (source, offset, options) => {
      seen.push(`write ${source.length}${options?.fua ? ' fua' : ''}`)
      await inner.write(source, offset)
    },
    zero: async (range, options) => {
      seen.push(`zero${options?.fua ? ' fua' : ''}`)
      await inner.zero(range)
    },
    flush: async () => {
      seen.push('flush')
    },
  }
  await using server = await serve({ device, fastZero: true })
  await using client = await RawNbdClient.go(server.path, 'disk', 'structured')
  const run = async (...request: Parameters<RawNbdClient['request']>) => {
    client.request(...request)
    assert.equal(errorOf(await client.reply()), 0)
  }
  await run(C.NBD_CMD_WRITE, 5, 100_000, C.NBD_CMD_FLAG_FUA, 1, Buffer.alloc(100_000, 9))
  await run(C.NBD_CMD_WRITE_ZEROES, 0, 4096, C.NBD_CMD_FLAG_FUA | C.NBD_CMD_FLAG_FAST_ZERO)
  await run(C.NBD_CMD_WRITE_ZEROES, MiB, 2 * MiB, C.NBD_CMD_FLAG_NO_HOLE)
  await run(C.NBD_CMD_TRIM, 0, 4096, C.NBD_CMD_FLAG_FUA)
  await run(C.NBD_CMD_FLUSH, 0, 0)
  assert.deepEqual(seen, ['write 100000 fua', 'zero fua', `write ${MiB}`, `write ${MiB}`, 'flush', 'flush'])
  assert.deepEqual([bytes[4095], bytes[4096], bytes[100_004], bytes[MiB], bytes[3 * MiB - 1]], [0, 9, 9, 0, 0])
})

test("a device's failure is one request's error, and says nothing about this host", async () => {
  const secret = () => {
    throw new LifeboatError('missing-object', 'no object at s3://bucket/secret/path', {
      details: { object: '/secret' },
    })
  }
  const failing = { ...readOnlyOf(Buffer.alloc(MiB)), readInto: async () => secret(), extents: () => secret() }
  const log: string[] = []
  const sent: Buffer[] = []
  await using server = await serve({ device: { ...failing, borrow: undefined } }, { log: line => log.push(line) })
  await using lending = await serve({ device: { ...failing, borrow: secret } })
  for (const path of [server.path, lending.path])
    for (const mode of modes) {
      await using client = await RawNbdClient.go(path, 'disk', mode)
      for (const length of [512, 100_000]) {
        client.request(C.NBD_CMD_READ, 0, length)
        const reply = await client.reply()
        sent.push(reply.payload)
        assert.equal(errorOf(reply), C.NBD_EIO)
      }
    }
  assert.ok(!Buffer.concat(sent).includes('secret'))
  assert.ok(
    log.some(line => line.includes('secret')),
    'the log of this host may say it',
  )
})

test('DISC lets requests in flight finish; a client that just goes stops them; lent memory always comes back', async () => {
  const bytes = filled(8 * MiB)
  const inner = memoryDevice(bytes)
  const device = gatedDevice(inner)
  await using server = await serve({ device, readOnly: true })
  await using polite = await RawNbdClient.go(server.path, 'disk')
  polite.request(C.NBD_CMD_READ, 0, 10)
  polite.request(C.NBD_CMD_DISC, 0, 0)
  const rude = await RawNbdClient.go(server.path, 'disk')
  rude.request(C.NBD_CMD_READ, 0, 10)
  await until(() => server.connectionCount === 2)
  rude.socket.destroy()
  await until(() => device.reads.aborted === 1)
  device.open()
  assert.equal((await polite.reply(10)).payload.length, 10)
  await polite.closed
  await until(() => server.connectionCount === 0)

  let lent = 0
  const lending: BlockReader = {
    ...inner,
    borrow: (offset, length) => {
      lent++
      const views = [bytes.subarray(offset, offset + length)]
      let released = false
      return {
        views,
        release: () => {
          assert.ok(!released, 'released once')
          released = true
          lent--
        },
      }
    },
  }
  await using lender = await serve({ device: lending, readOnly: true })
  const vanishing = await RawNbdClient.go(lender.path, 'disk')
  vanishing.socket.pause()
  for (let i = 0; i < 20; i++) vanishing.request(C.NBD_CMD_READ, 0, 4 * MiB, 0, i)
  await until(() => lent > 0)
  vanishing.socket.destroy()
  await until(() => lender.connectionCount === 0 && lent === 0)
})

test('stop answers what is in flight, closes, lets nobody in, and can be called twice', async () => {
  const device = gatedDevice(memoryDevice(filled(MiB)))
  const server = await serve({ device, readOnly: true })
  await using client = await RawNbdClient.go(server.path, 'disk')
  await using idle = await RawNbdClient.go(server.path, 'disk')
  await using haggling = await RawNbdClient.open(server.path)
  client.request(C.NBD_CMD_READ, 0, 100_000)
  await until(() => server.connectionCount === 2 && server.halfOpenCount === 1)
  const stopped = Promise.all([server.stop(), server.stop()])
  await idle.closed
  await assert.rejects(RawNbdClient.connect(server.path))
  assert.deepEqual(
    (await haggling.option(C.NBD_OPT_GO, encodeGo('disk', []))).map(({ type }) => type),
    [C.NBD_REP_ERR_SHUTDOWN],
  )
  client.request(C.NBD_CMD_READ, 0, 512, 0, 8)
  assert.deepEqual([errorOf(await client.reply()), client.unread], [C.NBD_ESHUTDOWN, 0], 'what comes now is told why')
  device.open()
  assert.equal((await client.reply(100_000)).payload.length, 100_000)
  await Promise.all([client.closed, haggling.closed, stopped])
  assert.deepEqual(
    (await readdir(folder)).filter(name => name === server.path.split('/').at(-1)),
    [],
  )
})

test('over TCP on a port of the system, and names that the protocol cannot carry', async () => {
  const exports = [{ name: 'disk', device: memoryDevice(filled(MiB)), readOnly: true }]
  await using server = await serveNbd({ exports, listen: { host: '127.0.0.1', port: 0 }, clock: systemClock })
  assert.ok('port' in server.address && server.address.port > 0)
  assert.equal(server.uri('a b'), `nbd://127.0.0.1:${server.address.port}/a%20b`)
  await using client = await connectNbd({ ...server.address, exportName: 'disk', clock: systemClock })
  const target = Buffer.alloc(300_000)
  await client.readInto(target, 5)
  assert.ok(target.equals(filled(MiB).subarray(5, 300_005)))
  for (const text of ['a\0b', 'x'.repeat(5000)])
    await assert.rejects(serve({ name: text, device: exports[0]!.device }), { code: 'usage' })
})

test('socket files: mode 0600, stale ones replaced, live ones refused, files kept, and only our own removed', async () => {
  const device = memoryDevice(Buffer.alloc(4096))
  const exports = [{ name: 'disk', device, readOnly: true }]
  const path = freshSocket()
  const options = { exports, listen: { socket: path }, clock: systemClock }
  const first = await serveNbd(options)
  assert.equal((await stat(path)).mode & 0o777, 0o600)
  await assert.rejects(serveNbd(options), { code: 'nbd-refused' })
  await using survivor = await RawNbdClient.go(path, 'disk')
  await rm(path)
  const second = await serveNbd(options)
  await first.stop()
  await using client = await RawNbdClient.go(path, 'disk')
  client.request(C.NBD_CMD_READ, 0, 1)
  assert.equal((await client.reply(1)).error, 0)
  await survivor.closed
  await second.stop()
  await assert.rejects(stat(path))
  // A server that was killed leaves its file behind.
  const { spawnSync } = await import('node:child_process')
  const killed = `require('net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))`
  spawnSync(process.execPath, ['-e', killed, path])
  assert.ok((await stat(path)).isSocket())
  const third = await serveNbd(options)
  await third.stop()
  await writeFile(path, 'precious')
  await assert.rejects(serveNbd(options), { code: 'output-exists' })
})

test('limits of connections: the good ones get in, the surplus is told, half-open ones are counted apart', async () => {
  const device = memoryDevice(Buffer.alloc(4096))
  await using server = await serve({ device }, { limits: { connections: 2, halfOpen: 3 } })
  const clients = [await RawNbdClient.go(server.path, 'disk'), await RawNbdClient.go(server.path, 'disk')]
  await using third = await RawNbdClient.open(server.path)
  const replies = await third.option(C.NBD_OPT_GO, encodeGo('disk', []))
  assert.equal(replies.at(-1)!.type, C.NBD_REP_ERR_POLICY)
  const halfOpen = [await RawNbdClient.open(server.path), await RawNbdClient.open(server.path)]
  await until(() => server.halfOpenCount === 3)
  halfOpen.push(await RawNbdClient.open(server.path))
  await third.closed
  assert.equal(server.halfOpenCount, 3)
  clients[0]!.socket.destroy()
  await until(() => server.connectionCount === 1)
  assert.equal((await halfOpen[2]!.option(C.NBD_OPT_GO, encodeGo('disk', []))).at(-1)!.type, C.NBD_REP_ACK)
  for (const client of [...clients, ...halfOpen]) await client[Symbol.asyncDispose]()
})

test('limits of time, options and requests are as they were set: an idle client goes, a haggling one has its options, few run at once', async () => {
  const clock = manualClock()
  const device = gatedDevice(memoryDevice(filled(MiB)))
  const limits = { idleMs: 60_000, options: 3, handshakeMs: 2_000, requestsInFlight: 5 }
  await using server = await serve({ device, readOnly: true }, { clock, limits })
  await using talker = await RawNbdClient.open(server.path)
  for (let i = 0; i < 3; i++) await talker.option(C.NBD_OPT_LIST)
  talker.write(encodeOption(C.NBD_OPT_LIST, Buffer.alloc(0)))
  await talker.closed
  await using slow = await RawNbdClient.open(server.path)
  await using client = await RawNbdClient.go(server.path, 'disk')
  await until(() => server.halfOpenCount === 1)
  await clock.advance(2_000)
  await slow.closed
  for (let i = 0; i < 20; i++) client.request(C.NBD_CMD_READ, i, 512, 0, i)
  await until(() => device.reads.running === 5)
  await clock.advance(300_000)
  assert.equal(server.connectionCount, 1, 'who waits for the device is not idle')
  device.open()
  for (let i = 0; i < 20; i++) await client.reply(512)
  assert.equal(device.reads.most, 5)
  await clock.advance(1_000)
  await clock.advance(58_000)
  assert.equal(server.connectionCount, 1)
  await clock.advance(3_000)
  await client.closed
})

test('1000 half-open clients are held while a good one is served, and all dropped at the deadline', async () => {
  const clock = manualClock()
  const log: string[] = []
  await using server = await serve({ device: memoryDevice(filled(MiB)) }, { clock, log: line => log.push(line) })
  const silent = await Promise.all(Array.from({ length: 1000 }, () => RawNbdClient.connect(server.path)))
  await until(() => server.halfOpenCount === 1000)
  await using good = await RawNbdClient.go(server.path, 'disk')
  for (let i = 0; i < 100; i++) {
    good.request(C.NBD_CMD_READ, i, 4096)
    assert.equal((await good.reply(4096)).payload.length, 4096)
  }
  await clock.advance(9_000)
  assert.equal(server.halfOpenCount, 1000)
  await clock.advance(1_000)
  await Promise.all(silent.map(client => client.closed))
  assert.deepEqual([server.halfOpenCount, server.connectionCount], [0, 1])
  assert.ok(log.length < 100, 'the log was not flooded')
  await clock.advance(3_600_000)
  good.request(C.NBD_CMD_READ, 0, 1)
  assert.equal((await good.reply(1)).error, 0, 'an idle client stays')
})

test('clients that pipeline large reads and never take a reply cost bounded memory, block nobody, and are dropped when stalled', async () => {
  const clock = manualClock()
  await using server = await serve({ device: endlessDevice(), readOnly: true }, { clock })
  for (const mode of modes) {
    globalThis.gc?.()
    const before = process.memoryUsage().rss
    let most = 0
    const clients = await Promise.all(Array.from({ length: 4 }, () => RawNbdClient.go(server.path, 'disk', mode)))
    for (const client of clients) {
      client.socket.pause()
      for (let i = 0; i < 64; i++) client.request(C.NBD_CMD_READ, i * 32 * MiB, 32 * MiB, 0, i)
      // Many small ones too: their replies are copies in output buffers.
      for (let i = 0; i < 5000; i++) client.request(C.NBD_CMD_READ, i, 16 * KiB, 0, i)
    }
    for (let i = 0; i < 40; i++) {
      most = Math.max(most, process.memoryUsage().rss)
      await new Promise(resolve => setTimeout(resolve, 10))
    }
    assert.ok(most - before < 128 * MiB, `${mode}: grew by ${(most - before) / MiB} MiB`)
    await using good = await RawNbdClient.go(server.path, 'disk', mode)
    for (let i = 0; i < 20; i++) {
      good.request(C.NBD_CMD_READ, 0, 128 * KiB, C.NBD_CMD_FLAG_DF * Number(mode !== 'simple'), i)
      await (mode === 'simple' ? good.reply(128 * KiB) : good.reply())
    }
    // Who waits for bytes gets them when a stalled one is dropped, and stalls in its turn.
    while (server.connectionCount > 1) await clock.advance(2_000)
    for (const client of clients) await client[Symbol.asyncDispose]()
    good.request(C.NBD_CMD_READ, 0, 32 * MiB, 0, 1)
    if (mode === 'simple') await good.reply(32 * MiB)
    else await good.chunks()
  }
})
