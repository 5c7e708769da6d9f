/**
 * The protocol, row by row, as our server keeps it, in each header mode: 1.1 handshake and options, 1.2 transmission flags,
 * 1.3 commands. docs/nbd.md has the same rows for people. Each line is a rule; what TLS adds is in test/unit/nbd/tls.test.ts.
 */
import assert from 'node:assert/strict'
import { Socket } from 'node:net'
import { type TestContext, test } from 'node:test'
import type { BlockDevice, BlockReader } from '../../src/block/block-device.ts'
import { markedExtents } from '../../src/block/marked-extents.ts'
import { memoryDevice } from '../../src/block/memory.ts'
import { systemClock } from '../../src/core/clock.ts'
import { LifeboatError } from '../../src/core/errors.ts'
import { GiB, KiB, MiB } from '../../src/core/limits.ts'
import { connectNbd } from '../../src/nbd/client.ts'
import { encodeFilter } from '../../src/nbd/commands.ts'
import * as C from '../../src/nbd/constants.ts'
import type { NbdExport } from '../../src/nbd/nbd-export.ts'
import * as O from '../../src/nbd/option-codec.ts'
import { type NbdServer, type ServeNbdOptions, serveNbd } from '../../src/nbd/server.ts'
import { type HeaderMode, readU64 } from '../../src/nbd/wire.ts'
import { freshSockets } from '../doubles/fresh-sockets.ts'
import { gatedDevice } from '../doubles/gated-device.ts'
import { manualClock } from '../doubles/manual-clock.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { errorOf, RawNbdClient, type RawReply } from '../doubles/raw-nbd-client.ts'
import { sparseDevice } from '../doubles/sparse-device.ts'

const { freshSocket } = await freshSockets()

const SIZE = MiB
const WRITTEN = 'qemu:dirty-bitmap:written'
const BOTH = [C.BASE_ALLOCATION, WRITTEN]

type Served = NbdServer & { readonly path: string }

/** 1 MiB with a hole in the second quarter, of which the last quarter was written. Not even a READ is lent, so that all paths are gone. */
async function serve(entry: Partial<NbdExport> = {}, options: Partial<ServeNbdOptions> = {}): Promise<Served> {
  const path = freshSocket()
  const exports = [
    {
      name: 'disk',
      description: 'a disk',
      readOnly: false,
      contexts: [written],
      ...entry,
      device: entry.device ?? disk(),
    },
  ]
  const said: string[] = []
  const log = (line: string) => void said.push(line)
  const server = await serveNbd({ exports, listen: { socket: path }, clock: systemClock, log, ...options })
  return Object.assign(server, {
    path,
    async [Symbol.asyncDispose]() {
      await server.stop()
      // Whoever is to be closed for what he said must not be closed for being slow: that would pass for it.
      if (options.clock === undefined) assert.ok(!said.some(line => line.includes('deadline')), said.join('\n'))
    },
  })
}

const written = {
  name: WRITTEN,
  extents: (range: { offset: number; length: number }) =>
    markedExtents(range, [{ offset: 768 * KiB, length: 256 * KiB }]),
}

function contents(): Buffer {
  const bytes = patternBytes(SIZE)
  bytes.fill(0, 256 * KiB, 512 * KiB)
  return bytes
}

function disk(bytes = contents()): BlockDevice {
  const { borrow: _, ...device } = memoryDevice(bytes)
  return device
}

async function haggling(server: Served, mode: HeaderMode, flags = 3): Promise<RawNbdClient> {
  const client = await RawNbdClient.open(server.path, flags)
  client.mode = mode
  if (mode === 'structured') assert.deepEqual(await types(client, C.NBD_OPT_STRUCTURED_REPLY), [C.NBD_REP_ACK])
  if (mode === 'extended') assert.deepEqual(await types(client, C.NBD_OPT_EXTENDED_HEADERS), [C.NBD_REP_ACK])
  return client
}

const going = (server: Served, mode: HeaderMode, contexts: readonly string[] = []): Promise<RawNbdClient> =>
  RawNbdClient.go(server.path, 'disk', mode, mode === 'simple' ? [] : contexts)

const types = async (client: RawNbdClient, option: number, payload?: Uint8Array): Promise<number[]> =>
  (await client.option(option, payload)).map(({ type }) => type)

/** True where a connection is alive and in step: it answers one more request. */
async function alive(client: RawNbdClient): Promise<void> {
  assert.equal((await ask(client, C.NBD_CMD_FLUSH, 0, 0)).error, 0, 'the connection goes on')
}
/** The same before transmission. */
const hearing = async (client: RawNbdClient): Promise<void> =>
  assert.deepEqual(await types(client, C.NBD_OPT_LIST), [C.NBD_REP_SERVER, C.NBD_REP_ACK])

interface Answer {
  readonly error: number
  readonly chunks: readonly RawReply[]
  /** READ, put together. */
  readonly data: Buffer
}

let cookies = 0

/** Sends a request and checks of its reply what holds for all: the cookie, the mode's framing, DONE last, the request's offset. */
async function ask(
  client: RawNbdClient,
  type: number,
  offset: number,
  length: number,
  flags = 0,
  payload?: Uint8Array,
): Promise<Answer> {
  const cookie = ++cookies
  const wide = client.mode === 'extended'
  const writing = wide && type === C.NBD_CMD_WRITE ? C.NBD_CMD_FLAG_PAYLOAD_LEN : 0
  client.request(type, offset, length, flags | writing, cookie, payload)
  const isRead = type === C.NBD_CMD_READ
  const chunks = client.mode === 'simple' ? [await client.reply(isRead ? length : 0)] : await client.chunks()
  const data = isRead && length <= 2 ** 27 ? Buffer.alloc(length, 0xee) : Buffer.alloc(0)
  for (const [i, chunk] of chunks.entries()) {
    assert.deepEqual([chunk.cookieHi, chunk.cookieLo], [1, cookie])
    if (wide || (client.mode === 'structured' && isRead)) assert.equal(chunk.kind, 'chunk')
    if (client.mode === 'simple') assert.equal(chunk.kind, 'simple')
    if (chunk.kind === 'chunk') assert.equal((chunk.flags & C.NBD_REPLY_FLAG_DONE) !== 0, i === chunks.length - 1)
    if (wide) assert.equal(chunk.offset, offset)
    if (chunk.kind === 'simple') chunk.payload.copy(data)
    else if (chunk.type === C.NBD_REPLY_TYPE_OFFSET_DATA)
      chunk.payload.copy(data, Number(chunk.payload.readBigUInt64BE()) - offset, 8)
    else if (chunk.type === C.NBD_REPLY_TYPE_OFFSET_HOLE) {
      const start = Number(chunk.payload.readBigUInt64BE()) - offset
      data.fill(0, start, start + chunk.payload.readUInt32BE(8))
    }
  }
  return { error: chunks.map(errorOf).find(error => error !== 0) ?? 0, chunks, data }
}

