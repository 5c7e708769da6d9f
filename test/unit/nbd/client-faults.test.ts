/**
 * R25: every way that we know in which a server can be wrong, in each header mode in which it can be said, and replies of
 * an honest server with damaged framing. What comes of it is an error or the right bytes; nothing else is accepted.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readSegments } from '../../../src/backup/read-segments.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { KiB, MiB } from '../../../src/core/limits.ts'
import { forEachLimited } from '../../../src/core/scope.ts'
import { type ConnectNbdOptions, connectNbd, type NbdClient } from '../../../src/nbd/client.ts'
import * as C from '../../../src/nbd/constants.ts'
import * as O from '../../../src/nbd/option-codec.ts'
import { type HeaderMode, putU64, type RequestHeader } from '../../../src/nbd/wire.ts'
import {
  type Answer,
  brokenNbdServer,
  type Handshake,
  honestHandshake,
  type Replies,
} from '../../doubles/broken-nbd-server.ts'
import { freshSockets } from '../../doubles/fresh-sockets.ts'
import { patternBytes } from '../../doubles/pattern.ts'

const { freshSocket } = await freshSockets()

const SIZE = 2 * MiB
const content = patternBytes(SIZE)
const LENGTH = 100_000
const AT = 4096
const WRITABLE = C.NBD_FLAG_HAS_FLAGS | C.NBD_FLAG_SEND_FLUSH | C.NBD_FLAG_SEND_TRIM | C.NBD_FLAG_SEND_WRITE_ZEROES

const connect = (socket: string, options: Partial<ConnectNbdOptions> = {}): Promise<NbdClient> =>
  connectNbd({ exportName: '', clock: systemClock, handshakeMs: 20_000, requestMs: 20_000, ...options, socket })

interface Fault {
  readonly name: string
  /** Where it can be said. Default: in the modes that have chunks. */
  readonly modes?: readonly HeaderMode[]
  readonly answer: (request: RequestHeader, replies: Replies) => readonly Uint8Array[]
}

const CHUNKED: readonly HeaderMode[] = ['structured', 'extended']
const EVERY: readonly HeaderMode[] = ['simple', 'structured', 'extended']
const part = (offset: number, length: number) => content.subarray(offset, offset + length)
const success = (r: RequestHeader, s: Replies) =>
  s.mode === 'simple' ? s.simple(r, 0, part(r.offset, r.length)) : s.data(r, r.offset, part(r.offset, r.length))
const cut = (bytes: Buffer, length: number) => bytes.subarray(0, bytes.length - length)

/** The header's length field says something else than what follows. */
function lengthField(s: Replies, bytes: Buffer, length: number): Buffer {
  if (s.mode === 'extended') putU64(bytes, 24, length)
  else bytes.writeUInt32BE(length, 16)
  return bytes
}

