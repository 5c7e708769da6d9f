import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import fc from 'fast-check'
import { packId, pointId } from '../../../src/core/ids.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { alignRanges, mergeRanges, type Range, totalLength } from '../../../src/core/range.ts'
import { forEachLimited } from '../../../src/core/scope.ts'

test('every error code stands in docs/operations.md with what to do, and nothing else does', async () => {
  const source = await readFile(new URL('../../../src/core/errors.ts', import.meta.url), 'utf8')
  const union = source.slice(source.indexOf('export type ErrorCode'), source.indexOf('export interface ErrorDetails'))
  const codes = [...union.matchAll(/'([a-z-]+)'/g)].map(match => match[1])
  const page = await readFile(new URL('../../../docs/operations.md', import.meta.url), 'utf8')
  const rows = page.split('\n').filter(line => line.startsWith('| `'))
  const documented = rows.flatMap(row => [...(row.split('|')[1] ?? '').matchAll(/`([a-z-]+)`/g)].map(match => match[1]))
  assert.deepEqual([...documented].sort(), [...codes].sort())
})

const ranges = fc.array(fc.record({ offset: fc.nat(500), length: fc.nat(60) }), { maxLength: 12 })
const bytesOf = (list: readonly Range[]): Set<number> =>
  new Set(list.flatMap(({ offset, length }) => Array.from({ length }, (_, at) => offset + at)))

test('merged ranges hold the same bytes, rise and do not touch; aligned ones hold at least those', () => {
  fc.assert(
    fc.property(ranges, list => {
      const merged = mergeRanges(list)
      assert.deepEqual(bytesOf(merged), bytesOf(list))
      assert.equal(totalLength(merged), bytesOf(list).size)
      for (const [at, range] of merged.entries()) {
        const before = merged[at - 1]
        if (before) assert.ok(range.offset > before.offset + before.length)
      }
      const size = 560
      const aligned = alignRanges(
        list.filter(range => range.offset + range.length <= size),
        16,
        size,
      )
      for (const range of aligned) assert.ok(range.offset % 16 === 0 && range.offset + range.length <= size)
      for (const byte of bytesOf(list.filter(range => range.offset + range.length <= size)))
        assert.ok(bytesOf(aligned).has(byte))
    }),
  )
})

test('an id of the wrong length or alphabet is refused', () => {
  assert.throws(() => pointId('00'), /not a point id/)
  assert.throws(() => packId('g'.repeat(32)), /not a pack id/)
  assert.equal(pointId('0123456789abcdef'), '0123456789abcdef')
})

test('a seed repeats its stream, another seed gives another', () => {
  const [a, b, c] = [seededRandom('1'), seededRandom('1'), seededRandom('2')]
  assert.deepEqual([a(7), a(40)], [b(7), b(40)])
  assert.notDeepEqual(a(32), c(32))
})

test('forEachLimited bounds what is under way, stops at the first failure and leaves no sibling running', async () => {
  let running = 0
  let most = 0
  let started = 0
  const work = async (item: number, signal: AbortSignal) => {
    started++
    running++
    most = Math.max(most, running)
    await new Promise(resolve => setTimeout(resolve, 2))
    running--
    if (item === 5) throw new Error('five')
    signal.throwIfAborted()
  }
  await assert.rejects(
    forEachLimited(
      Array.from({ length: 100 }, (_, at) => at),
      4,
      work,
    ),
    /five/,
  )
  assert.equal(running, 0)
  assert.equal(most, 4)
  assert.ok(started < 20, `${started} were started`)
})

test('forEachLimited throws what its source throws, and the signal that was given', async () => {
  async function* source() {
    yield 1
    throw new Error('listing failed')
  }
  await assert.rejects(
    forEachLimited(source(), 2, async () => {}),
    /listing failed/,
  )
  const stop = AbortSignal.abort(new Error('stopped'))
  await assert.rejects(
    forEachLimited([1, 2], 2, async () => {}, { signal: stop }),
    /stopped/,
  )
})