/** Lists of a BLOCK_STATUS by context id. */
function lists({ chunks }: Answer, mode: HeaderMode): Map<number, [number, number][]> {
  const wide = mode === 'extended'
  const found = new Map<number, [number, number][]>()
  for (const { type, payload } of chunks) {
    assert.equal(type, wide ? C.NBD_REPLY_TYPE_BLOCK_STATUS_EXT : C.NBD_REPLY_TYPE_BLOCK_STATUS)
    const list: [number, number][] = []
    for (let at = wide ? 8 : 4; at < payload.length; at += wide ? 16 : 8)
      list.push(
        wide
          ? [readU64(payload, at), readU64(payload, at + 8)]
          : [payload.readUInt32BE(at), payload.readUInt32BE(at + 4)],
      )
    if (wide) assert.equal(payload.readUInt32BE(4), list.length)
    assert.ok(!found.has(payload.readUInt32BE(0)), 'one chunk for each context')
    found.set(payload.readUInt32BE(0), list)
  }
  return found
}

const EVERY: readonly HeaderMode[] = ['simple', 'structured', 'extended']
const CHUNKED: readonly HeaderMode[] = ['structured', 'extended']

function rule(text: string, check: (mode: HeaderMode, t: TestContext) => Promise<void>, modes = EVERY): void {
  for (const mode of modes) test(`${text} (${mode})`, t => check(mode, t))
}

// 1.1 Handshake and options

rule('1.1.1 greeting: fixed newstyle and NO_ZEROES, no other bit; an unknown client flag closes', async () => {
  await using server = await serve()
  await using client = await RawNbdClient.connect(server.path)
  assert.deepEqual(await client.read(18), Buffer.from('NBDMAGICIHAVEOPT\0\x03'))
  for (const flag of [4, 0x80]) {
    await using odd = await RawNbdClient.open(server.path, 3 | flag)
    await odd.closed
  }
}, ['simple'])

rule('1.1.2 a client without FIXED: EXPORT_NAME is served, anything else closes', async () => {
  await using server = await serve()
  await using client = await RawNbdClient.open(server.path, 0)
  client.write(O.encodeOption(C.NBD_OPT_EXPORT_NAME, Buffer.from('disk')))
  const reply = await client.read(134)
  assert.deepEqual([readU64(reply, 0), reply.subarray(10).every(byte => byte === 0)], [SIZE, true])
  await alive(client)
  await using other = await RawNbdClient.open(server.path, 0)
  other.write(O.encodeOption(C.NBD_OPT_LIST, Buffer.alloc(0)))
  await other.closed
  assert.equal(other.unread, 0)
}, ['simple'])

rule(
  '1.1.3 EXPORT_NAME: 10 bytes with NO_ZEROES, else 134; unknown closes; forbidden after extended headers',
  async mode => {
    await using server = await serve()
    for (const [flags, length] of [
      [3, 10],
      [1, 134],
    ] as const) {
      await using client = await haggling(server, mode, flags)
      client.write(O.encodeOption(C.NBD_OPT_EXPORT_NAME, Buffer.from('disk')))
      if (mode === 'extended') await client.closed
      else {
        assert.equal(readU64(await client.read(length), 0), SIZE)
        assert.equal((await ask(client, C.NBD_CMD_READ, 0, 512)).data.compare(contents(), 0, 512), 0)
      }
    }
    await using stranger = await haggling(server, mode)
    stranger.write(O.encodeOption(C.NBD_OPT_EXPORT_NAME, Buffer.from('nope')))
    await stranger.closed
  },
)

rule('1.1.4 ABORT: acknowledged whatever its data, then closed; a client need not wait', async mode => {
  await using server = await serve()
  for (const data of ['', 'bye']) {
    await using client = await haggling(server, mode)
    assert.deepEqual(await types(client, C.NBD_OPT_ABORT, Buffer.from(data)), [C.NBD_REP_ACK])
    await client.closed
  }
  const hasty = await haggling(server, mode)
  hasty.write(O.encodeOption(C.NBD_OPT_ABORT, Buffer.alloc(0)))
  hasty.socket.destroy()
  await using next = await going(server, mode)
  await alive(next)
})

rule('1.1.5 LIST: every export with its description; data is INVALID', async mode => {
  await using server = await serve()
  await using client = await haggling(server, mode)
  assert.deepEqual(await types(client, C.NBD_OPT_LIST, Buffer.from('x')), [C.NBD_REP_ERR_INVALID])
  const [entry, ack] = await client.option(C.NBD_OPT_LIST)
  assert.deepEqual(O.parseServer(entry!.payload), { name: 'disk', description: 'a disk' })
  assert.equal(ack?.type, C.NBD_REP_ACK)
})

rule(
  '1.1.6 INFO and GO: lengths must add up, EXPORT always, unknown names told, INFO as GO, no zeroes after GO',
  async mode => {
    await using server = await serve()
    await using client = await haggling(server, mode, 1)
    const good = O.encodeGo('disk', [C.NBD_INFO_NAME])
    for (const option of [C.NBD_OPT_INFO, C.NBD_OPT_GO]) {
      for (const bad of [
        Buffer.alloc(0),
        good.subarray(1),
        Buffer.concat([good, Buffer.alloc(1)]),
        Buffer.alloc(6, 0xff),
      ])
        assert.deepEqual(await types(client, option, bad), [C.NBD_REP_ERR_INVALID])
      assert.deepEqual(await types(client, option, O.encodeGo('nope', [])), [C.NBD_REP_ERR_UNKNOWN])
    }
    const info = await client.option(C.NBD_OPT_INFO, good)
    assert.deepEqual(await client.option(C.NBD_OPT_GO, good), info)
    assert.deepEqual(
      info.map(({ type }) => type),
      [C.NBD_REP_INFO, C.NBD_REP_INFO, C.NBD_REP_ACK],
    )
    await alive(client)
  },
)

rule('1.1.7 NAME and DESCRIPTION: the canonical name, also of the alias, and the text of LIST', async mode => {
  await using server = await serve()
  await using client = await haggling(server, mode)
  for (const name of ['disk', '']) {
    const replies = await client.option(C.NBD_OPT_INFO, O.encodeGo(name, [C.NBD_INFO_NAME, C.NBD_INFO_DESCRIPTION]))
    const texts = replies.map(({ payload }) => O.parseInfo(payload)).filter(info => info?.info === 'text')
    assert.deepEqual(
      texts.map(info => info.text),
      ['disk', 'a disk'],
    )
  }
  const two = ['disk', 'other'].map(name => ({ name, device: disk(), readOnly: true }))
  await using several = await serve({}, { exports: two })
  await using choosing = await haggling(several, mode)
  assert.deepEqual(await types(choosing, C.NBD_OPT_GO, O.encodeGo('', [])), [C.NBD_REP_ERR_UNKNOWN])
})