const readFaults: readonly Fault[] = [
  { name: 'cookie of no request', modes: EVERY, answer: (r, s) => [success({ ...r, cookieLo: r.cookieLo + 1 }, s)] },
  { name: 'cookie of another client', modes: EVERY, answer: (r, s) => [success({ ...r, cookieHi: 1 }, s)] },
  { name: 'answered twice', modes: EVERY, answer: (r, s) => [success(r, s), success(r, s)] },
  { name: 'bad magic', modes: EVERY, answer: () => [Buffer.alloc(64, 3)] },
  {
    name: 'header of another mode',
    modes: EVERY,
    answer: (r, s) => [s.mode === 'simple' ? Buffer.from('668e33ef00010001', 'hex') : s.simple(r, 0), Buffer.alloc(64)],
  },
  { name: 'chunk before the request', answer: (r, s) => [s.data(r, AT - 1, LENGTH)] },
  { name: 'chunk past the request', answer: (r, s) => [s.data(r, AT + 1, LENGTH)] },
  { name: 'chunk longer than the request', answer: (r, s) => [s.data(r, AT, LENGTH + 1)] },
  { name: 'chunk at 2^63', answer: (r, s) => [s.data(r, 2 ** 63, 10)] },
  { name: 'chunk at -1', answer: (r, s) => [s.data(r, 2 ** 64 - 2048, 10)] },
  { name: 'chunk of 4 GiB', answer: (r, s) => [lengthField(s, s.data(r, AT, 0), 0xffffffff)] },
  { name: 'chunk of 2^63 bytes', modes: ['extended'], answer: (r, s) => [lengthField(s, s.data(r, AT, 0), 2 ** 63)] },
  { name: 'empty chunk', answer: (r, s) => [s.data(r, AT, 0, 0), success(r, s)] },
  {
    name: 'chunk without its offset',
    answer: (r, s) => [s.chunk(r, 1, C.NBD_REPLY_TYPE_OFFSET_DATA, Buffer.alloc(7))],
  },
  {
    name: 'offset of another request',
    modes: ['extended'],
    answer: (r, s) => [s.data({ ...r, offsetLo: 1 }, AT, LENGTH)],
  },
  { name: 'chunk twice', answer: (r, s) => [s.data(r, AT, 100, 0), s.data(r, AT, 100, 0)] },
  { name: 'overlapping chunks', answer: (r, s) => [s.data(r, AT + 100, 1000, 0), s.data(r, AT, 101, 0)] },
  { name: 'hole over data', answer: (r, s) => [s.data(r, AT, LENGTH, 0), s.hole(r, AT + 5, 5)] },
  { name: 'hole outside', answer: (r, s) => [s.hole(r, AT, LENGTH + 1)] },
  { name: 'hole of nothing', answer: (r, s) => [s.hole(r, AT, 0, 0), success(r, s)] },
  { name: 'early DONE', answer: (r, s) => [s.data(r, AT, LENGTH - 1)] },
  { name: 'DONE with nothing', answer: (r, s) => [s.none(r)] },
  { name: 'data after DONE', answer: (r, s) => [s.data(r, AT, LENGTH - 1, 1), s.data(r, AT + LENGTH - 1, 1)] },
  { name: 'gap', answer: (r, s) => [s.data(r, AT, 1000, 0), s.data(r, AT + 1001, LENGTH - 1001)] },
  { name: 'NONE without DONE', answer: (r, s) => [s.none(r, 0), success(r, s)] },
  { name: 'NONE with a payload', answer: (r, s) => [s.chunk(r, 1, C.NBD_REPLY_TYPE_NONE, Buffer.alloc(1))] },
  { name: 'block status for a read', answer: (r, s) => [s.status(r, 1, 1, LENGTH, 0)] },
  { name: 'unknown chunk', answer: (r, s) => [s.chunk(r, 0, 77, Buffer.alloc(3)), success(r, s)] },
  { name: 'error of 0', answer: (r, s) => [s.error(r, 0, 0), success(r, s)] },
  {
    name: 'error longer than its text',
    answer: (r, s) => [s.chunk(r, 1, C.NBD_REPLY_TYPE_ERROR, Buffer.from([0, 0, 0, 5, 0, 9, 65]))],
  },
  { name: 'error of 5000 bytes', answer: (r, s) => [s.error(r, C.NBD_EIO, 0, 'x'.repeat(5000)), success(r, s)] },
  { name: 'error of a gigabyte', answer: (r, s) => [lengthField(s, s.error(r, C.NBD_EIO), 2 ** 30)] },
  {
    name: 'ERROR_OFFSET without its offset',
    answer: (r, s) => [s.chunk(r, 1, C.NBD_REPLY_TYPE_ERROR_OFFSET, Buffer.from([0, 0, 0, 5, 0, 0]))],
  },
  { name: 'error first', answer: (r, s) => [s.error(r, C.NBD_EIO, 0), success(r, s)] },
  {
    name: 'error in the middle',
    answer: (r, s) => [s.data(r, AT, 1000, 0), s.error(r, C.NBD_EIO, 0), s.data(r, AT + 1000, LENGTH - 1000)],
  },
  { name: 'error last', answer: (r, s) => [s.data(r, AT, LENGTH, 0), s.error(r, C.NBD_EIO)] },
  {
    name: 'error whose text is not UTF-8',
    answer: (r, s) => [s.error(r, C.NBD_EIO, 1, Buffer.from([0xff, 0xc0, 0, 0x1b]))],
  },
  {
    name: 'error of an unknown kind',
    answer: (r, s) => [
      s.chunk(r, 0, C.NBD_REPLY_TYPE_ERROR_BIT + 99, Buffer.from([0, 0, 0, 5, 0, 0, 1])),
      success(r, s),
    ],
  },
  {
    name: 'error of an unknown value',
    modes: EVERY,
    answer: (r, s) => [s.mode === 'simple' ? s.simple(r, 0x80000000) : s.error(r, 0x80000000)],
  },
  { name: 'simple error', modes: ['simple'], answer: (r, s) => [s.simple(r, C.NBD_EIO)] },
  {
    name: 'ten thousand scattered bytes',
    answer: (r, s) => Array.from({ length: 10_000 }, (_, i) => s.data(r, AT + 2 * i, 1, 0)),
  },
  { name: 'the end is missing', modes: EVERY, answer: (r, s) => [cut(success(r, s), 1)] },
]

