/** Sizes, rates and durations as people write and read them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatBytes, formatSeconds, parseBytes, parseDurationMs } from '../../../src/cli/units.ts'

test('sizes are powers of 1024, however the unit is spelled', () => {
  const sizes: readonly (readonly [string, number])[] = [
    ['0', 0],
    ['1000', 1000],
    ['64KiB', 65_536],
    ['64k', 65_536],
    ['512M', 512 * 1024 ** 2],
    ['2GiB', 2 * 1024 ** 3],
    ['1.5 GB', 1.5 * 1024 ** 3],
    ['3T', 3 * 1024 ** 4],
    ['50MiB/s', 50 * 1024 ** 2],
    ['7B', 7],
  ]
  for (const [text, bytes] of sizes) assert.equal(parseBytes(text, '--size'), bytes, text)
})

test('what is no size is refused with an example', () => {
  for (const text of ['', 'lots', '-5', '1.2.3', '5 apples', 'KiB', '0x10', '1e9', '99999999P', 'Infinity', 'NaN'])
    assert.throws(
      () => parseBytes(text, '--size'),
      { code: 'usage', message: /^--size: '/, details: { hint: 'write 64KiB, 512M or 2GiB' } },
      text,
    )
})

test('durations have a unit, seconds without', () => {
  const durations: readonly (readonly [string, number])[] = [
    ['500ms', 500],
    ['30', 30_000],
    ['30s', 30_000],
    ['10m', 600_000],
    ['24h', 86_400_000],
    ['7d', 604_800_000],
    ['1.5h', 5_400_000],
  ]
  for (const [text, ms] of durations) assert.equal(parseDurationMs(text, '--for'), ms, text)
  for (const text of ['', 'soon', '-1s', '1y', 's'])
    assert.throws(() => parseDurationMs(text, '--for'), { code: 'usage', message: /^--for: '/ }, text)
})

test('figures are shown with three digits or so', () => {
  assert.deepEqual([0, 1, 1023, 1024, 1536, 150 * 1024, 1024 ** 2, 5.5 * 1024 ** 4, 1024 ** 6].map(formatBytes), [
    '0 B',
    '1 B',
    '1023 B',
    '1.0 KiB',
    '1.5 KiB',
    '150 KiB',
    '1.0 MiB',
    '5.5 TiB',
    '1024 PiB',
  ])
  assert.deepEqual([0, 59.94, 61, 3600, 5400].map(formatSeconds), [
    '0.0 s',
    '59.9 s',
    '1 min 1 s',
    '1 h 0 min',
    '1 h 30 min',
  ])
})
