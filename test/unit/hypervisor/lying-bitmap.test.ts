/**
 * R24: a server that lies about what changed. The increment that is made of its answer, over the old contents, is the new
 * contents, or there is none: everything is read instead, or the capture fails. A silent hole is neither.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../../../src/core/clock.ts'
import { isLifeboatError } from '../../../src/core/errors.ts'
import type { PointId } from '../../../src/core/ids.ts'
import { KiB, MiB } from '../../../src/core/limits.ts'
import { bitmapContext, changesByBitmap, type NbdReader } from '../../../src/hypervisor/nbd-reader.ts'
import { connectNbd } from '../../../src/nbd/client.ts'
import * as C from '../../../src/nbd/constants.ts'
import * as O from '../../../src/nbd/option-codec.ts'
import type { RequestHeader } from '../../../src/nbd/wire.ts'
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

const SIZE = MiB
const DIRTY: readonly [number, number][] = [
  [64 * KiB, 64 * KiB],
  [512 * KiB, 192 * KiB],
]
const before = patternBytes(SIZE)
const now = Buffer.from(before)
for (const [offset, length] of DIRTY) patternBytes(length, 7).copy(now, offset)

const bitmap = 'lifeboat-b0'
const change = { base: '0123456789abcdef' as PointId, bitmap }

/** Pairs of length and flags from `offset` on, as an honest server has them. */
function truth(offset: number, length: number): number[] {
  const pairs: number[] = []
  const end = offset + length
  let at = offset
  for (const [start, size] of [...DIRTY, [SIZE, 0] as const]) {
    if (start > at && at < end) pairs.push(Math.min(start, end) - at, 0)
    at = Math.max(at, Math.min(start, end))
    if (start + size > at && at < end) pairs.push(Math.min(start + size, end) - at, 1)
    at = Math.max(at, Math.min(start + size, end))
  }
  return pairs
}

type Status = (r: RequestHeader, s: Replies) => readonly Uint8Array[]
const allocation = (r: RequestHeader, s: Replies) => s.status(r, 0, 1, r.length, 0)
const answer = (r: RequestHeader, s: Replies, pairs: readonly number[], flags = 1) => [
  allocation(r, s),
  s.status(r, flags, 2, ...pairs),
]

const offering =
  (...contexts: readonly string[]): Handshake =>
  option => {
    if (option !== C.NBD_OPT_SET_META_CONTEXT) return honestHandshake(SIZE)(option)
    const replies = contexts.map((name, i) =>
      O.encodeOptionReply(option, C.NBD_REP_META_CONTEXT, O.encodeContext(i + 1, name)),
    )
    return [...replies, O.encodeOptionReply(option, C.NBD_REP_ACK)]
  }

interface Lie {
  readonly status: Status
  readonly handshake?: Handshake
  readonly cutsOff?: boolean
  readonly due: 'incremental' | 'full' | 'failed'
}

const lies: Readonly<Record<string, Lie>> = {
  'none: the truth': { status: (r, s) => answer(r, s, truth(r.offset, r.length)), due: 'incremental' },
  'extents shorter than asked for, each time': {
    status: (r, s) => answer(r, s, truth(r.offset, r.length).slice(0, 2)),
    due: 'incremental',
  },
  'one block at a time': {
    status: (r, s) => answer(r, s, truth(r.offset, Math.min(r.length, 4096))),
    due: 'incremental',
  },
  'an extent of nothing before the dirty one': {
    status: (r, s) => answer(r, s, [0, 1, ...truth(r.offset, r.length)]),
    due: 'failed',
  },
  'nothing but an extent of nothing': { status: (r, s) => answer(r, s, [0, 0]), due: 'failed' },
  'a list of nothing': { status: (r, s) => answer(r, s, []), due: 'failed' },
  'extents behind the end': { status: (r, s) => answer(r, s, [r.length, 0, 4096, 1]), due: 'failed' },
  'the bitmap is not offered': {
    status: r => assert.fail(`asked at ${r.offset}`),
    handshake: offering('base:allocation'),
    due: 'full',
  },
  'another bitmap is offered': {
    status: r => assert.fail(`asked at ${r.offset}`),
    handshake: offering('base:allocation', bitmapContext('other')),
    due: 'full',
  },
  'the bitmap is missing in the reply': {
    status: (r, s) => [s.status(r, 1, 1, r.length, 0)],
    due: 'failed',
  },
  'the allocation twice instead of the bitmap': {
    status: (r, s) => [allocation(r, s), s.status(r, 1, 1, r.length, 0)],
    due: 'failed',
  },
  'an error behind the list': {
    status: (r, s) => [...answer(r, s, truth(r.offset, r.length), 0), s.error(r, C.NBD_EIO)],
    due: 'failed',
  },
  'dirty in the upper half of 64 bits': {
    status: (r, s) => answer(r, s, [r.length, s.mode === 'extended' ? 2 ** 32 + 1 : 1]),
    due: 'failed',
  },
  'the connection ends in the middle of a list': {
    status: (r, s) => [Buffer.concat(answer(r, s, truth(r.offset, r.length)) as Buffer[]).subarray(0, -6)],
    cutsOff: true,
    due: 'failed',
  },
  'the connection ends between two lists': { status: (r, s) => [allocation(r, s)], cutsOff: true, due: 'failed' },
}