const statusFaults: readonly Fault[] = [
  { name: 'no extents', answer: (r, s) => [s.status(r, 1, 1)] },
  { name: 'extent of nothing', answer: (r, s) => [s.status(r, 1, 1, 4096, 0, 0, 3, SIZE, 0)] },
  { name: 'only an extent of nothing', answer: (r, s) => [s.status(r, 1, 1, 0, 3)] },
  { name: 'extents after the end', answer: (r, s) => [s.status(r, 1, 1, SIZE, 0, 1, 0)] },
  {
    name: 'extent of 2^63 in the middle',
    modes: ['extended'],
    answer: (r, s) => [s.status(r, 1, 1, 2 ** 63, 3, 4096, 0)],
  },
  { name: 'flags of 64 bits', modes: ['extended'], answer: (r, s) => [s.status(r, 1, 1, SIZE, 2 ** 63)] },
  { name: 'more than 2^20 extents', answer: (r, s) => [tooMany(r, s)] },
  { name: 'context that was not asked for', answer: (r, s) => [s.status(r, 1, 2, SIZE, 0)] },
  { name: 'context twice', answer: (r, s) => [s.status(r, 0, 1, SIZE, 0), s.status(r, 1, 1, SIZE, 3)] },
  { name: 'no context', answer: (r, s) => [s.none(r)] },
  { name: 'half an extent', answer: (r, s) => [s.status(r, 1, 1, SIZE)] },
  { name: 'miscounted', modes: ['extended'], answer: (r, s) => [miscounted(s.status(r, 1, 1, SIZE, 0))] },
  {
    name: 'list of the other mode',
    answer: (r, s) => [s.chunk(r, 1, s.mode === 'extended' ? 5 : 6, words(1, SIZE, 0))],
  },
  { name: 'data', answer: (r, s) => [s.data(r, 0, 100)] },
  { name: 'simple success', answer: (r, s) => [s.simple(r)] },
  { name: 'error before the list', answer: (r, s) => [s.error(r, C.NBD_EIO, 0), s.status(r, 1, 1, SIZE, 3)] },
  { name: 'error behind the list', answer: (r, s) => [s.status(r, 0, 1, SIZE, 3), s.error(r, C.NBD_EIO)] },
  { name: 'list of 2 GiB', answer: (r, s) => [lengthField(s, s.status(r, 1, 1, SIZE, 0), 2 ** 31)] },
  { name: 'the end is missing', answer: (r, s) => [cut(s.status(r, 1, 1, SIZE, 3), 1)] },
]

const words = (...values: number[]) =>
  Buffer.concat(values.map(value => Buffer.from([0, value >> 16, value >> 8, value])))
/** Each of one byte and the last of the rest: right but for their number. */
function tooMany(r: RequestHeader, s: Replies): Buffer {
  const count = 2 ** 20 + 1
  const [head, unit] = s.mode === 'extended' ? [8, 16] : [4, 8]
  const payload = Buffer.alloc(head + unit * count)
  payload.writeUInt32BE(1)
  if (s.mode === 'extended') payload.writeUInt32BE(count, 4)
  for (let at = head; at < payload.length; at += unit) payload.writeUInt32BE(1, at + unit / 2 - 4)
  payload.writeUInt32BE(r.length - count + 1, payload.length - unit / 2 - 4)
  return s.chunk(r, 1, s.mode === 'extended' ? 6 : 5, payload)
}
const miscounted = (bytes: Buffer) => {
  bytes.writeUInt32BE(2, 32 + 4)
  return bytes
}

