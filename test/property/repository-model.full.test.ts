/** As repository-model.test.ts, ten thousand operations. FIRST=n begins with another seed. */
import { test } from 'node:test'
import { runInSmall } from '../simulation/schedule/in-small.ts'
import { runModel } from './repository-model.ts'

runInSmall()

const OPERATIONS = 25
const HISTORIES = 400
const first = Number(process.env.FIRST ?? 1000)

test('ten thousand operations leave a repository with what a plain model of it has', async t => {
  for (let seed = first; seed < first + HISTORIES; seed++) await runModel(seed, OPERATIONS)
  t.diagnostic(`seeds ${first} to ${first + HISTORIES - 1}, ${HISTORIES * OPERATIONS} operations`)
})