/** Makes the increment that a capture would, and says what came of it. */
async function increment(view: NbdReader): Promise<'incremental' | 'full' | 'failed' | 'SILENT HOLE'> {
  const target = Buffer.from(before)
  try {
    const { changes, base } = await changesByBitmap(view, change, {})
    assert.equal(base !== undefined, changes.kind === 'incremental')
    const ranges = changes.kind === 'full' ? [{ offset: 0, length: SIZE }] : changes.ranges
    for (const { offset, length } of ranges) await view.readInto(target.subarray(offset, offset + length), offset)
    return target.equals(now) ? changes.kind : 'SILENT HOLE'
  } catch (error) {
    if (isLifeboatError(error, 'nbd-protocol') || isLifeboatError(error, 'nbd-io')) return 'failed'
    throw error
  }
}

test('over the wire: every lie is read around, or fails the capture; there is no silent hole', async t => {
  const holes: string[] = []
  let injected = 0
  for (const headers of ['structured', 'extended'] as const)
    for (const [name, { status, handshake, cutsOff, due }] of Object.entries(lies)) {
      // What has no 64 bits cannot hide anything in them.
      const outcomeDue = name.startsWith('dirty in') && headers === 'structured' ? 'incremental' : due
      let fired = handshake !== undefined
      const replying: Answer = (r, _later, s, hangUp) => {
        if (r.type !== C.NBD_CMD_BLOCK_STATUS) return [s.data(r, r.offset, now.subarray(r.offset, r.offset + r.length))]
        fired = true
        if (cutsOff) hangUp()
        return status(r, s)
      }
      const socket = freshSocket()
      const server = await brokenNbdServer(
        socket,
        replying,
        handshake ?? offering('base:allocation', bitmapContext(bitmap)),
      )
      const contexts = ['base:allocation', bitmapContext(bitmap)]
      const client = await connectNbd({
        socket,
        exportName: '',
        contexts,
        headers,
        clock: systemClock,
        requestMs: 20_000,
      })
      const outcome = await increment(client)
      await client[Symbol.asyncDispose]()
      await server[Symbol.asyncDispose]()
      assert.ok(fired, name)
      injected++
      if (outcome === 'SILENT HOLE') holes.push(name)
      assert.equal(outcome, outcomeDue, `${headers}: ${name}`)
    }
  t.diagnostic(`injected ${injected}, silent holes ${holes.length}`)
})

test('whatever stands between: extents out of order, with gaps, over one another or too few make it a full read', async t => {
  const honest: [number, number, number][] = [
    [0, 64 * KiB, 0],
    [64 * KiB, 64 * KiB, 1],
    [128 * KiB, 384 * KiB, 0],
    [512 * KiB, 192 * KiB, 1],
    [704 * KiB, 320 * KiB, 0],
  ]
  const cases: Record<string, [number, number, number][]> = {
    unsorted: honest.toReversed(),
    'two exchanged': [honest[0]!, honest[2]!, honest[1]!, honest[3]!, honest[4]!],
    'a gap where it is dirty': honest.filter((_, i) => i !== 1),
    'the end is missing': honest.slice(0, 3),
    'nothing at all': [],
    'past the end': [...honest, [SIZE, 4096, 0]],
    overlapping: [honest[0]!, [0, 128 * KiB, 0], ...honest.slice(2)],
    'an extent of nothing': [honest[0]!, [64 * KiB, 0, 1], ...honest.slice(1)],
  }
  const view = (extents: [number, number, number][]): NbdReader => ({
    size: SIZE,
    blockSize: 4096,
    readInto: async (target, offset) => void target.set(now.subarray(offset, offset + target.length)),
    extents: async function* (range) {
      yield { ...range, kind: 'data' }
    },
    async *blockStatus() {
      for (const [offset, length, flags] of extents) yield { offset, length, flags }
    },
    [Symbol.asyncDispose]: async () => {},
  })
  assert.equal(await increment(view(honest)), 'incremental')
  for (const [name, extents] of Object.entries(cases)) assert.equal(await increment(view(extents)), 'full', name)
  t.diagnostic(`injected ${Object.keys(cases).length}, silent holes 0`)
})