const writeFaults: readonly Fault[] = [
  { name: 'error in the middle', answer: (r, s) => [s.error(r, C.NBD_ENOSPC, 0), s.none(r)] },
  { name: 'simple error', modes: ['simple', 'structured'], answer: (r, s) => [s.simple(r, C.NBD_ENOSPC)] },
  { name: 'data for a write', answer: (r, s) => [s.data(r, AT, LENGTH)] },
  {
    name: 'cookie of no request',
    modes: EVERY,
    answer: (r, s) => [
      s.mode === 'simple' ? s.simple({ ...r, cookieLo: r.cookieLo + 1 }) : s.none({ ...r, cookieLo: r.cookieLo + 1 }),
    ],
  },
  { name: 'hole for a write', answer: (r, s) => [s.hole(r, AT, LENGTH)] },
  { name: 'list for a write', answer: (r, s) => [s.status(r, 1, 1, LENGTH, 0)] },
]

const operations: Readonly<Record<string, (client: NbdClient) => Promise<unknown>>> = {
  read: client => client.readInto(Buffer.alloc(LENGTH), AT),
  status: client => Array.fromAsync(client.extents({ offset: 0, length: client.size })),
  write: client => client.write(part(AT, LENGTH), AT),
  zero: client => client.zero({ offset: AT, length: LENGTH }),
  flush: client => client.flush(),
}
const suites: readonly [string, readonly Fault[]][] = [
  ['read', readFaults],
  ['status', statusFaults],
  ['write', writeFaults],
  ['zero', writeFaults],
  ['flush', writeFaults],
]

for (const [operation, faults] of suites)
  test(`${operation}: nothing of a wrong reply is accepted`, async t => {
    const [cases, accepted, silent] = [[], [], []] as [string[], string[], string[]]
    for (const { name, modes = CHUNKED, answer } of faults)
      for (const mode of modes) {
        let fired = 0
        const wrong: Answer = (r, _later, replies, hangUp) => {
          fired++
          // Whoever waits for the rest of a reply waits for ever; a server that closes is the honest form of that.
          if (name === 'the end is missing') hangUp()
          return answer(r, replies)
        }
        const handshake = honestHandshake(SIZE, WRITABLE)
        const server = await brokenNbdServer(freshSocket(), wrong, handshake)
        const client = await connect(server.path, { headers: mode })
        const label = `${mode}: ${name}`
        cases.push(label)
        const outcome = await operations[operation]!(client).then(
          () => undefined,
          error => error,
        )
        // A reply that comes again is found when nobody waits for it: the next call must fail.
        const late =
          outcome ??
          (name === 'answered twice'
            ? await client
                .flush()
                .then(() => client.readInto(Buffer.alloc(1), 0))
                .catch(error => error)
            : undefined)
        if (!isLifeboatError(late, 'nbd-protocol') && !isLifeboatError(late, 'nbd-io'))
          accepted.push(`${label} (${late})`)
        if (fired === 0) silent.push(label)
        await client[Symbol.asyncDispose]()
        await server[Symbol.asyncDispose]()
      }
    t.diagnostic(
      `injected ${cases.length - silent.length}/${cases.length}, accepted ${accepted.length}/${cases.length}`,
    )
    assert.deepEqual([silent, accepted], [[], []])
  })

