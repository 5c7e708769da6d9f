import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { BlockReader } from '../../../src/block/block-device.ts'
import { limits } from '../../../src/core/limits.ts'
import * as C from '../../../src/nbd/constants.ts'
import {
  advanceHandshake,
  type ExportCatalog,
  type HandshakeState,
  handshakeInsideTls,
  handshakeNeeds,
  initialHandshake,
  skipHandshake,
} from '../../../src/nbd/handshake.ts'
import type { NbdExport } from '../../../src/nbd/nbd-export.ts'
import * as O from '../../../src/nbd/option-codec.ts'
import { readU16, readU32, readU64 } from '../../../src/nbd/wire.ts'

const touched = () => assert.fail('the handshake touched the device')
const device: BlockReader = {
  size: 12_345_678,
  blockSize: 65536,
  readInto: touched,
  borrow: touched,
  extents: touched,
  [Symbol.asyncDispose]: touched,
}
const vda: NbdExport = { name: 'vda', description: 'the first disk', device, readOnly: true }
const vdb: NbdExport = { name: 'vdb', device, readOnly: true }

const catalog = (
  exports: readonly NbdExport[] = [vda, vdb],
  admission: 'open' | 'full' | 'shutdown' = 'open',
  tls: ExportCatalog['tls'] = 'off',
): ExportCatalog => ({
  tls,
  optionsMax: limits.nbdOptionsMax,
  list: () => exports,
  find: name => exports.find(entry => entry.name === name),
  admission: () => admission,
})

interface Said {
  readonly type: number
  readonly payload: Buffer
}

/** Feeds bytes as a connection does. */
function run(input: Uint8Array, from: HandshakeState = initialHandshake, around = catalog()) {
  let state = from
  let at = 0
  const sent: Uint8Array[] = []
  while (!['transmission', 'closed', 'tls'].includes(state.phase)) {
    const need = handshakeNeeds(state)
    if (input.length - at < need) break
    const bytes = input.subarray(at, at + need)
    at += need
    const step =
      state.phase === 'option-skip' ? skipHandshake(state, need, around) : advanceHandshake(state, bytes, around)
    state = step.state
    sent.push(...step.replies)
  }
  return { state, sent: Buffer.concat(sent), rest: input.length - at }
}

function optionReplies(sent: Buffer): Said[] {
  const said: Said[] = []
  for (let at = 0; at < sent.length; ) {
    const header = O.parseOptionReplyHeader(sent.subarray(at))
    assert.ok(header)
    said.push({ type: header.type, payload: sent.subarray(at + 20, at + 20 + header.length) })
    at += 20 + header.length
  }
  return said
}

const haggling = run(Buffer.from([0, 0, 0, 3])).state
const ask = (option: number, payload: Uint8Array = Buffer.alloc(0), from = haggling, around = catalog()) => {
  const { state, sent } = run(O.encodeOption(option, payload), from, around)
  return { state, said: optionReplies(sent) }
}
const types = (said: readonly Said[]) => said.map(({ type }) => type)
const structured = ask(C.NBD_OPT_STRUCTURED_REPLY).state
const extended = ask(C.NBD_OPT_EXTENDED_HEADERS).state

test('client flags: unknown ones close; without FIXED_NEWSTYLE only EXPORT_NAME is heard', () => {
  assert.equal(run(Buffer.from([0, 0, 0, 4])).state.phase, 'closed')
  assert.equal(run(Buffer.from([128, 0, 0, 3])).state.phase, 'closed')
  const old = run(Buffer.from([0, 0, 0, 0])).state
  assert.equal(ask(C.NBD_OPT_LIST, undefined, old).state.phase, 'closed')
  const { state, sent } = run(O.encodeOption(C.NBD_OPT_EXPORT_NAME, Buffer.from('vda')), old)
  assert.equal(state.phase, 'transmission')
  assert.equal(sent.length, 134)
  assert.ok(sent.subarray(10).every(byte => byte === 0))
})

