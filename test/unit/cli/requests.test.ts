/** What was asked of the store is told by commands that go on after their result, too. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { figuresFromFlat, flatFigures, requestsText } from '../../../src/cli/requests.ts'
import { LifeboatError } from '../../../src/core/errors.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { memoryStore } from '../../../src/storage/memory.ts'
import { metered } from '../../../src/storage/metered.ts'
import { smallRepository } from '../../doubles/bad-input.ts'

test("a session's state holds all figures of a meter as numbers by name, and gives them back", async () => {
  const { store, meter } = metered(memoryStore())
  await store.put('a', [seededRandom('a')(1000)])
  await store.get('a', { offset: 0, length: 10 })
  await assert.rejects(store.get('b'))
  await Array.fromAsync(store.list(''))
  await store.delete(['a', 'b'])
  const flat = flatFigures(meter.figures())
  assert.deepEqual([flat['requests.get'], flat['failures.get'], flat['bytes.get'], flat['bytes.put']], [2, 1, 10, 1000])
  assert.deepEqual(figuresFromFlat({ ...flat, bytesRead: 7 }), meter.figures())
  assert.equal(requestsText(figuresFromFlat({})), undefined)
})

test('an export tells at its end what it asked of the store, with --json too', async () => {
  await using small = await smallRepository()
  const socket = small.cli.at('nbd')
  const stop = new AbortController()
  const answer = small.cli.json(`${small.at} export web1@latest --socket ${socket}`, { signal: stop.signal })
  while (!existsSync(socket)) await sleep(20)
  stop.abort(new LifeboatError('interrupted', 'stopped', { details: { signal: 'SIGTERM' } }))
  const { code, stderr } = await answer
  assert.equal(code, 0)
  assert.match(stderr, /^requests: 1 PUT, \d+ LIST, \d+ GET.*, 1 DELETE.* down$/m)
})
