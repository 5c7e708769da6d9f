import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RangeLock } from '../../../src/block/range-lock.ts'

test('readers beside readers and ranges that do not meet go on at once', () => {
  const lock = new RangeLock()
  for (const [offset, length, writes] of [
    [0, 10, false],
    [5, 10, false],
    [15, 5, true],
    [20, 0, true],
    [20, 1, true],
  ] as const)
    assert.equal(typeof lock.take(offset, length, writes), 'function')
})

test('a writer waits for everybody before it, and whoever comes after waits for the writer', async () => {
  const lock = new RangeLock()
  const order: string[] = []
  const enter = async (name: string, offset: number, length: number, writes: boolean) => {
    const give = await lock.take(offset, length, writes)
    order.push(name)
    return give
  }
  const [first, second] = await Promise.all([enter('read 1', 0, 10, false), enter('read 2', 5, 10, false)])
  const writer = enter('write', 8, 4, true)
  const later = enter('read 3', 0, 9, false)
  const apart = await enter('read 4', 100, 1, false)
  first()
  await new Promise(setImmediate)
  assert.deepEqual(order, ['read 1', 'read 2', 'read 4'])
  second()
  const give = await writer
  await new Promise(setImmediate)
  assert.deepEqual(order, ['read 1', 'read 2', 'read 4', 'write'])
  give()
  ;(await later)()
  apart()
  assert.deepEqual(order, ['read 1', 'read 2', 'read 4', 'write', 'read 3'])
  assert.equal(typeof lock.take(0, 1000, true), 'function', 'nobody is left')
})
