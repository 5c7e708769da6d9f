/** Names in the mount, over random texts made of what makes trouble. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { hex, pointId } from '../../../src/core/ids.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { isName } from '../../../src/files/name.ts'
import { namedPoints } from '../../../src/mount/listing.ts'
import { distinctNames, safeName, timeName } from '../../../src/mount/names.ts'
import { parsePointReference, resolvePoint } from '../../../src/repository/point-ref.ts'
import type { PointSummary } from '../../../src/repository/repository.ts'

const SEED = `names-${process.env.SEED ?? '1'}`
const PIECES = [
  '/',
  '.',
  '-',
  '%',
  '%2F',
  '%~',
  '~2',
  '\\',
  '\0',
  '\n',
  '\u001b[31m',
  '\u202e',
  '\u200b',
  '\u2028',
  'é',
  '🦙',
  '日本',
  '\ud800',
  '\udcff',
  ' ',
  'a',
  'A',
  'web',
  'x'.repeat(90),
  '語'.repeat(40),
]

test('names are safe, fit, and two texts never have the same one', () => {
  const random = seededRandom(SEED)
  const byName = new Map<string, string>()
  const texts = new Set<string>(['', '.', '..', '-', '%'])
  while (texts.size < 20_000)
    texts.add([...random(1 + (random(1)[0]! % 5))].map(byte => PIECES[byte % PIECES.length]!).join(''))
  let long = 0
  for (const text of texts) {
    const name = safeName(text)
    assert.ok(isName(name), JSON.stringify([text, name]))
    assert.doesNotMatch(name, /^[-.]|[\p{Cc}\p{Cf}\p{Zl}\p{Zp}/\\]/u, JSON.stringify([text, name]))
    assert.ok(name.isWellFormed())
    assert.equal(byName.get(name), undefined, JSON.stringify([text, byName.get(name)]))
    byName.set(name, text)
    if (name.includes('%~')) long++
    assert.ok(Buffer.byteLength(safeName(text, { reserve: 30 })) <= 225)
  }
  process.stdout.write(`${SEED}: ${texts.size} texts, ${long} of them too long\n`)
  assert.ok(long > 20, `${long}`)
})

test('a name that was given before gets another ending', () => {
  const distinct = distinctNames()
  const names = ['a', 'a', 'a~2', 'a', 'x'.repeat(255), 'x'.repeat(255)].map(distinct)
  assert.deepEqual(names.slice(0, 4), ['a', 'a~2', 'a~2~2', 'a~3'])
  assert.equal(new Set(names).size, names.length)
  assert.ok(names.every(isName))
})

test('the name of each point is a reference to it', () => {
  const random = seededRandom(SEED)
  const from = Date.parse('2026-11-21T10:00:00Z')
  // Some in one second.
  const points = Array.from(
    { length: 300 },
    (_, n): PointSummary => ({
      id: pointId(hex(random(8))),
      vm: 'web',
      takenAt: new Date(from + Math.floor(n / 2) * 1000 * (1 + (n % 3))),
      key: `${n}`,
      state: 'committed',
    }),
  ).sort((a, b) => a.takenAt.getTime() - b.takenAt.getTime() || (a.id < b.id ? -1 : 1))
  const named = namedPoints(points)
  assert.equal(named.size, points.length)
  assert.deepEqual([...named.keys()], [...named.keys()].sort(), 'they sort by time')
  let shared = 0
  for (const [name, point] of named) {
    if (name !== timeName(point.takenAt)) shared++
    for (const zone of ['UTC', 'America/New_York'])
      assert.equal(resolvePoint(parsePointReference(`web@${name}`, { zone }), points).id, point.id, name)
    const { disk, path } = parsePointReference(`web@${name}/vda/p2:/etc`)
    assert.deepEqual([disk, path], ['vda/p2', '/etc'])
  }
  assert.ok(shared > 10, `${shared} share their second`)
})
