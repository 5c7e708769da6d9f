import assert from 'node:assert/strict'
import { test } from 'node:test'
import { limits } from '../../../src/core/limits.ts'
import type { StatusExtent } from '../../../src/core/range.ts'
import { statusCost, statusPayload } from '../../../src/nbd/status-list.ts'
import { readU64 } from '../../../src/nbd/wire.ts'

async function* said(extents: Iterable<StatusExtent>): AsyncGenerator<StatusExtent> {
  yield* extents
}
function* alternating(length: number, unit: number): Generator<StatusExtent> {
  for (let offset = 0; offset < length; offset += unit) yield { offset, length: unit, flags: (offset / unit) % 2 }
}
const range = { offset: 0, length: 4096 }
const every = { countMax: limits.nbdExtentsMax, extended: false }

test('neighbours of one state are one descriptor, and the last is cut at the end of the range', async () => {
  const extents = [
    { offset: 0, length: 512, flags: 1 },
    { offset: 512, length: 512, flags: 1 },
    { offset: 1024, length: 1024, flags: 0 },
    { offset: 2048, length: 2 ** 40, flags: 7 },
  ]
  const list = await statusPayload(9, said(extents), range, every)
  const words = [...Array(list.length / 4).keys()].map(i => list.readUInt32BE(4 * i))
  assert.deepEqual(words, [9, 1024, 1, 1024, 0, 2048, 7])
  const wide = { offset: 0, length: 2 ** 43 }
  const large = await statusPayload(9, said([{ offset: 0, length: 2 ** 43, flags: 3 }]), wide, {
    ...every,
    extended: true,
  })
  assert.deepEqual(
    [large.readUInt32BE(0), large.readUInt32BE(4), readU64(large, 8), readU64(large, 16)],
    [9, 1, 2 ** 43, 3],
  )
})

test('a list ends at its bound, and takes no more than the budget counted for it', async () => {
  const length = 512 * 3 * limits.nbdExtentsMax
  for (const extended of [false, true]) {
    const shape = { countMax: limits.nbdExtentsMax, extended }
    const list = await statusPayload(1, said(alternating(length, 512)), { offset: 0, length }, shape)
    assert.equal(list.length, (extended ? 8 : 4) + (extended ? 16 : 8) * limits.nbdExtentsMax)
    assert.ok(list.length <= statusCost(length) + 8)
    assert.ok(limits.nbdExtentsMax <= 2 ** 20, "the protocol's own bound")
    const one = await statusPayload(1, said(alternating(length, 512)), { offset: 0, length }, { countMax: 1, extended })
    assert.equal(one.length, extended ? 24 : 12)
  }
})

test('a context that leaves a gap, goes backwards, says nothing or stands still fails', async () => {
  for (const extents of [
    [],
    [{ offset: 0, length: 0, flags: 0 }],
    [{ offset: 512, length: 512, flags: 0 }],
    [
      { offset: 0, length: 512, flags: 0 },
      { offset: 1024, length: 512, flags: 0 },
    ],
    [
      { offset: 0, length: 512, flags: 0 },
      { offset: 0, length: 512, flags: 1 },
    ],
  ])
    await assert.rejects(statusPayload(1, said(extents), range, every), { code: 'internal' })
})
