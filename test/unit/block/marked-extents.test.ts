import assert from 'node:assert/strict'
import { test } from 'node:test'
import { markedExtents } from '../../../src/block/marked-extents.ts'
import type { Range } from '../../../src/core/range.ts'

const said = async (range: Range, marked: Iterable<Range>) =>
  (await Array.fromAsync(markedExtents(range, marked))).map(({ offset, length, flags }) => [offset, length, flags])

test('ranges become runs with and without the flag, clipped to what was asked for', async () => {
  const range = { offset: 100, length: 50 }
  const marks = [
    { offset: 0, length: 10 },
    { offset: 95, length: 10 },
    { offset: 110, length: 5 },
    { offset: 115, length: 1 },
    { offset: 149, length: 100 },
    { offset: 300, length: 1 },
  ]
  assert.deepEqual(await said(range, marks), [
    [100, 5, 1],
    [105, 5, 0],
    [110, 5, 1],
    [115, 1, 1],
    [116, 33, 0],
    [149, 1, 1],
  ])
  assert.deepEqual(await said(range, []), [[100, 50, 0]])
  assert.deepEqual(await said(range, [{ offset: 0, length: 1000 }]), [[100, 50, 1]])
})

test('ranges that go backwards or overlap fail instead of leaving something out', async () => {
  for (const marks of [
    [
      { offset: 120, length: 5 },
      { offset: 110, length: 5 },
    ],
    [
      { offset: 110, length: 20 },
      { offset: 120, length: 20 },
    ],
  ])
    await assert.rejects(said({ offset: 100, length: 50 }, marks), { code: 'internal' })
})
