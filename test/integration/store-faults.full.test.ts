/** Each kind of fault alone and all together, at 1 to 30 % of all requests: done or failed cleanly, no wrong byte, nothing hung. */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { describeTally, FAULT_KINDS, faultRun } from '../doubles/store-faults.ts'

const seed = process.env.SEED ?? String(Math.floor(Math.random() * 1e9))
const rounds = Number(process.env.ROUNDS ?? 1)

suite(`a store that fails at random, seed ${seed}`, { concurrency: 4 }, () => {
  for (const kinds of [...FAULT_KINDS.map(kind => [kind]), FAULT_KINDS])
    test(`${kinds.length === 1 ? kinds[0]?.name : 'everything at once'}, at 1, 3, 10 and 30 % of the requests`, async context => {
      let fired = 0
      for (const percent of [1, 3, 10, 30])
        for (let round = 0; round < rounds; round++) {
          const name = `${seed} ${kinds.map(kind => kind.name)} ${percent} ${round}`
          const tally = await faultRun({ kinds, probability: percent / 100, seed: name })
          context.diagnostic(`${percent} %: ${describeTally(tally)}`)
          fired += tally.fired
        }
      assert.ok(fired > 0, 'a fault fired')
    })
})