rule(
  '1.1.8 BLOCK_SIZE: powers of two, minimum <= 64 KiB, preferred >= 512, maximum >= both; the size is a multiple',
  async mode => {
    for (const [blockSize, wanted] of [
      [512, 4096],
      [4096, 4096],
      [65_536, 65_536],
      [96 * KiB, 65_536],
      [16 * MiB, 4 * MiB],
    ] as const) {
      await using server = await serve({ device: { ...disk(), blockSize } })
      await using client = await haggling(server, mode)
      const replies = await client.option(C.NBD_OPT_INFO, O.encodeGo('disk', [C.NBD_INFO_BLOCK_SIZE]))
      const sizes = replies.map(({ payload }) => O.parseInfo(payload)).find(info => info?.info === 'block-size')
      assert.ok(sizes)
      const { minimum, preferred, maximum } = sizes
      assert.deepEqual([minimum, maximum], [1, 32 * MiB])
      assert.equal(preferred, wanted)
    }
  },
)

rule('1.1.9 no size has to be asked for: GO without it is served, and so is any alignment', async mode => {
  await using server = await serve()
  await using client = await going(server, mode)
  const { error, data } = await ask(client, C.NBD_CMD_READ, 3, 7)
  assert.deepEqual([error, data], [0, contents().subarray(3, 10)])
})

rule('1.1.10 STARTTLS: data is INVALID; without TLS it is UNSUP, and the next option is heard', async mode => {
  await using server = await serve()
  await using client = await haggling(server, mode)
  assert.deepEqual(await types(client, C.NBD_OPT_STARTTLS, Buffer.from('x')), [C.NBD_REP_ERR_INVALID])
  assert.deepEqual(await types(client, C.NBD_OPT_STARTTLS), [C.NBD_REP_ERR_UNSUP])
  await hearing(client)
})

rule('1.1.13 STRUCTURED_REPLY: no data, once, and not after extended headers', async mode => {
  await using server = await serve()
  await using client = await haggling(server, mode)
  assert.deepEqual(await types(client, C.NBD_OPT_STRUCTURED_REPLY, Buffer.from('x')), [C.NBD_REP_ERR_INVALID])
  const due = { simple: C.NBD_REP_ACK, structured: C.NBD_REP_ERR_INVALID, extended: C.NBD_REP_ERR_EXT_HEADER_REQD }
  assert.deepEqual(await types(client, C.NBD_OPT_STRUCTURED_REPLY), [due[mode]])
})

rule(
  '1.1.14 LIST_META_CONTEXT and SET_META_CONTEXT: INVALID before chunks and for broken lengths; strangers ignored; wildcards list and never select',
  async mode => {
    await using server = await serve()
    await using client = await haggling(server, mode)
    const query = (...queries: string[]) => O.encodeMetaQueries('disk', queries)
    for (const option of [C.NBD_OPT_LIST_META_CONTEXT, C.NBD_OPT_SET_META_CONTEXT]) {
      if (mode === 'simple') assert.deepEqual(await types(client, option, query()), [C.NBD_REP_ERR_INVALID])
      const good = query('base:allocation')
      for (const bad of [
        Buffer.alloc(0),
        good.subarray(0, -1),
        Buffer.concat([good, Buffer.alloc(1)]),
        Buffer.alloc(12, 0xff),
      ])
        assert.deepEqual(await types(client, option, bad), [C.NBD_REP_ERR_INVALID])
      if (mode === 'simple') continue
      assert.deepEqual(await types(client, option, O.encodeMetaQueries('nope', [])), [C.NBD_REP_ERR_UNKNOWN])
      assert.deepEqual(await types(client, option, query('x-other:y', 'base:nope', 'qemu:nope')), [C.NBD_REP_ACK])
    }
    if (mode === 'simple') return
    const named = async (option: number, ...queries: string[]) =>
      (await client.option(option, query(...queries)))
        .slice(0, -1)
        .map(({ payload }) => [payload.readUInt32BE(), payload.toString('utf8', 4)])
    const all = BOTH.map(name => [0, name])
    assert.deepEqual(await named(C.NBD_OPT_LIST_META_CONTEXT), all)
    assert.deepEqual(await named(C.NBD_OPT_LIST_META_CONTEXT, 'base:', 'qemu:'), all)
    assert.deepEqual(await named(C.NBD_OPT_SET_META_CONTEXT), [])
    assert.deepEqual(await named(C.NBD_OPT_SET_META_CONTEXT, 'base:', 'qemu:'), [])
    assert.deepEqual(await named(C.NBD_OPT_SET_META_CONTEXT, WRITTEN, ...BOTH, WRITTEN), [
      [1, BOTH[0]],
      [2, BOTH[1]],
    ])
  },
)

rule(
  '1.1.14 SET_META_CONTEXT replaces always, even when it fails, and counts for its own name only',
  async mode => {
    await using server = await serve()
    const works = async (contexts: (client: RawNbdClient) => Promise<unknown>, name = 'disk') => {
      await using client = await haggling(server, mode)
      await client.option(C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries('disk', BOTH))
      await contexts(client)
      await client.option(C.NBD_OPT_GO, O.encodeGo(name, []))
      return (await ask(client, C.NBD_CMD_BLOCK_STATUS, 0, 512)).error
    }
    assert.equal(await works(async () => {}), 0)
    assert.equal(
      await works(client => client.option(C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries('disk', []))),
      C.NBD_EINVAL,
    )
    assert.equal(
      await works(client => client.option(C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries('nope', BOTH))),
      C.NBD_EINVAL,
    )
    assert.equal(await works(client => client.option(C.NBD_OPT_SET_META_CONTEXT, Buffer.alloc(3))), C.NBD_EINVAL)
    assert.equal(await works(async () => {}, ''), C.NBD_EINVAL)
  },
  CHUNKED,
)

rule('1.1.15 EXTENDED_HEADERS: no data, once; before or after structured replies; GO is served', async mode => {
  await using server = await serve()
  await using client = await haggling(server, mode)
  assert.deepEqual(await types(client, C.NBD_OPT_EXTENDED_HEADERS, Buffer.from('x')), [C.NBD_REP_ERR_INVALID])
  const due = mode === 'extended' ? C.NBD_REP_ERR_INVALID : C.NBD_REP_ACK
  assert.deepEqual(await types(client, C.NBD_OPT_EXTENDED_HEADERS), [due])
  client.mode = 'extended'
  assert.deepEqual(await types(client, C.NBD_OPT_GO, O.encodeGo('disk', [])), [C.NBD_REP_INFO, C.NBD_REP_ACK])
  await alive(client)
})

