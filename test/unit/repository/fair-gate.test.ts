import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { FairGate } from '../../../src/repository/fair-gate.ts'

function setUp(options: Partial<ConstructorParameters<typeof FairGate>[0]> = {}) {
  const gate = new FairGate({ perOwner: 4, total: 6, totalBytes: 100, share: 1, ...options })
  const running: string[] = []
  const ends = new Map<string, () => void>()
  const start = (owner: object, name: string, bytes = 1, signal?: AbortSignal) =>
    gate.run(
      owner,
      bytes,
      () => {
        running.push(name)
        return new Promise<void>(resolve => ends.set(name, resolve))
      },
      { signal },
    )
  const end = async (name: string) => {
    ends.get(name)?.()
    running.splice(running.indexOf(name), 1)
    await nextTurn()
  }
  return { gate, running, start, end }
}

test('one owner has at most its own number, and all together at most theirs, but for the share of each', async () => {
  const { running, start, end } = setUp()
  const [a, b, c] = [{}, {}, {}]
  for (let n = 0; n < 10; n++) void start(a, `a${n}`)
  assert.deepEqual(running, ['a0', 'a1', 'a2', 'a3'])
  for (let n = 0; n < 10; n++) void start(b, `b${n}`)
  assert.deepEqual(running.slice(4), ['b0', 'b1'], 'six are under way')
  for (let n = 0; n < 3; n++) void start(c, `c${n}`)
  assert.deepEqual(running.slice(6), ['c0'], 'the third still gets one')
  await end('c0')
  assert.deepEqual(running.slice(6), ['c1'])
  await end('a0')
  await end('c1')
  assert.equal(running.length, 7)
})

test('who waits is admitted in turns, whatever stands in whose queue', async () => {
  const { running, start, end } = setUp({ perOwner: 2, total: 2, share: 0 })
  const [a, b] = [{}, {}]
  for (let n = 0; n < 6; n++) void start(a, `a${n}`)
  for (let n = 0; n < 2; n++) void start(b, `b${n}`)
  for (const name of ['a0', 'a1', 'a2', 'b0']) if (running.includes(name)) await end(name)
  const started = running.join(' ')
  assert.match(started, /b1/)
})

test('bytes count as well, and a large one is admitted when nothing of its owner is under way', async () => {
  const { running, start, end } = setUp({ total: 100, perOwner: 100 })
  const [a, b] = [{}, {}]
  void start(a, 'large', 1_000)
  void start(a, 'next', 1)
  void start(b, 'other', 1)
  assert.deepEqual(running, ['large', 'other'])
  await end('large')
  assert.deepEqual(running, ['other', 'next'])
})

test('who gives up while he waits leaves nothing behind, and a failure frees the place', async () => {
  const { gate, running, start, end } = setUp({ perOwner: 1 })
  const owner = {}
  void start(owner, 'first')
  const stop = new AbortController()
  const waiting = start(owner, 'second', 1, stop.signal)
  void start(owner, 'third')
  stop.abort(new Error('stopped'))
  await assert.rejects(waiting, /stopped/)
  await end('first')
  assert.deepEqual(running, ['third'])
  await end('third')
  await assert.rejects(
    gate.run(owner, 1, async () => {
      throw new Error('failed')
    }),
    /failed/,
  )
  void start(owner, 'fourth')
  assert.deepEqual(running, ['fourth'])
})