test('handshake: nothing of a server that lies or haggles without end is accepted', async t => {
  const honest = honestHandshake(SIZE)
  const ack = (option: number) => O.encodeOptionReply(option, C.NBD_REP_ACK)
  const reply = (option: number, type: number, payload: Uint8Array | string = '') =>
    O.encodeOptionReply(option, type, payload)
  const go =
    (...replies: Uint8Array[]): Handshake =>
    option =>
      option === C.NBD_OPT_GO ? replies : honest(option)
  const set =
    (...replies: Uint8Array[]): Handshake =>
    option =>
      option === C.NBD_OPT_SET_META_CONTEXT ? replies : honest(option)
  const size = (value: number) => reply(C.NBD_OPT_GO, C.NBD_REP_INFO, O.encodeInfoExport(value, 1))
  const notText = Buffer.from([0, C.NBD_INFO_DESCRIPTION, 0xff, 0xfe])
  const context = (id: number, name: Uint8Array | string) =>
    reply(
      C.NBD_OPT_SET_META_CONTEXT,
      C.NBD_REP_META_CONTEXT,
      Buffer.concat([Buffer.from([0, 0, 0, id]), Buffer.from(name)]),
    )
  const long = reply(C.NBD_OPT_GO, C.NBD_REP_INFO, Buffer.alloc(8))
  long.writeUInt32BE(0xffffffff, 16)
  const blocks = (...sizes: [number, number, number]) =>
    reply(C.NBD_OPT_GO, C.NBD_REP_INFO, O.encodeInfoBlockSize(...sizes))
  const endless = (option: number, type: number, payload: Uint8Array) =>
    Array.from({ length: 5000 }, () => reply(option, type, payload))
  const cases: Record<string, Handshake> = {
    'size 2^63': go(size(2 ** 63), ack(C.NBD_OPT_GO)),
    'negative size': go(size(2 ** 64 - 4096), ack(C.NBD_OPT_GO)),
    'size 2^53': go(size(2 ** 53), ack(C.NBD_OPT_GO)),
    'no size': go(ack(C.NBD_OPT_GO)),
    'half a size': go(reply(C.NBD_OPT_GO, C.NBD_REP_INFO, Buffer.alloc(11)), ack(C.NBD_OPT_GO)),
    'reply to another option': go(size(SIZE), ack(C.NBD_OPT_INFO)),
    'bad magic': go(Buffer.alloc(20)),
    'reply of 4 GiB': go(long),
    'block size 3': go(size(SIZE), blocks(3, 4096, MiB), ack(C.NBD_OPT_GO)),
    'block size 0': go(size(SIZE), blocks(0, 4096, MiB), ack(C.NBD_OPT_GO)),
    'maximum below the minimum': go(size(SIZE), blocks(4096, 4096, 512), ack(C.NBD_OPT_GO)),
    'description that is not UTF-8': go(size(SIZE), reply(C.NBD_OPT_GO, C.NBD_REP_INFO, notText), ack(C.NBD_OPT_GO)),
    'context that is not UTF-8': set(context(1, Buffer.from([0xff, 0x3a])), ack(C.NBD_OPT_SET_META_CONTEXT)),
    'context without an id': set(
      reply(C.NBD_OPT_SET_META_CONTEXT, C.NBD_REP_META_CONTEXT, 'ab'),
      ack(C.NBD_OPT_SET_META_CONTEXT),
    ),
    'one id for two contexts': set(context(1, 'base:allocation'), context(1, 'x:y'), ack(C.NBD_OPT_SET_META_CONTEXT)),
    'endless infos': go(...endless(C.NBD_OPT_GO, C.NBD_REP_INFO, O.encodeInfoText(99, 'x'))),
    'endless contexts': set(
      ...Array.from({ length: 5000 }, (_, i) =>
        reply(C.NBD_OPT_SET_META_CONTEXT, C.NBD_REP_META_CONTEXT, O.encodeContext(i, 'x:y')),
      ),
    ),
    'replies before requests': go(size(SIZE), ack(C.NBD_OPT_GO), Buffer.alloc(100)),
    'refusal whose text is not UTF-8': go(reply(C.NBD_OPT_GO, C.NBD_REP_ERR_POLICY, Buffer.from([0xff, 0]))),
  }
  const accepted: string[] = []
  let fired = 0
  for (const mode of CHUNKED)
    for (const [name, handshake] of Object.entries(cases)) {
      const lying: Handshake = option => {
        const said = handshake(option)
        if (option === C.NBD_OPT_GO || said.length > 2 || option === C.NBD_OPT_SET_META_CONTEXT) fired++
        return said
      }
      await using server = await brokenNbdServer(freshSocket(), () => [], lying)
      const outcome = await connect(server.path, { headers: mode })
        .then(async client => {
          await using _closing = client
          await client.readInto(Buffer.alloc(1), 0)
        })
        .catch(error => error)
      if (!isLifeboatError(outcome, 'nbd-protocol') && !isLifeboatError(outcome, 'nbd-refused'))
        accepted.push(`${mode}: ${name} (${outcome})`)
    }
  const n = CHUNKED.length * Object.keys(cases).length
  t.diagnostic(`injected ${Math.min(n, fired)}/${n}, accepted ${accepted.length}/${n}`)
  assert.ok(fired >= n)
  assert.deepEqual(accepted, [])
})