test('EXPORT_NAME: 10 bytes with NO_ZEROES; unknown names, too many connections and extended headers close', () => {
  const { state, sent } = run(O.encodeOption(C.NBD_OPT_EXPORT_NAME, Buffer.from('vda')), haggling)
  assert.equal(state.export, vda)
  assert.equal(sent.length, 10)
  assert.equal(readU64(sent, 0), device.size)
  assert.equal(readU16(sent, 8), 1 | 2 | 4 | 256 | 1024)
  const name = O.encodeOption(C.NBD_OPT_EXPORT_NAME, Buffer.from('nope'))
  assert.equal(run(name, haggling).state.phase, 'closed')
  const good = O.encodeOption(C.NBD_OPT_EXPORT_NAME, Buffer.from('vda'))
  assert.equal(run(good, extended).state.phase, 'closed')
  assert.equal(run(good, haggling, catalog([vda], 'full')).state.phase, 'closed')
})

test('ABORT is acknowledged whatever its data', () => {
  for (const payload of [Buffer.alloc(0), Buffer.from('bye')]) {
    const { state, said } = ask(C.NBD_OPT_ABORT, payload)
    assert.deepEqual(types(said), [C.NBD_REP_ACK])
    assert.equal(state.phase, 'closed')
  }
})

test('LIST names every export with its description; data is INVALID', () => {
  const { said } = ask(C.NBD_OPT_LIST)
  assert.deepEqual(types(said), [C.NBD_REP_SERVER, C.NBD_REP_SERVER, C.NBD_REP_ACK])
  assert.deepEqual(O.parseServer(said[0]!.payload), { name: 'vda', description: 'the first disk' })
  assert.deepEqual(types(ask(C.NBD_OPT_LIST, Buffer.from('x')).said), [C.NBD_REP_ERR_INVALID])
})

test('INFO and GO say the same, answer what was asked for, and refuse what does not add up', () => {
  const payload = O.encodeGo('vda', [C.NBD_INFO_NAME, C.NBD_INFO_DESCRIPTION, C.NBD_INFO_BLOCK_SIZE, 77])
  const info = ask(C.NBD_OPT_INFO, payload)
  const go = ask(C.NBD_OPT_GO, payload)
  assert.equal(info.state.phase, 'option-header')
  assert.equal(go.state.phase, 'transmission')
  assert.deepEqual(info.said, go.said)
  const infos = go.said.slice(0, -1).map(said => O.parseInfo(said.payload))
  assert.deepEqual(infos, [
    { info: 'export', size: device.size, flags: 1 | 2 | 4 | 256 | 1024 },
    { info: 'text', type: C.NBD_INFO_NAME, text: 'vda' },
    { info: 'text', type: C.NBD_INFO_DESCRIPTION, text: 'the first disk' },
    { info: 'block-size', minimum: 1, preferred: 65536, maximum: 32 * 2 ** 20 },
  ])
  assert.equal(ask(C.NBD_OPT_GO, O.encodeGo('vda', [])).said.length, 2)
  const unknown = ask(C.NBD_OPT_GO, O.encodeGo('nope', []))
  assert.deepEqual([types(unknown.said), unknown.state.phase], [[C.NBD_REP_ERR_UNKNOWN], 'option-header'])
  for (const bad of [
    payload.subarray(1),
    Buffer.concat([payload, Buffer.alloc(2)]),
    Buffer.alloc(0),
    O.encodeGo('a\0b', []),
  ])
    assert.deepEqual(types(ask(C.NBD_OPT_GO, bad).said), [C.NBD_REP_ERR_INVALID])
  const full = ask(C.NBD_OPT_GO, payload, haggling, catalog([vda], 'full'))
  assert.deepEqual([types(full.said), full.state.phase], [[C.NBD_REP_ERR_POLICY], 'option-header'])
})

