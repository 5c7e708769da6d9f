/** Our client against servers that break the protocol, each in its own way: nothing of such a reply is believed. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { memoryDevice } from '../../../src/block/memory.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { connectNbd, type NbdClient } from '../../../src/nbd/client.ts'
import * as C from '../../../src/nbd/constants.ts'
import * as O from '../../../src/nbd/option-codec.ts'
import { serveNbd } from '../../../src/nbd/server.ts'
import type { RequestHeader } from '../../../src/nbd/wire.ts'
import {
  type Answer,
  brokenNbdServer,
  type Handshake,
  honestHandshake,
  Replies,
} from '../../doubles/broken-nbd-server.ts'
import { freshSockets } from '../../doubles/fresh-sockets.ts'
import { patternBytes } from '../../doubles/pattern.ts'

const { folder, freshSocket } = await freshSockets()

const SIZE = 2 ** 20

const ack = (option: number) => O.encodeOptionReply(option, C.NBD_REP_ACK)
const info = (size: number) =>
  O.encodeOptionReply(C.NBD_OPT_GO, C.NBD_REP_INFO, O.encodeInfoExport(size, C.NBD_FLAG_HAS_FLAGS))
const honest = honestHandshake(SIZE)

/** A server whose answers are up to the test. */
const broken = (answer: Answer, handshake: Handshake = honest) => brokenNbdServer(freshSocket(), answer, handshake)

const connect = (socket: string): Promise<NbdClient> =>
  connectNbd({ socket, exportName: '', clock: systemClock, requestMs: 5000, handshakeMs: 5000 })

const replies = new Replies('structured')
const chunk = replies.chunk.bind(replies)
const data = replies.data.bind(replies)
const hole = replies.hole.bind(replies)
const simple = replies.simple.bind(replies)

const words = (...values: number[]): Buffer => {
  const bytes = Buffer.alloc(4 * values.length)
  for (const [i, value] of values.entries()) bytes.writeUInt32BE(value, 4 * i)
  return bytes
}

const LENGTH = 100_000
const AT = 4096

test('reads: wrong replies are refused, close the connection and never pass for data', async () => {
  const other = (request: RequestHeader) => ({ ...request, cookieLo: request.cookieLo + 1 })
  const cases: Record<string, Answer> = {
    'a cookie of no request': r => [data(other(r), AT, LENGTH)],
    'a cookie of another client': r => [data({ ...r, cookieHi: 1 }, AT, LENGTH)],
    'a bad magic': () => [Buffer.alloc(64, 3)],
    'a chunk before the request': r => [data(r, AT - 1, LENGTH)],
    'a chunk past the request': r => [data(r, AT + 1, LENGTH)],
    'a chunk at 2^63': r => [data(r, 2 ** 63, 10)],
    'a chunk longer than the request': r => [data(r, AT, LENGTH + 1)],
    'a chunk of 4 GiB': r => {
      const bytes = data(r, AT, 0)
      bytes.writeUInt32BE(0xffffffff, 16)
      return [bytes]
    },
    'an empty chunk': r => [data(r, AT, 0)],
    'a data chunk without its offset': r => [chunk(r, 1, C.NBD_REPLY_TYPE_OFFSET_DATA, Buffer.alloc(7))],
    'the same chunk twice': r => [data(r, AT, 100, 0), data(r, AT, 100, 0)],
    'overlapping chunks': r => [data(r, AT + 100, 1000, 0), data(r, AT, 101, 0)],
    'a hole over data': r => [data(r, AT, LENGTH, 0), hole(r, AT + 5, 5)],
    'a hole outside': r => [hole(r, AT, LENGTH + 1)],
    'a hole of nothing': r => [hole(r, AT, 0)],
    'a malformed hole': r => [chunk(r, 1, C.NBD_REPLY_TYPE_OFFSET_HOLE, Buffer.alloc(11))],
    'DONE too early': r => [data(r, AT, LENGTH - 1)],
    'DONE with nothing': r => [chunk(r, 1, C.NBD_REPLY_TYPE_NONE, Buffer.alloc(0))],
    'a gap': r => [data(r, AT, 1000, 0), data(r, AT + 1001, LENGTH - 1001)],
    'NONE without DONE': r => [chunk(r, 0, C.NBD_REPLY_TYPE_NONE, Buffer.alloc(0))],
    'NONE with a payload': r => [chunk(r, 1, C.NBD_REPLY_TYPE_NONE, Buffer.alloc(1))],
    'a simple reply': r => [simple(r)],
    'block status for a read': r => [chunk(r, 1, C.NBD_REPLY_TYPE_BLOCK_STATUS, words(1, LENGTH, 0))],
    'an unknown chunk': r => [chunk(r, 1, 77, Buffer.alloc(3))],
    'an error of 0': r => [chunk(r, 1, C.NBD_REPLY_TYPE_ERROR, Buffer.alloc(6))],
    'an error whose text is longer than itself': r => [
      chunk(r, 1, C.NBD_REPLY_TYPE_ERROR, Buffer.from([0, 0, 0, 5, 0, 9, 65])),
    ],
    'an error of a gigabyte': r => {
      const bytes = chunk(r, 1, C.NBD_REPLY_TYPE_ERROR, Buffer.alloc(6))
      bytes.writeUInt32BE(2 ** 30, 16)
      return [bytes]
    },
    'ten thousand scattered bytes': r => Array.from({ length: 10_000 }, (_, i) => data(r, AT + 2 * i, 1, 0)),
  }
  for (const [name, answer] of Object.entries(cases)) {
    await using server = await broken(answer)
    await using client = await connect(server.path)
    await assert.rejects(client.readInto(Buffer.alloc(LENGTH), AT), { code: 'nbd-protocol' }, name)
    await assert.rejects(client.readInto(Buffer.alloc(1), 0), { code: 'nbd-protocol' }, `${name}: closed`)
  }
})

