import assert from 'node:assert/strict'
import { test } from 'node:test'
import { cachePowerCuts } from './cache-power-cuts.ts'

const FIRST = Number(process.env.SEED ?? 1)

test('after any power cut the cache on disk opens, keeps to its bound, and gives right bytes or none', async t => {
  const { injected, ...observed } = await cachePowerCuts(FIRST, Number(process.env.STORIES ?? 10), 6)
  t.diagnostic(`stories from ${FIRST}: injected ${JSON.stringify(injected)}`)
  t.diagnostic(`observed ${JSON.stringify(observed)}`)
  for (const [fault, count] of Object.entries(injected)) assert.ok(count > 0, `${fault} was never injected`)
  const { right, absent, damaged, readFailures, tooLong, mostTaken, maxBytes, ...never } = observed
  assert.ok(right > 0 && absent > 0 && damaged > 0 && readFailures > 0 && tooLong > 0)
  assert.deepEqual(never, { wrong: 0, failed: 0, beyond: 0 })
  assert.ok(mostTaken <= maxBytes)
})
