import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { glob, isPattern } from '../../../src/files/glob.ts'

const split = (path: string): string[] => path.split('/').filter(name => name !== '')
const matches = (pattern: string, path: string): boolean => glob(pattern).matches(split(path))

const TABLE: readonly (readonly [pattern: string, yes: readonly string[], no: readonly string[]])[] = [
  ['etc/fstab', ['etc/fstab', '/etc/fstab'], ['etc', 'etc/fstab/x', 'etc/fstab2', 'ETC/fstab']],
  ['/etc/*.conf/', ['etc/a.conf', 'etc/.conf', 'etc/.x.conf'], ['etc/a.confx', 'etc/d/a.conf', 'a.conf']],
  ['*', ['a', '.hidden', '\udcff', '日本'], ['a/b', '']],
  ['a?c', ['abc', 'a日c', 'a\u{1f600}c', 'a\udcffc'], ['ac', 'abbc']],
  ['[a-cx]1', ['a1', 'c1', 'x1'], ['d1', '-1']],
  ['[!a-c]', ['d', '\u{1f600}', '\udc80'], ['a', 'dd']],
  ['[^]]', ['a'], [']']],
  ['[]a]', [']', 'a'], ['b']],
  ['[a', ['[a'], ['a']],
  ['[\\]-]', [']', '-'], ['\\']],
  ['**', ['', 'a', 'a/b/c'], []],
  ['**/*.txt', ['a.txt', 'x/y/a.txt'], ['a.txt/b', 'atxt']],
  ['a/**/z', ['a/z', 'a/b/z', 'a/b/c/z'], ['z', 'a/b', 'b/a/z']],
  ['a/**', ['a', 'a/b', 'a/b/c'], ['b']],
  ['a/**/**/b/**/c', ['a/b/c', 'a/x/b/y/z/c'], ['a/c', 'a/b']],
  ['x**y', ['xy', 'xabcy'], ['x/y']],
  ['*.{jpg,png}', ['a.jpg', '.png'], ['a.gif', 'a.{jpg,png}']],
  ['{etc,var/{log,lib}}/*', ['etc/a', 'var/log/b', 'var/lib/c'], ['var/a', 'log/b']],
  ['{a}{', ['{a}{'], ['a{', 'a']],
  ['a{,b}', ['a', 'ab'], ['a{,b}']],
  ['\\*\\{a,b\\}', ['*{a,b}'], ['x{a,b}', '*a']],
  ['a\\', ['a\\'], ['a']],
]

test('patterns match what the table says', () => {
  for (const [pattern, yes, no] of TABLE) {
    for (const path of yes) assert.equal(matches(pattern, path), true, `${pattern} ${JSON.stringify(path)}`)
    for (const path of no) assert.equal(matches(pattern, path), false, `${pattern} ${JSON.stringify(path)}`)
  }
})

test('upper and lower case are one where that is asked for', () => {
  assert.equal(glob('Windows/*.[D]LL', { ignoreCase: true }).matches(['WINDOWS', 'ntdll.dll']), true)
  assert.equal(glob('Windows/*.DLL').matches(['WINDOWS', 'ntdll.dll']), false)
})

test('directories are entered only where something in them may match', () => {
  const { mayMatchBelow } = glob('/var/log/*.gz')
  for (const path of ['', 'var', 'var/log']) assert.equal(mayMatchBelow(split(path)), true, path)
  for (const path of ['etc', 'var/lib', 'var/log/a.gz', 'var/log/x'])
    assert.equal(mayMatchBelow(split(path)), false, path)
  assert.equal(glob('a/**').mayMatchBelow(['a', 'b', 'c']), true)
})

/** The plain model: tries everything. */
function modelMatches(pattern: readonly string[], name: readonly string[]): boolean {
  const [first, ...rest] = pattern
  if (first === undefined) return name.length === 0
  if (first === '*') return modelMatches(rest, name) || (name.length > 0 && modelMatches(pattern, name.slice(1)))
  return name.length > 0 && (first === '?' || first === name[0]) && modelMatches(rest, name.slice(1))
}

test('a name matches as trying all possibilities says', () => {
  const letters = (...choice: string[]) => fc.array(fc.constantFrom(...choice), { minLength: 1, maxLength: 9 })
  fc.assert(
    fc.property(letters('a', 'b', '*', '?'), letters('a', 'b'), (pattern, name) => {
      // Two stars are a directory path of any length.
      fc.pre(pattern.join('') !== '**')
      assert.equal(glob(pattern.join('')).matches([name.join('')]), modelMatches(pattern, name))
    }),
    { numRuns: 3000 },
  )
})

test('no pattern takes more than its length times the path', () => {
  const stars = `${'*a'.repeat(1000)}b`
  assert.equal(glob(stars).matches(['a'.repeat(255)]), false)
  const deep = `${'**/a/'.repeat(800)}b`
  assert.equal(glob(deep).matches(new Array(256).fill('a')), false)
})

test('patterns without bound are refused', () => {
  for (const pattern of ['{a,b}'.repeat(7), 'a'.repeat(5000)])
    assert.throws(
      () => glob(pattern),
      error => isLifeboatError(error, 'usage'),
      pattern.slice(0, 20),
    )
  assert.equal(glob('{a,b}'.repeat(6)).matches(['ababab']), true)
})

test('a path without anything to match is no pattern', () => {
  for (const text of ['/etc/fstab', 'a]b', 'a}']) assert.equal(isPattern(text), false)
  for (const text of ['*', 'a?', '[a]', '{a,b}', 'a\\*']) assert.equal(isPattern(text), true)
})