test('reads: an error chunk anywhere fails that call alone, whatever data came with it', async () => {
  const error = (r: RequestHeader, flags: number) =>
    chunk(r, flags, C.NBD_REPLY_TYPE_ERROR, Buffer.from([0, 0, 0, 5, 0, 3, 98, 97, 100]))
  const cases: Record<string, Answer> = {
    last: r => [data(r, AT, LENGTH, 0), error(r, 1)],
    first: r => [error(r, 0), data(r, AT, LENGTH)],
    alone: r => [error(r, 1)],
    'of an unknown kind': r => [chunk(r, 1, C.NBD_REPLY_TYPE_ERROR_BIT + 99, Buffer.from([0, 0, 0, 5, 0, 0, 1, 2, 3]))],
  }
  for (const [name, answer] of Object.entries(cases)) {
    let count = 0
    await using server = await broken((r, later) =>
      count++ === 0 ? answer(r, later, replies, () => {}) : [data(r, r.offset, r.length)],
    )
    await using client = await connect(server.path)
    const failure = (error: unknown) => isLifeboatError(error, 'nbd-io') && error.details.errno === C.NBD_EIO
    await assert.rejects(client.readInto(Buffer.alloc(LENGTH), AT), failure, name)
    const target = Buffer.alloc(500)
    await client.readInto(target, 9)
    assert.ok(
      target.every(byte => byte === 7),
      name,
    )
  }
})

test('reads: chunks in any order and of any kind make one reply', async () => {
  await using server = await broken(r => [
    data(r, AT + 60_000, 40_000, 0),
    hole(r, AT + 1000, 59_000, 0),
    data(r, AT, 1000, 0),
    chunk(r, 1, C.NBD_REPLY_TYPE_NONE, Buffer.alloc(0)),
  ])
  await using client = await connect(server.path)
  const target = Buffer.alloc(LENGTH, 0xee)
  await client.readInto(target, AT)
  assert.ok(target.subarray(0, 1000).every(byte => byte === 7))
  assert.ok(target.subarray(1000, 60_000).every(byte => byte === 0))
  assert.ok(target.subarray(60_000).every(byte => byte === 7))
})

