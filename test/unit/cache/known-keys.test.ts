import assert from 'node:assert/strict'
import { test } from 'node:test'
import { KnownKeys } from '../../../src/cache/known-keys.ts'
import { limits } from '../../../src/core/limits.ts'

test('a key is given for the chunk that it was noted for, and for none that shares its place', () => {
  const keys = new KnownKeys(10 * limits.knownKeys)
  const other = 7 + limits.knownKeys
  assert.equal(keys.get(7), undefined)
  keys.set(7, 'a')
  assert.deepEqual([keys.get(7), keys.get(other), keys.get(0)], ['a', undefined, undefined])
  keys.set(other, 'b')
  assert.deepEqual([keys.get(7), keys.get(other)], [undefined, 'b'])
})

test('a disk of any size has places for its chunks', () => {
  for (const count of [0, 1, 2, 3, 1000]) {
    const keys = new KnownKeys(count)
    for (let chunk = 0; chunk < count; chunk++) keys.set(chunk, `${chunk}`)
    for (let chunk = 0; chunk < count; chunk++) assert.equal(keys.get(chunk), `${chunk}`)
    assert.equal(keys.get(count), undefined)
  }
})
