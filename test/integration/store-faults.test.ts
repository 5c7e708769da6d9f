/** Faults of all kinds at once, by a seed: done or failed cleanly, no wrong byte, nothing hung. Each kind alone is in the slow tests. */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { describeTally, FAULT_KINDS, faultRun } from '../doubles/store-faults.ts'

const seed = process.env.SEED ?? 'ordinary-1'
/** Silence costs its time-out each time: for the slow tests. */
const quick = FAULT_KINDS.filter(({ name }) => !/no answer|silence|nobody/.test(name))

suite('a store that fails at random', { concurrency: 3 }, () => {
  for (const percent of [3, 10, 20])
    test(`in any way, at ${percent} % of the requests`, async context => {
      const tally = await faultRun({ kinds: quick, probability: percent / 100, seed: `${seed} ${percent}` })
      context.diagnostic(`seed ${seed}: ${describeTally(tally)}`)
      assert.ok(tally.fired > 0, 'a fault fired')
    })
})