test('block status: lists that lie about lengths or contexts are refused; an overlong last extent is cut', async () => {
  const status = (r: RequestHeader, flags: number, ...values: number[]) =>
    chunk(r, flags, C.NBD_REPLY_TYPE_BLOCK_STATUS, words(...values))
  const cases: Record<string, Answer> = {
    'no extents': r => [status(r, 1, 1)],
    'a zero length': r => [status(r, 1, 1, 4096, 0, 0, 3)],
    'extents after the end': r => [status(r, 1, 1, SIZE, 0, 1, 0)],
    'another context': r => [status(r, 1, 2, SIZE, 0)],
    'the context twice': r => [status(r, 0, 1, SIZE, 0), status(r, 1, 1, SIZE, 0)],
    'no context at all': r => [chunk(r, 1, C.NBD_REPLY_TYPE_NONE, Buffer.alloc(0))],
    'half an extent': r => [status(r, 1, 1, SIZE)],
    data: r => [data(r, 0, 100)],
    'a simple success': r => [simple(r)],
    'a list too long to be one': r => {
      const bytes = status(r, 1, 1, SIZE, 0)
      bytes.writeUInt32BE(2 ** 31, 16)
      return [bytes]
    },
  }
  for (const [name, answer] of Object.entries(cases)) {
    await using server = await broken(answer)
    await using client = await connect(server.path)
    await assert.rejects(Array.fromAsync(client.extents({ offset: 0, length: SIZE })), { code: 'nbd-protocol' }, name)
  }
  await using server = await broken(r => [status(r, 1, 1, 4096, 0, 2 ** 31, 3)])
  await using client = await connect(server.path)
  assert.deepEqual(await Array.fromAsync(client.extents({ offset: 0, length: SIZE })), [
    { offset: 0, length: 4096, kind: 'data' },
    { offset: 4096, length: SIZE - 4096, kind: 'zero' },
  ])
})

test('handshakes that lie are refused, and leave nothing open', async () => {
  const go =
    (...replies: Uint8Array[]): Handshake =>
    option =>
      option === C.NBD_OPT_GO ? replies : honest(option)
  const endless = Array.from({ length: 2000 }, () =>
    O.encodeOptionReply(C.NBD_OPT_GO, C.NBD_REP_INFO, O.encodeInfoText(99, 'x')),
  )
  const tooLong = O.encodeOptionReply(C.NBD_OPT_GO, C.NBD_REP_INFO, Buffer.alloc(8))
  tooLong.writeUInt32BE(0xffffffff, 16)
  const blocks = (...sizes: [number, number, number]) =>
    O.encodeOptionReply(C.NBD_OPT_GO, C.NBD_REP_INFO, O.encodeInfoBlockSize(...sizes))
  const cases: Record<string, Handshake> = {
    'a size above 2^53': go(info(2 ** 53), ack(C.NBD_OPT_GO)),
    'a negative size': go(info(2 ** 64 - 2 ** 12), ack(C.NBD_OPT_GO)),
    'no size': go(ack(C.NBD_OPT_GO)),
    'a reply to another option': go(info(SIZE), ack(C.NBD_OPT_INFO)),
    'a bad magic': go(Buffer.alloc(20)),
    'an endless list': go(...endless),
    'a reply of 4 GiB': go(tooLong),
    'a block size of 3': go(info(SIZE), blocks(3, 4096, 2 ** 20), ack(C.NBD_OPT_GO)),
    'a maximum below the minimum': go(info(SIZE), blocks(4096, 4096, 512), ack(C.NBD_OPT_GO)),
    'a malformed context': option =>
      option === C.NBD_OPT_SET_META_CONTEXT
        ? [O.encodeOptionReply(option, C.NBD_REP_META_CONTEXT, Buffer.alloc(2)), ack(option)]
        : honest(option),
    'one id for two contexts': option =>
      option === C.NBD_OPT_SET_META_CONTEXT
        ? [
            O.encodeOptionReply(option, C.NBD_REP_META_CONTEXT, O.encodeContext(1, C.BASE_ALLOCATION)),
            O.encodeOptionReply(option, C.NBD_REP_META_CONTEXT, O.encodeContext(1, 'x:y')),
            ack(option),
          ]
        : honest(option),
    'replies before requests': go(info(SIZE), ack(C.NBD_OPT_GO), Buffer.alloc(100)),
  }
  for (const [name, handshake] of Object.entries(cases)) {
    await using server = await broken(() => [], handshake)
    await assert.rejects(
      async () => {
        await using client = await connect(server.path)
        await client.readInto(Buffer.alloc(1), 0)
      },
      { code: 'nbd-protocol' },
      name,
    )
  }
  await using demanding = await broken(
    () => [],
    option => [O.encodeOptionReply(option, C.NBD_REP_ERR_TLS_REQD)],
  )
  await assert.rejects(connect(demanding.path), { code: 'nbd-refused' })
  await assert.rejects(connect(join(folder, 'absent.sock')), { code: 'nbd-io', retry: 'transient' })
  await using silent = await broken(
    () => [],
    () => [],
  )
  await assert.rejects(connectNbd({ socket: silent.path, exportName: '', clock: systemClock, handshakeMs: 50 }), {
    code: 'nbd-io',
  })
  const stop = new AbortController()
  setTimeout(() => stop.abort(new Error('enough')), 20)
  await assert.rejects(
    connectNbd({ socket: silent.path, exportName: '', clock: systemClock, signal: stop.signal }),
    /enough/,
  )
})