test('STRUCTURED_REPLY and EXTENDED_HEADERS: no data, once, and the later mode rules', () => {
  assert.equal(structured.mode, 'structured')
  assert.equal(extended.mode, 'extended')
  for (const option of [C.NBD_OPT_STRUCTURED_REPLY, C.NBD_OPT_EXTENDED_HEADERS])
    assert.deepEqual(types(ask(option, Buffer.from('x')).said), [C.NBD_REP_ERR_INVALID])
  assert.deepEqual(types(ask(C.NBD_OPT_STRUCTURED_REPLY, undefined, structured).said), [C.NBD_REP_ERR_INVALID])
  assert.deepEqual(types(ask(C.NBD_OPT_STRUCTURED_REPLY, undefined, extended).said), [C.NBD_REP_ERR_EXT_HEADER_REQD])
  assert.equal(ask(C.NBD_OPT_EXTENDED_HEADERS, undefined, structured).state.mode, 'extended')
  const df = (state: HandshakeState) =>
    readU16(ask(C.NBD_OPT_INFO, O.encodeGo('vda', []), state).said[0]!.payload, 10) & C.NBD_FLAG_SEND_DF
  assert.deepEqual([df(haggling), df(structured) !== 0, df(extended) !== 0], [0, true, true])
})

const setContexts = (name: string, queries: string[], from = structured) =>
  ask(C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries(name, queries), from)

test('meta contexts: listed by namespace, selected by full name, once, and for the name that GO uses', () => {
  const list = (queries: string[]) =>
    ask(C.NBD_OPT_LIST_META_CONTEXT, O.encodeMetaQueries('vda', queries), structured).said.slice(0, -1)
  for (const queries of [[], ['base:'], ['base:allocation', 'base:allocation']]) {
    assert.equal(list(queries).length, 1)
    assert.equal(list(queries)[0]!.payload.subarray(4).toString(), 'base:allocation')
  }
  for (const queries of [['base'], ['x-unknown:'], ['base:other']]) assert.equal(list(queries).length, 0)
  assert.deepEqual(
    types(setContexts('vda', ['base:allocation'], haggling).said),
    [C.NBD_REP_ERR_INVALID],
    'before structured',
  )
  const chosen = setContexts('vda', ['base:allocation', 'x:y', 'base:allocation'])
  assert.deepEqual(types(chosen.said), [C.NBD_REP_META_CONTEXT, C.NBD_REP_ACK])
  assert.equal(readU32(chosen.said[0]!.payload, 0), 1)
  assert.equal(setContexts('vda', ['base:']).said.length, 1, 'a wildcard never selects')
  const contextsAtGo = (state: HandshakeState, name: string) =>
    ask(C.NBD_OPT_GO, O.encodeGo(name, []), state).state.contexts.length
  assert.equal(contextsAtGo(chosen.state, 'vda'), 1)
  assert.equal(contextsAtGo(chosen.state, 'vdb'), 0)
  const payloadFlag = (state: HandshakeState) =>
    readU16(ask(C.NBD_OPT_GO, O.encodeGo('vda', []), state).said[0]!.payload, 10) & C.NBD_FLAG_BLOCK_STATUS_PAYLOAD
  assert.equal(payloadFlag(chosen.state), 0)
  assert.notEqual(payloadFlag(setContexts('vda', ['base:allocation'], extended).state), 0)
})

test('a SET_META_CONTEXT replaces the earlier choice even where it fails', () => {
  const chosen = setContexts('vda', ['base:allocation']).state
  const unknown = setContexts('nope', ['base:allocation'], chosen)
  assert.deepEqual(types(unknown.said), [C.NBD_REP_ERR_UNKNOWN])
  const broken = ask(C.NBD_OPT_SET_META_CONTEXT, Buffer.alloc(3), chosen)
  assert.deepEqual(types(broken.said), [C.NBD_REP_ERR_INVALID])
  for (const { state } of [unknown, broken]) assert.equal(state.selected.contexts.length, 0)
})

