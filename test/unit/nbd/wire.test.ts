import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LifeboatError } from '../../../src/core/errors.ts'
import * as C from '../../../src/nbd/constants.ts'
import { errnoOf, nbdError } from '../../../src/nbd/errno.ts'
import { escapeText, rateLimited } from '../../../src/nbd/log-line.ts'
import * as O from '../../../src/nbd/option-codec.ts'
import * as W from '../../../src/nbd/wire.ts'

const request = {
  flags: 1,
  type: 1,
  cookieHi: 0x01020304,
  cookieLo: 0xfffefdfc,
  offset: 0,
  offsetHi: 0x11,
  offsetLo: 0x80000000,
  length: 0x2000,
}

test('requests have the bytes of the protocol, and parse back, in all header modes', () => {
  const compact = Buffer.alloc(28)
  assert.equal(W.putRequest('structured', compact, 0, request), 28)
  assert.equal(
    compact.toString('hex'),
    '25609513' + '0001' + '0001' + '01020304fffefdfc' + '0000001180000000' + '00002000',
  )
  const extended = Buffer.alloc(32)
  assert.equal(W.putRequest('extended', extended, 0, { ...request, length: 2 ** 40 }), 32)
  assert.equal(
    extended.toString('hex'),
    '21e41c71' + '0001' + '0001' + '01020304fffefdfc' + '0000001180000000' + '0000010000000000',
  )
  const into = W.emptyRequest()
  assert.ok(W.parseRequest('simple', compact, 0, into))
  assert.deepEqual(into, { ...request, offset: 0x11 * 2 ** 32 + 0x80000000 })
  assert.ok(W.parseRequest('extended', extended, 0, into))
  assert.equal(into.length, 2 ** 40)
  assert.ok(!W.parseRequest('extended', compact, 0, into), 'the magic of another mode')
  assert.ok(!W.parseRequest('structured', extended, 0, into))
})

test('an offset above 2^53 keeps its halves and is never small', () => {
  const b = Buffer.alloc(28, 0xff)
  b.writeUInt32BE(C.NBD_REQUEST_MAGIC, 0)
  const into = W.emptyRequest()
  assert.ok(W.parseRequest('simple', b, 0, into))
  assert.equal(into.offset, 2 ** 64)
  assert.equal(into.offsetHi, 0xffffffff)
  assert.equal(into.length, 0xffffffff)
})

test('replies have the bytes of the protocol, and parse back', () => {
  const b = Buffer.alloc(64)
  const reply = W.emptyReply()
  assert.equal(W.putSimpleReply(b, 0, 22, request), 16)
  assert.equal(b.subarray(0, 16).toString('hex'), '67446698' + '00000016' + '01020304fffefdfc')
  assert.equal(W.parseReply('structured', b, 0, 16, reply), 16)
  assert.deepEqual([reply.kind, reply.error, reply.cookieHi, reply.cookieLo], ['simple', 22, 0x01020304, 0xfffefdfc])
  assert.equal(W.parseReply('extended', b, 0, 64, reply), -1, 'no simple replies after EXTENDED_HEADERS')
  assert.equal(W.putChunkHeader('structured', b, 0, 1, 1, request, 9), 20)
  assert.equal(b.subarray(0, 20).toString('hex'), '668e33ef' + '0001' + '0001' + '01020304fffefdfc' + '00000009')
  assert.equal(W.parseReply('structured', b, 0, 19, reply), 0, 'one byte is missing')
  assert.equal(W.parseReply('structured', b, 0, 20, reply), 20)
  assert.deepEqual([reply.kind, reply.type, reply.length], ['chunk', 1, 9])
  assert.equal(W.parseReply('simple', b, 0, 64, reply), -1)
  assert.equal(W.putChunkHeader('extended', b, 0, 1, 6, request, 2 ** 33), 32)
  assert.equal(
    b.subarray(0, 32).toString('hex'),
    '6e8a278c' + '0001' + '0006' + '01020304fffefdfc' + '0000001180000000' + '0000000200000000',
  )
  assert.equal(W.parseReply('extended', b, 0, 31, reply), 0)
  assert.equal(W.parseReply('extended', b, 0, 32, reply), 32)
  assert.deepEqual([reply.length, reply.offset], [2 ** 33, 0x11 * 2 ** 32 + 0x80000000])
})

