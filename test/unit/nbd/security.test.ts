/**
 * What has gone wrong in other NBD programs, by the names under which it was published. Elsewhere: CVE-2021-3716, CVE-2019-14842
 * and CVE-2024-7383 in tls.test.ts; CVE-2022-0485 and CVE-2023-5215 also in client.test.ts.
 */
import assert from 'node:assert/strict'
import { connect, createServer } from 'node:net'
import { test } from 'node:test'
import type { BlockDevice } from '../../../src/block/block-device.ts'
import { memoryDevice } from '../../../src/block/memory.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { isLifeboatError, LifeboatError } from '../../../src/core/errors.ts'
import { MiB } from '../../../src/core/limits.ts'
import { connectNbd } from '../../../src/nbd/client.ts'
import * as C from '../../../src/nbd/constants.ts'
import type { NbdExport } from '../../../src/nbd/nbd-export.ts'
import * as O from '../../../src/nbd/option-codec.ts'
import { serveNbd } from '../../../src/nbd/server.ts'
import { brokenNbdServer, honestHandshake } from '../../doubles/broken-nbd-server.ts'
import { freshSockets } from '../../doubles/fresh-sockets.ts'
import { patternBytes } from '../../doubles/pattern.ts'
import { errorOf, RawNbdClient } from '../../doubles/raw-nbd-client.ts'

const { freshSocket } = await freshSockets()

const content = patternBytes(MiB)

/** A server of one export, with what it logged and what of its device was touched. */
async function serve(entry: Partial<NbdExport> = {}) {
  const log: string[] = []
  const touched: string[] = []
  const inner = memoryDevice(Buffer.from(content))
  const device = new Proxy(inner, {
    get(target, name: keyof BlockDevice) {
      if (name !== 'size' && name !== 'blockSize') touched.push(String(name))
      return target[name]
    },
  })
  const exports = [{ name: 'disk', device, readOnly: false, ...entry }]
  const listen = { host: '127.0.0.1', port: 0 }
  const server = await serveNbd({ exports, listen, clock: systemClock, log: line => log.push(line) })
  const port = 'port' in server.address ? server.address.port : 0
  const alive = async () => {
    await using client = await RawNbdClient.go(port, 'disk')
    client.request(C.NBD_CMD_READ, 7, 100)
    const reply = await client.reply(100)
    assert.deepEqual([reply.error, reply.payload.length], [0, 100])
    assert.ok(!log.some(line => line.includes('internal error')), log.join('\n'))
  }
  return Object.assign(server, { port, log, touched, alive })
}

const whole = Buffer.concat([
  Buffer.from([0, 0, 0, 3]),
  O.encodeOption(C.NBD_OPT_STRUCTURED_REPLY, Buffer.alloc(0)),
  O.encodeOption(C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries('disk', ['base:allocation'])),
  O.encodeOption(C.NBD_OPT_GO, O.encodeGo('disk', [0, 3])),
])

test('CVE-2013-7441: a client that goes after any byte of its handshake takes nobody with it', async () => {
  await using server = await serve()
  for (let length = 0; length <= whole.length; length++)
    for (const way of ['end', 'destroy', 'reset'] as const) {
      const socket = connect(server.port, '127.0.0.1')
      socket.on('error', () => {})
      await new Promise(resolve => socket.once('connect', resolve))
      await new Promise(resolve => socket.write(whole.subarray(0, length), resolve))
      if (way === 'end') socket.end()
      else if (way === 'destroy') socket.destroy()
      else socket.resetAndDestroy()
    }
  await server.alive()
})

test('CVE-2019-14850: nothing is opened, read or asked of a device before an export was chosen', async () => {
  await using server = await serve()
  const clients = await Promise.all(Array.from({ length: 50 }, () => RawNbdClient.open(server.port)))
  for (const client of clients) {
    await client.option(C.NBD_OPT_STRUCTURED_REPLY)
    await client.option(C.NBD_OPT_LIST)
    await client.option(C.NBD_OPT_INFO, O.encodeGo('disk', [0, 1, 2, 3]))
    await client.option(C.NBD_OPT_LIST_META_CONTEXT, O.encodeMetaQueries('disk', []))
    await client.option(C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries('disk', ['base:allocation']))
  }
  assert.deepEqual(
    server.touched.filter(name => name !== 'write' && name !== 'extents'),
    [],
    'whether it can be written to and has extents is all that was looked at',
  )
  for (const client of clients) await client[Symbol.asyncDispose]()
  await server.alive()
  assert.ok(server.touched.includes('borrow'))
})