test('a copy fails when any read of it meets an error chunk, whatever data came with it', async () => {
  for (const mode of CHUNKED) {
    let reads = 0
    const answer: Answer = (r, _later, s) => {
      if (r.type === C.NBD_CMD_BLOCK_STATUS) return [s.status(r, 1, 1, r.length, 0)]
      if (++reads !== 2) return [success(r, s)]
      const half = r.length / 2
      return [
        s.data(r, r.offset, part(r.offset, half), 0),
        s.error(r, C.NBD_EIO, 0),
        s.data(r, r.offset + half, part(r.offset + half, half)),
      ]
    }
    await using server = await brokenNbdServer(freshSocket(), answer, honestHandshake(SIZE))
    await using client = await connect(server.path, { headers: mode })
    const copied: number[] = []
    await assert.rejects(
      async () => {
        for await (const { offset } of readSegments(client, [{ offset: 0, length: SIZE }], 64 * KiB, {}))
          copied.push(offset)
      },
      { code: 'nbd-io' },
    )
    assert.deepEqual([reads >= 2, copied], [true, [0]])
  }
})

/** Repeatable choices from a number. */
function dice(seed: number): (below: number) => number {
  let state = seed >>> 0
  return below => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0
    return Math.floor((((state ^ (state >>> 13)) >>> 0) / 2 ** 32) * below)
  }
}

const ROUNDS = Number(process.env.LIFEBOAT_TEST_ROUNDS ?? 300)

test('damaged framing: an error or the right bytes, in every header mode', async t => {
  const seed = Number(process.env.LIFEBOAT_TEST_SEED ?? 20261122)
  t.diagnostic(`seed ${seed} (LIFEBOAT_TEST_SEED), ${ROUNDS} rounds (LIFEBOAT_TEST_ROUNDS) in each mode`)
  for (const mode of EVERY) {
    let [damaged, refused, harmless] = [0, 0, 0]
    const wrong: string[] = []
    await forEachLimited(
      Array.from({ length: ROUNDS }, (_, i) => i),
      8,
      async round => {
        const random = dice(seed + round * 7919)
        const answer: Answer = (r, _later, s, hangUp) => {
          damaged++
          // Whoever waits for what a damaged length promises is told that nothing comes.
          hangUp()
          const half = r.length >> 1
          const first =
            s.mode === 'simple'
              ? s.simple(r, 0, part(r.offset, r.length))
              : s.data(r, r.offset, part(r.offset, half), 0)
          const second =
            s.mode === 'simple' ? Buffer.alloc(0) : s.data(r, r.offset + half, part(r.offset + half, r.length - half))
          const head = s.mode === 'simple' ? 16 : s.mode === 'structured' ? 28 : 40
          const reply = Buffer.concat([first, second])
          // Only framing is damaged: the bytes of a payload have no check of their own in NBD.
          for (let count = 1 + random(3); count > 0; count--) {
            const start = s.mode !== 'simple' && random(2) === 0 ? first.length : 0
            reply[start + random(head)] = random(256)
          }
          return [random(20) === 0 ? reply.subarray(0, random(reply.length)) : reply]
        }
        await using server = await brokenNbdServer(freshSocket(), answer, honestHandshake(SIZE))
        await using client = await connect(server.path, { headers: mode })
        const length = 2 + random(2000)
        const offset = random(SIZE - length)
        const target = Buffer.alloc(length)
        const outcome = await client.readInto(target, offset).catch(error => error)
        if (isLifeboatError(outcome, 'nbd-protocol') || isLifeboatError(outcome, 'nbd-io')) refused++
        else if (outcome === undefined && target.equals(part(offset, length))) harmless++
        else wrong.push(`round ${round}: ${outcome}`)
      },
    )
    t.diagnostic(
      `${mode}: damaged ${damaged}, refused ${refused}, no harm ${harmless}, accepted ${wrong.length}/${damaged}`,
    )
    assert.deepEqual(wrong, [])
    assert.equal(damaged, ROUNDS)
    assert.ok(refused > ROUNDS / 2)
  }
})