rule('1.1.16 an unknown option is UNSUP, its payload is passed over, and the next one is heard', async mode => {
  await using server = await serve()
  await using client = await haggling(server, mode)
  for (const option of [4, 12, 99, 0xffffffff])
    for (const length of [0, 1, 60_000])
      assert.deepEqual(await types(client, option, Buffer.alloc(length, 1)), [C.NBD_REP_ERR_UNSUP])
  // Far more than one read of the socket gives, and less than all of it.
  const whole = O.encodeOption(99, Buffer.alloc(60_000, 1))
  client.write(whole.subarray(0, 100))
  await new Promise(resolve => setTimeout(resolve, 50))
  client.write(Buffer.concat([whole.subarray(100), O.encodeOption(12, Buffer.alloc(3))]))
  for (const option of [99, 12]) {
    const header = O.parseOptionReplyHeader(await client.read(20))
    assert.deepEqual([header?.option, header?.type], [option, C.NBD_REP_ERR_UNSUP])
    await client.read(header?.length ?? 0)
  }
  await hearing(client)
})

rule('1.1.17 strings: names and queries that are too long, hold a NUL or are not UTF-8 are INVALID', async mode => {
  await using server = await serve()
  await using client = await haggling(server, mode)
  for (const name of ['x'.repeat(4097), 'a\0b'])
    assert.deepEqual(await types(client, C.NBD_OPT_GO, O.encodeGo(name, [])), [C.NBD_REP_ERR_INVALID])
  const binary = O.encodeGo('ab', [])
  binary[4] = 0xff
  assert.deepEqual(await types(client, C.NBD_OPT_INFO, binary), [C.NBD_REP_ERR_INVALID])
  for (const query of ['x'.repeat(4097), 'base:\0'])
    assert.deepEqual(await types(client, C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries('disk', [query])), [
      C.NBD_REP_ERR_INVALID,
    ])
  assert.deepEqual(await types(client, C.NBD_OPT_GO, O.encodeGo('x'.repeat(4096), [])), [C.NBD_REP_ERR_UNKNOWN])
})

rule('1.1.18 the size of an option is bounded before anything is allocated: 64 KiB, 1 MiB for contexts', async mode => {
  await using server = await serve()
  for (const [option, longest] of [
    [C.NBD_OPT_GO, 65_536],
    [99, 65_536],
    [C.NBD_OPT_LIST_META_CONTEXT, MiB],
  ] as const)
    for (const length of [longest + 1, 0xffffffff]) {
      await using client = await haggling(server, mode)
      const header = O.encodeOption(option, Buffer.alloc(0))
      header.writeUInt32BE(length, 12)
      client.write(header)
      await client.closed
    }
  await using client = await haggling(server, mode)
  await types(
    client,
    C.NBD_OPT_LIST_META_CONTEXT,
    O.encodeMetaQueries(
      'disk',
      Array.from({ length: 250 }, () => 'x'.repeat(4096)),
    ),
  )
  await hearing(client)
})

rule('1.1.19 haggling ends: after 256 options, and after 10 s', async mode => {
  const clock = manualClock()
  await using server = await serve({}, { clock })
  const client = await haggling(server, mode)
  client.write(Buffer.concat(Array.from({ length: 300 }, () => O.encodeOption(99, Buffer.alloc(0)))))
  await client.closed
  await using slow = await haggling(server, mode)
  await clock.advance(9_900)
  await hearing(slow)
  // The server looks once a second.
  await clock.advance(1100)
  await slow.closed
})

rule(
  '1.1.20 TCP: no delay, and keep-alive',
  async (_mode, t) => {
    const noDelay = t.mock.method(Socket.prototype, 'setNoDelay')
    const keepAlive = t.mock.method(Socket.prototype, 'setKeepAlive')
    const exports = [{ name: 'disk', device: disk(), readOnly: true }]
    await using server = await serveNbd({ exports, listen: { host: '127.0.0.1', port: 0 }, clock: systemClock })
    assert.ok('port' in server.address)
    await using _client = await connectNbd({ ...server.address, exportName: 'disk', clock: systemClock })
    assert.ok(noDelay.mock.calls.some(({ arguments: [on] }) => on === true))
    assert.ok(keepAlive.mock.calls.some(({ arguments: [on] }) => on === true))
  },
  ['simple'],
)

// 1.2 Transmission flags

async function flagsOf(server: Served, mode: HeaderMode, contexts: readonly string[] = []): Promise<number> {
  const client = await haggling(server, mode)
  await using _closing = client
  if (contexts.length > 0) await client.option(C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries('disk', contexts))
  const [info] = await client.option(C.NBD_OPT_GO, O.encodeGo('disk', []))
  return info!.payload.readUInt16BE(10)
}

rule('1.2 flags of a writable and of a read-only export, bit by bit', async mode => {
  const always = C.NBD_FLAG_HAS_FLAGS | C.NBD_FLAG_SEND_FLUSH | C.NBD_FLAG_CAN_MULTI_CONN | C.NBD_FLAG_SEND_CACHE
  const chunks = mode === 'simple' ? 0 : C.NBD_FLAG_SEND_DF
  const writing = C.NBD_FLAG_SEND_FUA | C.NBD_FLAG_SEND_TRIM | C.NBD_FLAG_SEND_WRITE_ZEROES
  await using fast = await serve({ fastZero: true })
  await using plain = await serve()
  await using readOnly = await serve({ readOnly: true, fastZero: true })
  assert.equal(await flagsOf(fast, mode), always | chunks | writing | C.NBD_FLAG_SEND_FAST_ZERO)
  assert.equal(await flagsOf(plain, mode), always | chunks | writing)
  assert.equal(await flagsOf(readOnly, mode), always | chunks | C.NBD_FLAG_READ_ONLY)
  const payload = mode === 'extended' ? C.NBD_FLAG_BLOCK_STATUS_PAYLOAD : 0
  if (mode !== 'simple') assert.equal(await flagsOf(plain, mode, BOTH), always | chunks | writing | payload)
})

rule('1.2 READ_ONLY: every write command is EPERM, its payload consumed', async mode => {
  await using server = await serve({ readOnly: true })
  await using client = await going(server, mode)
  for (const type of [C.NBD_CMD_WRITE, C.NBD_CMD_WRITE_ZEROES, C.NBD_CMD_TRIM])
    for (const flags of [0, C.NBD_CMD_FLAG_FUA, C.NBD_CMD_FLAG_DF])
      assert.equal(
        (await ask(client, type, 0, 512, flags, type === C.NBD_CMD_WRITE ? Buffer.alloc(512) : undefined)).error,
        C.NBD_EPERM,
      )
  await alive(client)
})

