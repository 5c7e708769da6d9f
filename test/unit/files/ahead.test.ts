/** Results in the order of their items, some under way ahead, and none left when nobody takes them any more. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { ahead } from '../../../src/files/ahead.ts'

test('results come in order although later ones are ready first, with at most so many under way', async () => {
  let running = 0
  let most = 0
  const work = async (item: number) => {
    most = Math.max(most, ++running)
    await sleep((8 - item) % 4)
    running -= 1
    return item * 2
  }
  assert.deepEqual(await Array.fromAsync(ahead([1, 2, 3, 4, 5, 6, 7, 8], 3, work)), [2, 4, 6, 8, 10, 12, 14, 16])
  assert.equal(most, 3)
})

test('a failure is thrown in its turn, and the rest is aborted and waited for', async () => {
  let ended = 0
  const work = async (item: number, signal: AbortSignal) => {
    if (item === 2) throw new Error('two')
    await new Promise<void>(resolve => (item === 1 ? resolve() : signal.addEventListener('abort', () => resolve())))
    ended += 1
    return item
  }
  const seen: number[] = []
  await assert.rejects(async () => {
    for await (const result of ahead([1, 2, 3, 4], 4, work)) seen.push(result)
  }, /two/)
  assert.deepEqual([seen, ended], [[1], 3])
})

test('who stops taking ends the work', async () => {
  let aborted = 0
  const work = async (item: number, signal: AbortSignal) => {
    if (item === 1) return item
    await new Promise<void>(resolve => signal.addEventListener('abort', () => resolve()))
    aborted += 1
    return item
  }
  for await (const result of ahead([1, 2, 3], 3, work)) {
    assert.equal(result, 1)
    break
  }
  assert.equal(aborted, 2)
})
