import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../../src/core/random.ts'
import { shareAndKill } from '../doubles/killed-caches.ts'

test('processes that share a cache and are killed in the middle of it never read a wrong byte', async () => {
  const maxBytes = 4 * 1024 * 1024
  const run = { rounds: 3, processes: 3, maxBytes, records: 400, random: seededRandom('kills') }
  const seen = await shareAndKill(run)
  console.log(`killed ${seen.killed} processes: ${JSON.stringify(seen)}`)
  assert.ok(seen.killed >= 3 && seen.right > 500 && seen.absent > 100)
  assert.deepEqual([seen.wrong, seen.errors, seen.crashed], [0, 0, 0])
  assert.ok(seen.largest <= maxBytes, 'the bound holds over all processes, dead ones included')
})
