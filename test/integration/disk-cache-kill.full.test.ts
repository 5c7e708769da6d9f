import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../../src/core/random.ts'
import { shareAndKill } from '../doubles/killed-caches.ts'

test('30 rounds of five processes on one cache, four of them killed: no wrong byte, no failed read', async () => {
  const maxBytes = 8 * 1024 * 1024
  const run = { rounds: 30, processes: 5, maxBytes, records: 900, random: seededRandom('more kills') }
  const seen = await shareAndKill(run)
  console.log(`killed ${seen.killed} processes: ${JSON.stringify(seen)}`)
  assert.ok(seen.killed >= 100 && seen.right > 10_000 && seen.absent > 10_000)
  assert.deepEqual([seen.wrong, seen.errors, seen.crashed], [0, 0, 0])
  assert.ok(seen.largest <= maxBytes)
})