test('option payloads parse back, and lengths that do not add up are refused', () => {
  assert.deepEqual(O.parseGo(O.encodeGo('dìsk', [1, 3])), { name: 'dìsk', wants: new Set([1, 3]) })
  assert.deepEqual(O.parseMetaQueries(O.encodeMetaQueries('d', ['base:', 'q'])), { name: 'd', queries: ['base:', 'q'] })
  assert.deepEqual(O.parseServer(O.encodeServer('d', 'text')), { name: 'd', description: 'text' })
  for (const [parse, good] of [
    [O.parseGo, O.encodeGo('disk', [1, 3])],
    [O.parseMetaQueries, O.encodeMetaQueries('disk', ['base:allocation', 'x'])],
  ] as const) {
    for (let length = 0; length < good.length; length++) assert.equal(parse(good.subarray(0, length)), undefined)
    assert.equal(parse(Buffer.concat([good, Buffer.alloc(1)])), undefined)
    const huge = Buffer.from(good)
    huge.writeUInt32BE(0xffffffff, 0)
    assert.equal(parse(huge), undefined)
  }
  const manyQueries = O.encodeMetaQueries('', [])
  manyQueries.writeUInt32BE(0xffffffff, 4)
  assert.equal(O.parseMetaQueries(manyQueries), undefined)
  assert.equal(O.parseString(Buffer.from('a\0b')), undefined)
  assert.equal(O.parseString(Buffer.from([0xff, 0xfe])), undefined)
  assert.equal(O.parseString(Buffer.alloc(4097, 97)), undefined)
  assert.equal(O.parseString(Buffer.alloc(4096, 97))?.length, 4096)
})

test('errors cross the wire by one table', () => {
  assert.equal(errnoOf(new LifeboatError('disk-full', '')), C.NBD_ENOSPC)
  assert.equal(errnoOf(new LifeboatError('corrupt-object', '')), C.NBD_EIO)
  assert.equal(errnoOf(new LifeboatError('store-unreachable', '')), C.NBD_EIO)
  assert.equal(errnoOf(Object.assign(new Error('x'), { code: 'EROFS' })), C.NBD_EPERM)
  assert.equal(errnoOf(Object.assign(new Error('x'), { code: 'EFBIG' })), C.NBD_ENOSPC)
  assert.equal(errnoOf(new RangeError('x')), C.NBD_EINVAL)
  assert.equal(errnoOf('thrown text'), C.NBD_EIO)
  assert.equal(errnoOf(nbdError(C.NBD_EOVERFLOW, 'READ')), C.NBD_EOVERFLOW)
  assert.equal(nbdError(77, 'READ').details.errno, C.NBD_EINVAL, 'values outside the list mean EINVAL')
})

test('log lines escape what clients send, and cannot be flooded', () => {
  assert.equal(escapeText('a\n\u001b[31m\u202e"'), '"a\\n\\u001b[31m\\u202e\\""')
  assert.ok(escapeText('x'.repeat(5000)).length < 200)
  const lines: string[] = []
  let nowMs = 0
  const clock = { now: () => new Date(0), monotonicMs: () => nowMs, sleep: async () => {} }
  const log = rateLimited(line => lines.push(line), clock, 10)
  for (let i = 0; i < 1000; i++) log(`line ${i}`)
  assert.equal(lines.length, 10)
  nowMs = 1000
  log('next')
  assert.deepEqual(lines.slice(10), ['990 more lines suppressed', 'next'])
})
