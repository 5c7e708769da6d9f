/** Files as people see them: what a guest calls a file cannot break a terminal or look like another. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseVmPlace, placesOf } from '../../../src/cli/files-place.ts'
import { modeText, shownName, timeText } from '../../../src/cli/files-text.ts'

test('names are shown as ls -b does, with marks that hide or turn letters escaped too', () => {
  assert.equal(shownName('straße 日本 😀'), 'straße 日本 😀')
  assert.equal(shownName('a\nb\tc\\d'), 'a\\nb\\tc\\\\d')
  assert.equal(shownName('\x1b[31m'), '\\033[31m')
  assert.equal(shownName('\udcff\udc80'), '\\377\\200')
  assert.equal(shownName('txt.\u202eexe'), 'txt.\\342\\200\\256exe')
})

test('modes are those of ls', () => {
  const cases: readonly (readonly [Parameters<typeof modeText>[0]['kind'], number, string])[] = [
    ['file', 0o644, '-rw-r--r--'],
    ['file', 0o4755, '-rwsr-xr-x'],
    ['file', 0o6644, '-rwSr-Sr--'],
    ['directory', 0o1777, 'drwxrwxrwt'],
    ['directory', 0o1776, 'drwxrwxrwT'],
    ['symlink', 0o777, 'lrwxrwxrwx'],
    ['block-device', 0, 'b---------'],
  ]
  for (const [kind, permissions, text] of cases) assert.equal(modeText({ kind, permissions }), text)
})

test('times have nanoseconds, before 1970 too, and end where dates do', () => {
  assert.equal(timeText(0n), '1970-01-01T00:00:00.000000000Z')
  assert.equal(timeText(1_750_000_000_123_456_789n), '2025-06-15T15:06:40.123456789Z')
  assert.equal(timeText(-1n), '1969-12-31T23:59:59.999999999Z')
  assert.match(timeText(-(2n ** 63n)), /^1677-/)
  assert.match(timeText(2n ** 80n), /^\+275760-/)
})

test('a place of a VM names its path, and its volume where there are several', () => {
  assert.deepEqual(parseVmPlace('web:/etc/a:b', ['web']), { vm: 'web', path: '/etc/a:b' })
  assert.deepEqual(parseVmPlace('web/vda/p2:/x', ['web']), { vm: 'web', words: 'vda/p2', path: '/x' })
  assert.deepEqual(parseVmPlace('a/b/vda:/x', ['a', 'a/b']), { vm: 'a/b', words: 'vda', path: '/x' })
  assert.deepEqual(parseVmPlace('other:/x', ['web']), { vm: 'other', path: '/x' })
  for (const text of ['web', 'web:etc', ':/etc', 'web@latest:/etc']) assert.throws(() => parseVmPlace(text, ['web']))
})

test('the places of one call are all of one point', () => {
  assert.equal(placesOf(['web@latest:/a', 'web@latest/vda:/b'], 'get').length, 2)
  assert.throws(() => placesOf(['web@latest:/a', 'web@latest~1:/b'], 'get'), { code: 'usage' })
  assert.throws(() => placesOf([], 'get'), { code: 'usage' })
})