test('a call aborted while its data arrives settles when its memory is no longer in use, and others go on', async () => {
  let rest = () => {}
  const half = Promise.withResolvers<void>()
  await using server = await broken((r, later) => {
    const bytes = data(r, r.offset, r.length)
    if (r.length < 600_000) return [bytes]
    rest = () => later(bytes.subarray(300_000))
    setTimeout(half.resolve, 20)
    return [bytes.subarray(0, 300_000)]
  })
  await using client = await connect(server.path)
  const stop = new AbortController()
  const target = Buffer.alloc(600_000)
  const call = client.readInto(target, 0, { signal: stop.signal }).finally(() => target.fill(0xee))
  const outcome = assert.rejects(call, /enough/)
  await half.promise
  stop.abort(new Error('enough'))
  setTimeout(rest, 20)
  await outcome
  await client.readInto(Buffer.alloc(100), 0)
  assert.ok(
    target.every(byte => byte === 0xee),
    'nothing landed after the call had settled',
  )
})

test('random replies of a mutating server: every outcome is an error or the right bytes (seed printed)', async t => {
  const bytes = patternBytes(SIZE)
  const seed = Number(process.env.LIFEBOAT_TEST_SEED ?? 20261121)
  t.diagnostic(`seed ${seed}`)
  let state = seed
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  let refused = 0
  for (let round = 0; round < 400; round++) {
    await using server = await broken(r => {
      const payload = Buffer.concat([Buffer.alloc(8), bytes.subarray(r.offset, r.offset + r.length)])
      payload.writeBigUInt64BE(BigInt(r.offset))
      const half = r.length >> 1
      const first = Buffer.alloc(8 + half)
      payload.copy(first)
      const second = Buffer.concat([Buffer.alloc(8), payload.subarray(8 + half)])
      second.writeBigUInt64BE(BigInt(r.offset + half))
      const reply = Buffer.concat([chunk(r, 0, 1, first), chunk(r, 1, 1, second)])
      // Only framing is mutated: payload bytes have no check of their own in NBD.
      for (let k = random(3) + 1; k > 0; k--) {
        const at = random(2) === 0 ? random(28) : 28 + half + random(28)
        reply[at] = random(256)
      }
      return [random(20) === 0 ? reply.subarray(0, random(reply.length)) : reply]
    })
    await using client = await connectNbd({ socket: server.path, exportName: '', clock: systemClock, requestMs: 40 })
    const length = 2 + random(2000)
    const offset = random(SIZE - length)
    const target = Buffer.alloc(length)
    try {
      await client.readInto(target, offset)
      assert.ok(target.equals(bytes.subarray(offset, offset + length)), `round ${round}`)
    } catch (error) {
      assert.match(String(error), /NBD server|READ failed/)
      refused++
    }
  }
  assert.ok(refused > 200)
})

test('all three header modes carry every command to our own server', async () => {
  for (const headers of ['simple', 'structured', 'extended'] as const) {
    const bytes = patternBytes(3 * SIZE)
    const socket = freshSocket()
    const exports = [{ name: 'disk', description: 'text', device: memoryDevice(bytes), readOnly: false }]
    await using _server = await serveNbd({ exports, listen: { socket }, clock: systemClock })
    await using client = await connectNbd({ socket, exportName: 'disk', headers, connections: 2, clock: systemClock })
    assert.deepEqual(
      [client.headers, client.description, client.size, client.connectionCount],
      [headers, 'text', 3 * SIZE, 2],
    )
    await client.write(patternBytes(100_000, 5), 77, { fua: true })
    assert.ok(bytes.subarray(77, 100_077).equals(patternBytes(100_000, 5)))
    await client.zero({ offset: SIZE, length: SIZE })
    await client.cache({ offset: 0, length: SIZE })
    await client.flush()
    const kinds = (await Array.fromAsync(client.extents({ offset: 0, length: 3 * SIZE }))).map(({ kind }) => kind)
    assert.deepEqual(kinds, headers === 'simple' ? ['data'] : ['data', 'zero', 'data'])
    const target = Buffer.alloc(3 * SIZE)
    await client.readInto(target, 0)
    assert.ok(target.equals(bytes))
    await assert.rejects(client.readInto(Buffer.alloc(1), 3 * SIZE), RangeError)
    await assert.rejects(client.write(Buffer.alloc(1), 3 * SIZE), RangeError)
  }
})