rule('1.2 CAN_MULTI_CONN: what one connection wrote the others read, and their FLUSH covers it', async mode => {
  const durable: string[] = []
  let pending = ''
  const inner = disk()
  const device: BlockDevice = {
    ...inner,
    write: async (source, offset, options) => {
      await inner.write(source, offset)
      pending = Buffer.from(source.subarray(0, 4)).toString()
      if (options?.fua) durable.push(`fua ${pending}`)
    },
    flush: async () => {
      durable.push(`flush ${pending}`)
    },
  }
  await using server = await serve({ device })
  await using one = await going(server, mode)
  await using two = await going(server, mode)
  await ask(one, C.NBD_CMD_WRITE, 0, 512, 0, Buffer.alloc(512, 'one '))
  assert.ok((await ask(two, C.NBD_CMD_READ, 0, 512)).data.equals(Buffer.alloc(512, 'one ')))
  assert.equal((await ask(two, C.NBD_CMD_FLUSH, 0, 0)).error, 0)
  await ask(two, C.NBD_CMD_WRITE, 0, 512, C.NBD_CMD_FLAG_FUA, Buffer.alloc(512, 'two '))
  assert.ok((await ask(one, C.NBD_CMD_READ, 0, 512)).data.equals(Buffer.alloc(512, 'two ')))
  assert.deepEqual(durable, ['flush one ', 'fua two '])
})

// 1.3 Commands

rule('READ: chunks inside the request, none over another, covering all; also for errors', async mode => {
  await using server = await serve()
  await using client = await going(server, mode)
  for (const [offset, length] of [
    [0, 1],
    [1, 512],
    [255 * KiB, 100 * KiB],
    [200 * KiB, 400 * KiB],
    [0, SIZE],
    [SIZE - 1, 1],
  ] as const) {
    const { error, chunks, data } = await ask(client, C.NBD_CMD_READ, offset, length)
    assert.deepEqual([error, data.compare(contents(), offset, offset + length)], [0, 0])
    const covered = chunks.filter(({ kind, type }) => kind === 'chunk' && type !== C.NBD_REPLY_TYPE_NONE)
    const sizes = covered.map(({ type, payload }) =>
      type === C.NBD_REPLY_TYPE_OFFSET_DATA ? payload.length - 8 : payload.readUInt32BE(8),
    )
    if (mode !== 'simple')
      assert.equal(
        sizes.reduce((sum, size) => sum + size, 0),
        length,
      )
    assert.ok(sizes.every(size => size > 0))
  }
  const holes = (await ask(client, C.NBD_CMD_READ, 200 * KiB, 400 * KiB)).chunks.filter(
    ({ type }) => type === C.NBD_REPLY_TYPE_OFFSET_HOLE,
  )
  assert.equal(holes.length, mode === 'simple' ? 0 : 1)
  for (const [offset, length] of [
    [SIZE, 1],
    [SIZE - 1, 2],
    [2 ** 63, 1],
    [2 ** 64 - 4096, 1],
  ] as const)
    assert.equal((await ask(client, C.NBD_CMD_READ, offset, length)).error, C.NBD_EINVAL)
  await alive(client)
  // Larger than what is read in one piece.
  const large = patternBytes(4 * MiB)
  await using roomy = await serve({ device: disk(large), readOnly: true })
  await using other = await going(roomy, mode)
  const { data } = await ask(other, C.NBD_CMD_READ, 5, 3 * MiB + 9)
  assert.ok(data.equals(large.subarray(5, 3 * MiB + 14)))
})

rule(
  'READ: an error in the middle of a long one comes as an error chunk, and the next request is in step',
  async mode => {
    const inner = disk(patternBytes(8 * MiB))
    const device: BlockReader = {
      ...inner,
      readInto: async (target, offset, options) => {
        if (offset <= 5 * MiB && offset + target.length > 5 * MiB) throw new LifeboatError('missing-object', 'gone')
        await inner.readInto(target, offset, options)
      },
    }
    await using server = await serve({ device, readOnly: true })
    await using client = await going(server, mode)
    const { error, chunks } = await ask(client, C.NBD_CMD_READ, 0, 8 * MiB)
    assert.equal(error, C.NBD_EIO)
    if (mode !== 'simple') assert.ok(chunks.filter(chunk => errorOf(chunk) !== 0).length === 1)
    assert.equal((await ask(client, C.NBD_CMD_READ, 0, MiB)).error, 0)
  },
)

rule('READ with DF: one content chunk, holes as zeroes, to 64 KiB and beyond; without chunks EINVAL', async mode => {
  await using server = await serve()
  await using client = await going(server, mode)
  for (const length of [512, 64 * KiB, 600 * KiB]) {
    const { error, chunks, data } = await ask(client, C.NBD_CMD_READ, 240 * KiB, length, C.NBD_CMD_FLAG_DF)
    if (mode === 'simple') assert.equal(error, C.NBD_EINVAL)
    else {
      assert.deepEqual(
        chunks.map(({ type }) => type),
        [C.NBD_REPLY_TYPE_OFFSET_DATA],
      )
      assert.equal(data.compare(contents(), 240 * KiB, 240 * KiB + length), 0)
    }
  }
  await alive(client)
})

rule('READ of more than 64 MiB is EINVAL, and the connection goes on', async mode => {
  await using server = await serve({ device: sparseDevice(2 ** 43) })
  await using client = await going(server, mode)
  for (const length of [64 * MiB + 1, 2 ** 32 - 1, ...(mode === 'extended' ? [2 ** 42] : [])])
    assert.equal((await ask(client, C.NBD_CMD_READ, 0, length)).error, C.NBD_EINVAL)
  assert.equal((await ask(client, C.NBD_CMD_READ, 0, 64 * MiB)).error, 0)
})

rule('WRITE: its payload is consumed exactly; past the end ENOSPC; longer than 64 MiB refused', async mode => {
  const bytes = contents()
  await using server = await serve({ device: disk(bytes) })
  await using client = await going(server, mode)
  assert.equal((await ask(client, C.NBD_CMD_WRITE, 5, 70_001, 0, Buffer.alloc(70_001, 9))).error, 0)
  assert.ok(bytes.subarray(5, 70_006).every(byte => byte === 9))
  assert.ok(bytes.subarray(70_006, 70_106).equals(contents().subarray(70_006, 70_106)))
  for (const [offset, length] of [
    [SIZE, 1],
    [SIZE - 1, 512],
    [2 ** 53, 512],
    [2 ** 63, 512],
  ] as const)
    assert.equal((await ask(client, C.NBD_CMD_WRITE, offset, length, 0, Buffer.alloc(length))).error, C.NBD_ENOSPC)
  assert.equal((await ask(client, C.NBD_CMD_WRITE, 0, 512, C.NBD_CMD_FLAG_DF, Buffer.alloc(512))).error, C.NBD_EINVAL)
  await alive(client)
  const device = sparseDevice(128 * MiB)
  await using roomy = await serve({ device })
  await using other = await going(roomy, mode)
  const long = Buffer.alloc(64 * MiB + 1)
  assert.equal((await ask(other, C.NBD_CMD_WRITE, 0, long.length, 0, long)).error, C.NBD_EINVAL)
  assert.deepEqual(device.calls, [])
  await alive(other)
})

