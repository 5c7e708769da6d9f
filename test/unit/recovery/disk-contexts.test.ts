import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { PointId } from '../../../src/core/ids.ts'
import type { Range } from '../../../src/core/range.ts'
import { diskContexts, type OlderPoints, WRITTEN_CONTEXT } from '../../../src/recovery/disk-contexts.ts'

const id = (text: string) => text as PointId
const SIZE = 1000
const runs = async (context: { extents(range: Range): AsyncIterable<Range & { flags: number }> }, range: Range) =>
  (await Array.fromAsync(context.extents(range))).map(({ offset, length, flags }) => [offset, length, flags])
const whole = { offset: 0, length: SIZE }

function olderPoints(differences: Record<string, readonly Range[]>) {
  const asked: string[] = []
  const older: OlderPoints = {
    points: Object.keys(differences).map(id),
    changedSince: async (since, newer, disk) => {
      asked.push(`${since} ${newer} ${disk}`)
      const ranges = differences[since]
      if (ranges === undefined || ranges.length === 0) throw new Error('away')
      return ranges
    },
  }
  return { older, asked }
}

test('each older point is a context that is worked out when somebody asks, once for all that ask', async () => {
  const { older, asked } = olderPoints({ a: [{ offset: 100, length: 50 }], b: [{ offset: 0, length: SIZE }] })
  const [a, b, ...more] = diskContexts({ disk: 'vda', point: () => id('now'), older }, {})
  assert.deepEqual([a?.name, b?.name, more], ['x-lifeboat:changed-since:a', 'x-lifeboat:changed-since:b', []])
  assert.equal(a?.listedAs, 'x-lifeboat:changed-since:')
  assert.deepEqual(asked, [])
  const [first] = await Promise.all([runs(a!, whole), runs(a!, whole)])
  assert.deepEqual(first, [
    [0, 100, 0],
    [100, 50, 1],
    [150, 850, 0],
  ])
  assert.deepEqual(await runs(a!, { offset: 120, length: 100 }), [
    [120, 30, 1],
    [150, 70, 0],
  ])
  assert.deepEqual(await runs(b!, { offset: 5, length: 5 }), [[5, 5, 1]])
  assert.deepEqual(asked, ['a now vda', 'b now vda'])
})

test('what a client wrote is a context of its own, and has changed since every point', async () => {
  const { older } = olderPoints({
    a: [
      { offset: 100, length: 50 },
      { offset: 400, length: 1 },
    ],
  })
  const writes = [
    { offset: 90, length: 20 },
    { offset: 300, length: 10 },
  ]
  const written = (range: Range) => writes.filter(({ offset }) => offset < range.offset + range.length)
  const [own, a] = diskContexts({ disk: 'vda', point: () => id('now'), older, written }, {})
  assert.equal(own?.name, WRITTEN_CONTEXT)
  assert.deepEqual(await runs(own!, { offset: 0, length: 200 }), [
    [0, 90, 0],
    [90, 20, 1],
    [110, 90, 0],
  ])
  assert.deepEqual(await runs(a!, { offset: 0, length: 400 }), [
    [0, 90, 0],
    [90, 60, 1],
    [150, 150, 0],
    [300, 10, 1],
    [310, 90, 0],
  ])
})

test('a difference that failed is tried again; the point below may be replaced; few are remembered', async () => {
  const differences: Record<string, readonly Range[]> = { a: [] }
  const { older, asked } = olderPoints(differences)
  let newer = id('now')
  const [a] = diskContexts({ disk: 'vda', point: () => newer, older }, {})
  await assert.rejects(runs(a!, whole), /away/)
  differences.a = [{ offset: 0, length: 1 }]
  await runs(a!, whole)
  newer = id('later')
  await runs(a!, whole)
  assert.deepEqual(asked, ['a now vda', 'a now vda', 'a later vda'])
  for (let i = 0; i < 4; i++) {
    newer = id(`p${i}`)
    await runs(a!, whole)
  }
  newer = id('now')
  await runs(a!, whole)
  assert.equal(asked.length, 8, 'forgotten and asked again')
  const stop = AbortSignal.abort(new Error('enough'))
  await assert.rejects(Array.fromAsync(a!.extents(whole, { signal: stop })), /enough/)
})

test('too many ranges are joined over small gaps: more is said to have changed, never less', async () => {
  const many = Array.from({ length: 2 ** 20 + 10 }, (_, i) => ({ offset: i * 131_072, length: 65_536 }))
  const { older } = olderPoints({ a: many })
  const [a] = diskContexts({ disk: 'vda', point: () => id('now'), older }, {})
  const range = { offset: 5 * 131_072, length: 131_072 }
  assert.deepEqual(await runs(a!, range), [[range.offset, range.length, 1]])
})