test('CVE-2019-14851: options and commands in odd orders are answered or end their own connection', async () => {
  await using server = await serve()
  const options = [
    [C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries('disk', ['base:allocation'])],
    [C.NBD_OPT_EXTENDED_HEADERS, Buffer.alloc(0)],
    [C.NBD_OPT_STRUCTURED_REPLY, Buffer.alloc(0)],
    [C.NBD_OPT_EXTENDED_HEADERS, Buffer.alloc(0)],
    [C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries('nothing', [])],
    [C.NBD_OPT_STARTTLS, Buffer.alloc(0)],
    [C.NBD_OPT_INFO, O.encodeGo('nothing', [])],
    [C.NBD_OPT_LIST, Buffer.alloc(0)],
  ] as const
  for (let rotation = 0; rotation < options.length; rotation++) {
    await using client = await RawNbdClient.open(server.port)
    for (const [option, payload] of [...options.slice(rotation), ...options.slice(0, rotation)])
      assert.ok((await client.option(option, payload)).length > 0)
    client.mode = 'extended'
    await client.option(C.NBD_OPT_GO, O.encodeGo('disk', []))
    for (const type of [C.NBD_CMD_BLOCK_STATUS, C.NBD_CMD_FLUSH, 99, C.NBD_CMD_CACHE, C.NBD_CMD_READ]) {
      client.request(type, 0, type === C.NBD_CMD_FLUSH ? 0 : 512)
      await client.chunks()
    }
    client.request(C.NBD_CMD_DISC, 0, 0)
    client.request(C.NBD_CMD_READ, 0, 512)
    await client.closed
    assert.equal(client.unread, 0, 'nothing is answered behind DISC')
  }
  // A command where an option is due, and an option where a command is due.
  await using early = await RawNbdClient.open(server.port)
  early.request(C.NBD_CMD_READ, 0, 512)
  await early.closed
  await using late = await RawNbdClient.go(server.port, 'disk')
  late.write(O.encodeOption(C.NBD_OPT_LIST, Buffer.alloc(100)))
  await late.closed
  await server.alive()
})

test('CVE-2024-7409: a server that stops while clients arrive and haggle ends in order', async () => {
  for (let round = 0; round < 10; round++) {
    const server = await serve()
    const arriving = Array.from({ length: 40 }, async (_, i) => {
      try {
        await using client = await RawNbdClient.connect(server.port)
        client.write(whole.subarray(0, (i * 7) % (whole.length + 1)))
        await client.closed
      } catch {}
    })
    await new Promise(resolve => setTimeout(resolve, round))
    await server.stop()
    await Promise.all(arriving)
    assert.deepEqual([server.halfOpenCount, server.connectionCount], [0, 0])
  }
})

test('CVE-2025-47711, CVE-2025-47712: block status of the largest lengths, over extents longer than 32 bits', async () => {
  const size = 2 ** 42
  const device = {
    ...memoryDevice(Buffer.alloc(0)),
    size,
    extents: async function* ({ offset, length }: { offset: number; length: number }) {
      yield { offset, length, kind: 'zero' as const }
    },
  }
  await using server = await serve({ device, readOnly: true })
  for (const mode of ['structured', 'extended'] as const) {
    await using client = await RawNbdClient.go(server.port, 'disk', mode, ['base:allocation'])
    const lengths = mode === 'structured' ? [2 ** 32 - 1, 2 ** 31] : [2 ** 32 - 1, 2 ** 32, 2 ** 41, size]
    for (const length of lengths)
      for (const flags of [0, C.NBD_CMD_FLAG_REQ_ONE]) {
        client.request(C.NBD_CMD_BLOCK_STATUS, 0, length, flags)
        const [chunk] = await client.chunks()
        const wide = mode === 'extended'
        assert.equal(chunk!.type, wide ? C.NBD_REPLY_TYPE_BLOCK_STATUS_EXT : C.NBD_REPLY_TYPE_BLOCK_STATUS)
        let sum = 0
        const [start, step] = wide ? [8, 16] : [4, 8]
        for (let at = start; at < chunk!.payload.length; at += step) {
          const extent = wide ? Number(chunk!.payload.readBigUInt64BE(at)) : chunk!.payload.readUInt32BE(at)
          assert.ok(extent > 0)
          sum += extent
        }
        assert.ok(sum > 0 && sum <= length, `${mode} ${length}: ${sum}`)
      }
    client.request(C.NBD_CMD_BLOCK_STATUS, size - 1, 2 ** 32 - 1)
    assert.equal(errorOf(await client.reply()), C.NBD_EINVAL)
  }
})

test('CVE-2023-5215: a server that claims an impossible size is refused', async () => {
  for (const size of [2n ** 63n, 2n ** 64n - 1n, 2n ** 60n]) {
    const handshake = honestHandshake(0)
    const path = freshSocket()
    await using _server = await brokenNbdServer(
      path,
      () => [],
      option =>
        handshake(option).map(reply => {
          const bytes = Buffer.from(reply)
          // The reply with the size: a header of 20 bytes, the kind of information, then 64 bits.
          if (option === C.NBD_OPT_GO && bytes.length === 32) bytes.writeBigUInt64BE(size, 22)
          return bytes
        }),
    )
    await assert.rejects(connectNbd({ socket: path, exportName: '', clock: systemClock }), { code: 'nbd-protocol' })
  }
})