rule(
  'WRITE, WRITE_ZEROES and TRIM with FUA, and FLUSH: answered when the device says that it is durable, not before',
  async mode => {
    let [entered, left] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    const inner = disk()
    const gate = () => {
      entered.resolve()
      return left.promise
    }
    const device: BlockDevice = {
      ...inner,
      write: async (source, offset, options) => {
        await inner.write(source, offset)
        if (options?.fua) await gate()
      },
      zero: async (range, options) => {
        await inner.zero(range)
        if (options?.fua) await gate()
      },
      flush: gate,
    }
    await using server = await serve({ device })
    await using client = await going(server, mode)
    const payload = Buffer.alloc(512, 3)
    for (const [type, length, flags, data] of [
      [C.NBD_CMD_WRITE, 512, 0, payload],
      [C.NBD_CMD_WRITE_ZEROES, 512, 0],
      [C.NBD_CMD_WRITE_ZEROES, 512, C.NBD_CMD_FLAG_NO_HOLE],
      [C.NBD_CMD_TRIM, 512, 0],
      [C.NBD_CMD_FLUSH, 0, 0],
    ] as const) {
      let answered = false
      ;[entered, left] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
      const reply = ask(client, type, 0, length, flags | C.NBD_CMD_FLAG_FUA, data).then(answer => {
        answered = true
        return answer
      })
      // An answer that came too early is there before the device is asked to make anything durable.
      await Promise.race([entered.promise, reply])
      await new Promise(resolve => setTimeout(resolve, 15))
      assert.equal(answered, false, `command ${type} waits`)
      left.resolve()
      assert.equal((await reply).error, 0)
    }
  },
)

rule(
  'DISC: what is under way is answered, nothing else is said, its fields are ignored, the connection closes',
  async mode => {
    const inner = disk()
    const device: BlockReader = {
      ...inner,
      readInto: async (target, offset) => {
        await new Promise(resolve => setTimeout(resolve, 20))
        await inner.readInto(target, offset)
      },
    }
    await using server = await serve({ device, readOnly: true })
    await using client = await going(server, mode)
    const reply = ask(client, C.NBD_CMD_READ, 0, 4096)
    client.request(C.NBD_CMD_DISC, 2 ** 40, 77, 0xff)
    client.request(C.NBD_CMD_READ, 0, 512)
    assert.equal((await reply).error, 0)
    await client.closed
    assert.equal(client.unread, 0)
  },
)

rule('FLUSH: offset, length and flags other than FUA are EINVAL; a read-only export has it too', async mode => {
  await using server = await serve()
  await using readOnly = await serve({ readOnly: true })
  await using client = await going(server, mode)
  for (const [offset, length, flags] of [
    [1, 0, 0],
    [0, 1, 0],
    [0, 0, C.NBD_CMD_FLAG_DF],
    [0, 0, 1 << 9],
  ] as const)
    assert.equal((await ask(client, C.NBD_CMD_FLUSH, offset, length, flags)).error, C.NBD_EINVAL)
  assert.equal((await ask(client, C.NBD_CMD_FLUSH, 0, 0, C.NBD_CMD_FLAG_FUA)).error, 0)
  await using reader = await going(readOnly, mode)
  await alive(reader)
})

rule('TRIM: afterwards old bytes or zeroes, neighbours untouched; outside is EINVAL', async mode => {
  const bytes = contents()
  await using server = await serve({ device: disk(bytes) })
  await using client = await going(server, mode)
  assert.equal((await ask(client, C.NBD_CMD_TRIM, 4096, 8192)).error, 0)
  const { data } = await ask(client, C.NBD_CMD_READ, 0, 16_384)
  for (let at = 4096; at < 12_288; at += 512) {
    const sector = data.subarray(at, at + 512)
    assert.ok(sector.every(byte => byte === 0) || sector.equals(contents().subarray(at, at + 512)))
  }
  assert.ok(data.subarray(0, 4096).equals(contents().subarray(0, 4096)))
  assert.ok(data.subarray(12_288).equals(contents().subarray(12_288, 16_384)))
  assert.equal((await ask(client, C.NBD_CMD_TRIM, SIZE, 1)).error, C.NBD_EINVAL)
})

rule(
  'CACHE: reaches the cache below, or reads through it; unknown flags EINVAL; its failure is its own',
  async mode => {
    const fetched: string[] = []
    const inner = disk()
    const device: BlockReader = {
      ...inner,
      prefetch: async ({ offset, length }) => {
        if (offset === 512) throw new LifeboatError('store-unreachable', 'away')
        fetched.push(`${offset}+${length}`)
      },
      readInto: (target, offset) => {
        assert.notEqual(target.length, 300 * KiB, 'nothing is copied')
        return inner.readInto(target, offset)
      },
    }
    await using server = await serve({ device, readOnly: true })
    await using client = await going(server, mode)
    assert.equal((await ask(client, C.NBD_CMD_CACHE, 4096, 300 * KiB)).error, 0)
    assert.deepEqual(fetched, [`4096+${300 * KiB}`])
    assert.equal((await ask(client, C.NBD_CMD_CACHE, 512, 1)).error, C.NBD_EIO)
    assert.equal((await ask(client, C.NBD_CMD_READ, 512, 1)).error, 0)
    for (const flags of [C.NBD_CMD_FLAG_DF, C.NBD_CMD_FLAG_REQ_ONE, 1 << 12])
      assert.equal((await ask(client, C.NBD_CMD_CACHE, 0, 512, flags)).error, C.NBD_EINVAL)
    assert.equal((await ask(client, C.NBD_CMD_CACHE, SIZE, 1)).error, C.NBD_EINVAL)
    const ranges: (readonly [number, number])[] = []
    const through = {
      ...inner,
      readInto: (target: Uint8Array, offset: number) => {
        ranges.push([offset, target.length])
        return inner.readInto(target, offset)
      },
    }
    await using second = await serve({ device: through, readOnly: true })
    await using other = await going(second, mode)
    assert.equal((await ask(other, C.NBD_CMD_CACHE, 0, SIZE)).error, 0)
    let end = 0
    for (const [offset, length] of ranges) {
      assert.equal(offset, end)
      end += length
    }
    assert.equal(end, SIZE, 'all of it was read, piece by piece')
  },
)