test('unknown options are UNSUP, with their payload passed over in any pieces, and the next option is heard', () => {
  const input = Buffer.concat([
    O.encodeOption(99, Buffer.alloc(60_000, 1)),
    O.encodeOption(C.NBD_OPT_LIST, Buffer.alloc(0)),
  ])
  const said = optionReplies(run(input, haggling).sent)
  assert.deepEqual(types(said), [C.NBD_REP_ERR_UNSUP, C.NBD_REP_SERVER, C.NBD_REP_SERVER, C.NBD_REP_ACK])
  const skipping = run(O.encodeOption(99, Buffer.alloc(10)).subarray(0, 16), haggling).state
  const half = skipHandshake(skipping, 4, catalog())
  assert.deepEqual([half.state.phase, half.state.length, half.replies.length], ['option-skip', 6, 0])
  assert.equal(skipHandshake(half.state, 6, catalog()).replies.length, 1)
  assert.deepEqual(types(ask(98).said), [C.NBD_REP_ERR_UNSUP])
})

test('without TLS, STARTTLS is answered as not there, and INVALID with data', () => {
  assert.deepEqual(types(ask(C.NBD_OPT_STARTTLS).said), [C.NBD_REP_ERR_UNSUP])
  assert.deepEqual(types(ask(C.NBD_OPT_STARTTLS, Buffer.from('x')).said), [C.NBD_REP_ERR_INVALID])
})

const everyOption: readonly [number, Buffer][] = [
  [C.NBD_OPT_LIST, Buffer.alloc(0)],
  [C.NBD_OPT_INFO, O.encodeGo('vda', [])],
  [C.NBD_OPT_GO, O.encodeGo('vda', [])],
  [C.NBD_OPT_STRUCTURED_REPLY, Buffer.alloc(0)],
  [C.NBD_OPT_LIST_META_CONTEXT, O.encodeMetaQueries('vda', [])],
  [C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries('vda', ['base:allocation'])],
  [C.NBD_OPT_EXTENDED_HEADERS, Buffer.alloc(0)],
  [4, Buffer.alloc(3)],
  [99, Buffer.alloc(100)],
  [C.NBD_OPT_GO, Buffer.from('malformed')],
]

test('FORCEDTLS: every option but STARTTLS and ABORT is TLS_REQD, also an unknown one; EXPORT_NAME closes', () => {
  const forced = catalog([vda, vdb], 'open', 'demanded')
  for (const [option, payload] of everyOption) {
    const { state, said } = ask(option, payload, haggling, forced)
    assert.deepEqual([types(said), state.phase, state.mode], [[C.NBD_REP_ERR_TLS_REQD], 'option-header', 'simple'])
    assert.ok(!said[0]!.payload.includes('vda'))
  }
  assert.deepEqual(types(ask(C.NBD_OPT_ABORT, undefined, haggling, forced).said), [C.NBD_REP_ACK])
  const byName = run(O.encodeOption(C.NBD_OPT_EXPORT_NAME, Buffer.from('vda')), haggling, forced)
  assert.deepEqual([byName.state.phase, byName.sent.length], ['closed', 0])
  const oldClient = run(O.encodeOption(C.NBD_OPT_STARTTLS, Buffer.alloc(0)), { ...haggling, fixed: false }, forced)
  assert.equal(oldClient.state.phase, 'closed', 'TLS needs fixed newstyle')
})

test('SELECTIVETLS: what is not shown in the clear is TLS_REQD for INFO and GO, as what does not exist is, and UNKNOWN elsewhere', () => {
  const selective = catalog([vdb], 'open', 'offered')
  for (const name of ['vda', 'nothing'])
    for (const option of [C.NBD_OPT_INFO, C.NBD_OPT_GO])
      assert.deepEqual(types(ask(option, O.encodeGo(name, []), haggling, selective).said), [C.NBD_REP_ERR_TLS_REQD])
  const structured = { ...haggling, mode: 'structured' as const }
  for (const name of ['vda', 'nothing'])
    assert.deepEqual(
      types(ask(C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries(name, []), structured, selective).said),
      [C.NBD_REP_ERR_UNKNOWN],
    )
  assert.equal(
    run(O.encodeOption(C.NBD_OPT_EXPORT_NAME, Buffer.from('vda')), haggling, selective).state.phase,
    'closed',
  )
  assert.deepEqual(types(ask(C.NBD_OPT_LIST, undefined, haggling, selective).said), [C.NBD_REP_SERVER, C.NBD_REP_ACK])
  assert.equal(ask(C.NBD_OPT_GO, O.encodeGo('vdb', []), haggling, selective).state.phase, 'transmission')
  assert.deepEqual(types(ask(99, undefined, haggling, selective).said), [C.NBD_REP_ERR_UNSUP])
})