test('CVE-2021-20286: a server that dies after any byte of its handshake ends the call with an error', async () => {
  await using server = await serve()
  await using recorder = await RawNbdClient.connect(server.port)
  const parts: Buffer[] = []
  recorder.socket.on('data', part => parts.push(part))
  recorder.write(whole)
  await recorder.read(18)
  for (let options = 0; options < 3; options++) await recorder.optionReplies()
  const said = Buffer.concat(parts)
  for (let length = 0; length < said.length; length++) {
    const path = freshSocket()
    const dying = createServer(socket => {
      socket.on('error', () => {})
      socket.resume()
      if (length === 0) socket.destroy()
      else socket.write(said.subarray(0, length), () => setImmediate(() => socket.destroy()))
    })
    await new Promise<void>(resolve => dying.listen(path, resolve))
    const outcome = await connectNbd({ socket: path, exportName: 'disk', clock: systemClock }).catch(error => error)
    assert.ok(isLifeboatError(outcome, 'nbd-io'), `after ${length} bytes: ${outcome}`)
    dying.close()
  }
})

test("nbdkit's aborts: FAST_ZERO where it was not offered, and clients that vanish with replies in flight", async () => {
  await using server = await serve({ fastZero: false })
  for (const mode of ['simple', 'structured', 'extended'] as const) {
    await using client = await RawNbdClient.go(server.port, 'disk', mode)
    for (const flags of [C.NBD_CMD_FLAG_FAST_ZERO, C.NBD_CMD_FLAG_FAST_ZERO | C.NBD_CMD_FLAG_NO_HOLE, 0xffff]) {
      client.request(C.NBD_CMD_WRITE_ZEROES, 0, 4096, flags & ~C.NBD_CMD_FLAG_PAYLOAD_LEN)
      assert.equal(errorOf(await client.reply()), C.NBD_EINVAL)
    }
    for (let i = 0; i < 20; i++) {
      const vanishing = await RawNbdClient.go(server.port, 'disk', mode)
      for (let k = 0; k < 64; k++) vanishing.request(C.NBD_CMD_READ, 0, MiB, 0, k)
      if (i % 2 === 0) vanishing.socket.resetAndDestroy()
      else await vanishing[Symbol.asyncDispose]()
    }
  }
  await server.alive()
})

test('what clients are told holds no path, key or bucket of this host; what they say is escaped and rationed in the log', async () => {
  const secret = ['/srv/secret/disk.raw', 's3://bucket/key', 'AKIAEXAMPLE']
  const failing = async () => {
    throw new LifeboatError('store-denied', `cannot read ${secret.join(' ')}`, { details: { object: secret[1] } })
  }
  const { borrow: _, ...inner } = memoryDevice(Buffer.alloc(MiB))
  const device = { ...inner, readInto: failing, write: failing, zero: failing, trim: failing, flush: failing }
  await using server = await serve({ device })
  const heard: Buffer[] = []
  const evil = '\u001b[31m\n"},{"level":"alert"\r\u202e\u0000'.repeat(5)
  for (const mode of ['simple', 'structured', 'extended'] as const) {
    await using client = await RawNbdClient.open(server.port)
    for (const name of ['../../etc/passwd', '/srv/secret/disk.raw', evil.replaceAll('\0', ''), evil, 'x'.repeat(4096)])
      for (const option of [C.NBD_OPT_GO, C.NBD_OPT_INFO])
        heard.push(...(await client.option(option, O.encodeGo(name, [0, 1, 2, 3]))).map(({ payload }) => payload))
    await using inside = await RawNbdClient.go(server.port, 'disk', mode)
    for (const type of [C.NBD_CMD_READ, C.NBD_CMD_WRITE_ZEROES, C.NBD_CMD_TRIM, C.NBD_CMD_FLUSH, C.NBD_CMD_CACHE]) {
      inside.request(type, 0, type === C.NBD_CMD_FLUSH ? 0 : 512)
      const reply = await inside.reply()
      assert.notEqual(errorOf(reply), 0)
      heard.push(reply.payload)
    }
  }
  const all = Buffer.concat(heard).toString('latin1')
  for (const word of [...secret, 'srv', 'bucket', 'passwd']) assert.ok(!all.includes(word), word)
  for (let i = 0; i < 500; i++) {
    await using client = await RawNbdClient.open(server.port)
    await client.option(C.NBD_OPT_GO, O.encodeGo(`flood ${i}`, []))
  }
  for (const line of server.log) assert.match(line, /^[\x20-\x7e]{0,400}$/)
  assert.ok(server.log.length < 200, `${server.log.length} lines`)
})