rule(
  'WRITE_ZEROES: reads as zeroes; NO_HOLE allocates; FAST_ZERO is really fast or ENOTSUP at once, and only where advertised',
  async mode => {
    const bytes = contents()
    const inner = disk(bytes)
    const seen: string[] = []
    const device: BlockDevice = {
      ...inner,
      write: async (source, offset) => {
        seen.push('write')
        await inner.write(source, offset)
      },
      zero: async range => {
        seen.push('zero')
        await inner.zero(range)
      },
    }
    await using server = await serve({ device, fastZero: true })
    await using client = await going(server, mode)
    const zeroes = (offset: number, flags: number) => ask(client, C.NBD_CMD_WRITE_ZEROES, offset, 4096, flags)
    const [noHole, fast] = [C.NBD_CMD_FLAG_NO_HOLE, C.NBD_CMD_FLAG_FAST_ZERO]
    assert.deepEqual([(await zeroes(0, 0)).error, seen.splice(0)], [0, ['zero']])
    assert.deepEqual([(await zeroes(4096, noHole)).error, seen.splice(0)], [0, ['write']])
    assert.deepEqual([(await zeroes(8192, fast)).error, seen.splice(0)], [0, ['zero']])
    assert.ok((await ask(client, C.NBD_CMD_READ, 0, 12_288)).data.every(byte => byte === 0))
    assert.deepEqual([(await zeroes(12_288, fast | noHole)).error, seen], [C.NBD_ENOTSUP, []])
    assert.ok(bytes.subarray(12_288, 16_384).equals(contents().subarray(12_288, 16_384)), 'untouched')
    assert.equal((await zeroes(SIZE, 0)).error, C.NBD_ENOSPC)
    assert.equal((await zeroes(SIZE, fast | noHole)).error, C.NBD_ENOSPC)
    await using slow = await serve()
    await using other = await going(slow, mode)
    assert.equal((await ask(other, C.NBD_CMD_WRITE_ZEROES, 0, 4096, fast)).error, C.NBD_EINVAL)
    assert.equal((await ask(other, C.NBD_CMD_WRITE_ZEROES, 0, 4096, noHole)).error, 0)
  },
)

rule('WRITE_ZEROES, TRIM and BLOCK_STATUS of the whole export are one request each', async mode => {
  const size = mode === 'extended' ? 2 ** 43 : 4 * GiB - 512
  const device = sparseDevice(size)
  await using server = await serve({ device })
  await using client = await going(server, mode, [C.BASE_ALLOCATION])
  for (const type of [C.NBD_CMD_WRITE_ZEROES, C.NBD_CMD_TRIM]) assert.equal((await ask(client, type, 0, size)).error, 0)
  assert.deepEqual(device.calls, [`zero 0+${size}`, `trim 0+${size}`])
  if (mode !== 'simple')
    assert.deepEqual(lists(await ask(client, C.NBD_CMD_BLOCK_STATUS, 0, size), mode), new Map([[1, [[size, 3]]]]))
})

rule(
  'BLOCK_STATUS: one chunk for each context, extents of the range from its start; base:allocation and dirty bitmaps',
  async mode => {
    await using server = await serve()
    await using client = await going(server, mode, BOTH)
    const found = lists(await ask(client, C.NBD_CMD_BLOCK_STATUS, 0, SIZE), mode)
    assert.deepEqual(
      found,
      new Map([
        [
          1,
          [
            [256 * KiB, 0],
            [256 * KiB, 3],
            [512 * KiB, 0],
          ],
        ],
        [
          2,
          [
            [768 * KiB, 0],
            [256 * KiB, 1],
          ],
        ],
      ]),
    )
    for (const [offset, length] of [
      [1, 5],
      [100_001, 800_000],
      [SIZE - 3, 3],
    ] as const)
      for (const list of lists(await ask(client, C.NBD_CMD_BLOCK_STATUS, offset, length), mode).values()) {
        const total = list.reduce((sum, [part]) => sum + part, 0)
        assert.ok(list.every(([part]) => part > 0) && total - list.at(-1)![0] < length && offset + total <= SIZE)
      }
  },
  CHUNKED,
)

rule(
  'BLOCK_STATUS with REQ_ONE: one extent, no longer than asked for',
  async mode => {
    await using server = await serve()
    await using client = await going(server, mode, BOTH)
    const one = async (offset: number, length: number) => [
      ...lists(await ask(client, C.NBD_CMD_BLOCK_STATUS, offset, length, C.NBD_CMD_FLAG_REQ_ONE), mode).values(),
    ]
    assert.deepEqual(await one(0, SIZE), [[[256 * KiB, 0]], [[768 * KiB, 0]]])
    assert.deepEqual(await one(300 * KiB, 4096), [[[4096, 3]], [[4096, 0]]])
  },
  CHUNKED,
)

rule(
  'BLOCK_STATUS: never more than 2^20 extents, and what is left is found from where it ended',
  async mode => {
    const size = 2 ** 21 * 512
    const device: BlockReader = {
      ...sparseDevice(size),
      async *extents({ offset, length }) {
        for (let at = offset; at < offset + length; at += 512)
          yield { offset: at, length: 512, kind: (at / 512) % 2 ? 'data' : 'zero' }
      },
    }
    await using server = await serve({ device, readOnly: true })
    await using client = await going(server, mode, [C.BASE_ALLOCATION])
    const list = lists(await ask(client, C.NBD_CMD_BLOCK_STATUS, 0, size), mode).get(1)!
    assert.ok(list.length > 1000 && list.length <= 2 ** 20)
    const rest = lists(await ask(client, C.NBD_CMD_BLOCK_STATUS, list.length * 512, 1024), mode).get(1)!
    assert.deepEqual(
      rest.map(([length]) => length),
      [512, 512],
    )
  },
  CHUNKED,
)

rule('BLOCK_STATUS: outside the export, of nothing, and without a context it is EINVAL', async mode => {
  await using server = await serve()
  await using client = await going(server, mode, [C.BASE_ALLOCATION])
  for (const [offset, length] of [
    [SIZE, 1],
    [1, SIZE],
    [0, 0],
    [2 ** 63, 1],
  ] as const)
    assert.equal((await ask(client, C.NBD_CMD_BLOCK_STATUS, offset, length)).error, C.NBD_EINVAL)
  await using without = await going(server, mode)
  assert.equal((await ask(without, C.NBD_CMD_BLOCK_STATUS, 0, 512)).error, C.NBD_EINVAL)
  await alive(without)
})