test('STARTTLS: acknowledged once, INVALID inside TLS, and all that was agreed on before it is forgotten', () => {
  const forced = catalog([vda], 'open', 'demanded')
  const { state, said } = ask(C.NBD_OPT_STARTTLS, undefined, haggling, forced)
  assert.deepEqual([types(said), state.phase], [[C.NBD_REP_ACK], 'tls'])
  const selective = catalog([vda], 'open', 'offered')
  const before = Buffer.concat([
    O.encodeOption(C.NBD_OPT_EXTENDED_HEADERS, Buffer.alloc(0)),
    O.encodeOption(C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries('vda', ['base:allocation'])),
    O.encodeOption(C.NBD_OPT_STARTTLS, Buffer.alloc(0)),
  ])
  const agreed = run(before, haggling, selective).state
  assert.deepEqual([agreed.phase, agreed.mode, agreed.selected.contexts.length], ['tls', 'extended', 1])
  const inside = handshakeInsideTls(agreed)
  assert.deepEqual([inside.phase, inside.mode, inside.selected], ['option-header', 'simple', initialHandshake.selected])
  assert.deepEqual([inside.fixed, inside.noZeroes, inside.optionCount], [true, true, 3])
  const secure = catalog([vda], 'open', 'on')
  assert.deepEqual(types(ask(C.NBD_OPT_STARTTLS, undefined, inside, secure).said), [C.NBD_REP_ERR_INVALID])
  for (const [option, payload] of everyOption)
    assert.ok(!types(ask(option, payload, inside, secure).said).includes(C.NBD_REP_ERR_TLS_REQD))
  assert.deepEqual(types(ask(C.NBD_OPT_GO, O.encodeGo('x', []), inside, secure).said), [C.NBD_REP_ERR_UNKNOWN])
})

test('limits: a bad magic, a payload too long for its option and too many options close before anything is allocated', () => {
  assert.equal(run(Buffer.alloc(16), haggling).state.phase, 'closed')
  const header = (option: number, length: number) => {
    const bytes = O.encodeOption(option, Buffer.alloc(0))
    bytes.writeUInt32BE(length, 12)
    return bytes
  }
  for (const option of [C.NBD_OPT_GO, C.NBD_OPT_LIST, 99, C.NBD_OPT_EXPORT_NAME])
    for (const length of [64 * 1024 + 1, 0xffffffff])
      assert.equal(run(header(option, length), haggling).state.phase, 'closed')
  assert.equal(run(header(C.NBD_OPT_SET_META_CONTEXT, 2 ** 20), haggling).state.phase, 'option-payload')
  assert.equal(run(header(C.NBD_OPT_SET_META_CONTEXT, 2 ** 20 + 1), haggling).state.phase, 'closed')
  const many = Buffer.concat(Array.from({ length: 257 }, () => O.encodeOption(99, Buffer.alloc(0))))
  const { state, sent } = run(many, haggling)
  assert.deepEqual([state.phase, optionReplies(sent).length], ['closed', 256])
})

test('while shutting down, options are refused with SHUTDOWN and ABORT still works', () => {
  const closing = catalog([vda], 'shutdown')
  assert.deepEqual(types(ask(C.NBD_OPT_GO, O.encodeGo('vda', []), haggling, closing).said), [C.NBD_REP_ERR_SHUTDOWN])
  assert.deepEqual(types(ask(C.NBD_OPT_ABORT, undefined, haggling, closing).said), [C.NBD_REP_ACK])
})
