import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { decodeName, encodeName, isName, NAME_BYTES_MAX } from '../../../src/files/name.ts'

/** Bytes of all kinds, with the beginnings and pieces of UTF-8 sequences often. */
const bytesOf = fc
  .array(
    fc.oneof(
      fc.uint8Array({ minLength: 1, maxLength: 3 }),
      fc.string({ unit: 'binary', minLength: 1, maxLength: 3 }).map(text => Buffer.from(text)),
      fc.constantFrom(
        ...['c3', 'c3a9', 'eda080', 'edb380', 'f09f9880', 'f09f98', 'e2', '80', 'ff', 'efbfbd', 'efbbbf', 'c080'].map(
          hex => Buffer.from(hex, 'hex'),
        ),
      ),
    ),
    { maxLength: 40 },
  )
  .map(pieces => Buffer.concat(pieces))

test('every sequence of bytes is a string that gives the same bytes', () => {
  fc.assert(
    fc.property(bytesOf, bytes => assert.deepEqual(encodeName(decodeName(bytes)), bytes)),
    { numRuns: 5000 },
  )
})

test('other bytes are another string', () => {
  fc.assert(
    fc.property(bytesOf, bytesOf, (a, b) => assert.equal(decodeName(a) === decodeName(b), a.equals(b))),
    { numRuns: 2000 },
  )
})

test('UTF-8 reads as what it says', () => {
  for (const name of ['fstab', 'naïve', '日本語', '\u{1f600}', '\ufeffmarked', '\ufffd'])
    assert.equal(decodeName(Buffer.from(name)), name)
  assert.equal(decodeName(Buffer.from([0x61, 0xff, 0xc3])), 'a\udcff\udcc3')
  assert.equal(decodeName(Buffer.from('f09f9880ff', 'hex')), '\u{1f600}\udcff')
})

test('all bytes that a directory of Linux may hold are names', () => {
  fc.assert(
    fc.property(bytesOf, bytes => {
      const name = decodeName(bytes)
      const dots = name === '.' || name === '..'
      const fits = bytes.length > 0 && bytes.length <= NAME_BYTES_MAX && !bytes.includes(0) && !bytes.includes(0x2f)
      assert.equal(isName(name), fits && !dots)
    }),
    { numRuns: 3000 },
  )
})

test('what would lead elsewhere, end a string or name other bytes is no name', () => {
  const hostile = {
    empty: '',
    itself: '.',
    parent: '..',
    absolute: '/etc/passwd',
    above: '../x',
    below: 'a/b',
    'with NUL': 'a\0b',
    'of 10 kB': 'x'.repeat(10_000),
    '256 bytes': 'x'.repeat(256),
    '256 bytes in 128 characters': 'é'.repeat(128),
    'half a pair that is no byte': 'a\ud800',
    'a byte written as if it were none': '\udc41',
    'bytes that are UTF-8 together': '\udcc3\udca9',
  }
  for (const [what, name] of Object.entries(hostile)) assert.equal(isName(name), false, what)
  for (const name of ['...', '.x', '-rf', 'a\nb', ' ', 'x'.repeat(255), 'é'.repeat(127), 'con', 'a\\b', '\udcff'])
    assert.equal(isName(name), true, JSON.stringify(name))
})