rule(
  'BLOCK_STATUS with a payload: only the contexts that it names; unknown, repeated or malformed is EINVAL after consuming',
  async mode => {
    await using server = await serve()
    await using client = await going(server, mode, BOTH)
    const filtered = (payload: Buffer, flags = 0) =>
      ask(client, C.NBD_CMD_BLOCK_STATUS, 0, payload.length, C.NBD_CMD_FLAG_PAYLOAD_LEN | flags, payload)
    const [all, bitmap] = [await filtered(encodeFilter(SIZE, [1, 2])), await filtered(encodeFilter(SIZE, [2]))]
    assert.deepEqual([[...lists(all, mode).keys()], [...lists(bitmap, mode).keys()]], [[1, 2], [2]])
    assert.deepEqual(lists(await filtered(encodeFilter(SIZE, [1]), C.NBD_CMD_FLAG_REQ_ONE), mode).get(1), [
      [256 * KiB, 0],
    ])
    for (const bad of [
      encodeFilter(SIZE, [3]),
      encodeFilter(SIZE, [1, 1]),
      encodeFilter(SIZE, []),
      encodeFilter(SIZE + 1, [1]),
      encodeFilter(0, [1]),
      Buffer.alloc(5),
      Buffer.alloc(9),
      Buffer.alloc(70_000),
    ])
      assert.equal((await filtered(bad)).error, C.NBD_EINVAL)
    await using without = await going(server, mode)
    assert.equal(
      (await ask(without, C.NBD_CMD_BLOCK_STATUS, 0, 12, C.NBD_CMD_FLAG_PAYLOAD_LEN, encodeFilter(SIZE, [1]))).error,
      C.NBD_EINVAL,
    )
    await alive(without)
  },
  ['extended'],
)

rule('RESIZE and unknown commands are EINVAL, and the connection goes on', async mode => {
  await using server = await serve()
  await using client = await going(server, mode)
  for (const type of [8, 9, 99, 0xffff]) assert.equal((await ask(client, type, 2 ** 40, 2 ** 31)).error, C.NBD_EINVAL)
  await alive(client)
})

rule('FUA is accepted on every command where it is advertised; other unknown flags are EINVAL', async mode => {
  await using server = await serve()
  await using client = await going(server, mode, [C.BASE_ALLOCATION])
  const commands = [
    C.NBD_CMD_READ,
    C.NBD_CMD_WRITE,
    C.NBD_CMD_TRIM,
    C.NBD_CMD_CACHE,
    C.NBD_CMD_WRITE_ZEROES,
    ...(mode === 'simple' ? [] : [C.NBD_CMD_BLOCK_STATUS]),
  ]
  for (const type of commands) {
    const payload = type === C.NBD_CMD_WRITE ? Buffer.alloc(512) : undefined
    assert.equal((await ask(client, type, 0, 512, C.NBD_CMD_FLAG_FUA, payload)).error, 0)
    assert.equal((await ask(client, type, 0, 512, 1 << 15, payload)).error, C.NBD_EINVAL)
  }
})

rule('zero length: an answer and no disconnect', async mode => {
  await using server = await serve()
  await using client = await going(server, mode, [C.BASE_ALLOCATION])
  for (const type of [0, 1, 4, 5, 6, 7]) await ask(client, type, 0, 0)
  for (const type of [0, 1, 4, 5, 6]) assert.equal((await ask(client, type, SIZE, 0)).error, 0)
  await alive(client)
})

rule(
  "errors: a device's failure as the protocol's value, others as EIO, with a text that says nothing of this host",
  async mode => {
    const system = (code: string) => Object.assign(new Error(`${code} at /secret/path`), { code })
    const cases: [unknown, number][] = [
      ...(['EPERM', 'EACCES', 'EROFS'].map(code => [system(code), 1]) as [unknown, number][]),
      [system('EIO'), 5],
      [system('ENOMEM'), 12],
      [system('EINVAL'), 22],
      [system('EOVERFLOW'), 75],
      [system('ENOTSUP'), 95],
      ...(['ENOSPC', 'EDQUOT', 'EFBIG'].map(code => [system(code), 28]) as [unknown, number][]),
      [new LifeboatError('disk-full', 'no room at s3://secret'), 28],
      [new LifeboatError('interrupted', 'secret'), 108],
      [new LifeboatError('corrupt-object', 'secret'), 5],
      [system('EWEIRD'), 5],
      ['secret', 5],
    ]
    let failure: unknown
    const device: BlockDevice = {
      ...disk(),
      write: async () => {
        throw failure
      },
    }
    await using server = await serve({ device })
    await using client = await going(server, mode)
    for (const [thrown, errno] of cases) {
      failure = thrown
      const { error, chunks } = await ask(client, C.NBD_CMD_WRITE, 0, 512, 0, Buffer.alloc(512))
      assert.equal(error, errno)
      assert.ok(chunks.every(({ payload }) => !payload.includes('secret')))
    }
  },
)

rule('shutdown: requests that come now are ESHUTDOWN, those under way are answered, then it closes', async mode => {
  const device = gatedDevice(disk())
  await using server = await serve({ device, readOnly: true })
  await using client = await going(server, mode)
  client.request(C.NBD_CMD_READ, 0, 4096, 0, 500)
  await device.firstRead
  const stopped = server.stop()
  // It takes the stop a moment to reach the connections.
  let error = 0
  while (error === 0) error = (await ask(client, C.NBD_CMD_FLUSH, 0, 0)).error
  assert.equal(error, C.NBD_ESHUTDOWN)
  device.open()
  const answer = mode === 'simple' ? [await client.reply(4096)] : await client.chunks()
  assert.deepEqual(
    answer.map(chunk => [chunk.cookieLo, errorOf(chunk)]),
    [[500, 0]],
  )
  await Promise.all([client.closed, stopped])
})

rule(
  'extended: a WRITE without PAYLOAD_LEN keeps the stream in step, a payload on other commands is consumed, 4 GiB end the connection',
  async mode => {
    const bytes = contents()
    await using server = await serve({ device: disk(bytes) })
    await using client = await going(server, mode)
    client.request(C.NBD_CMD_WRITE, 0, 512, 0, 1, Buffer.alloc(512, 7))
    assert.equal(errorOf(await client.reply()), 0)
    assert.equal(bytes[511], 7)
    for (const type of [C.NBD_CMD_READ, C.NBD_CMD_FLUSH, C.NBD_CMD_TRIM, C.NBD_CMD_CACHE, C.NBD_CMD_WRITE_ZEROES, 99])
      assert.equal(
        (await ask(client, type, 0, 1000, C.NBD_CMD_FLAG_PAYLOAD_LEN, Buffer.alloc(1000, 0x21))).error,
        C.NBD_EINVAL,
      )
    await alive(client)
    client.request(C.NBD_CMD_WRITE, 0, 2 ** 32, C.NBD_CMD_FLAG_PAYLOAD_LEN)
    await client.closed
  },
  ['extended'],
)
