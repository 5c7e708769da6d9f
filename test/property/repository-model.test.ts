/** SEED=n repeats one history; SEEDS=n makes so many. */
import { test } from 'node:test'
import { runInSmall } from '../simulation/schedule/in-small.ts'
import { runModel } from './repository-model.ts'

runInSmall()

const OPERATIONS = 25
const { SEED, SEEDS } = process.env
const first = Number(SEED ?? 1)
const count = SEED === undefined ? Number(SEEDS ?? 12) : 1

test('whatever is written, forgotten, collected and read, a repository has what a plain model of it has', async t => {
  for (let seed = first; seed < first + count; seed++) await runModel(seed, OPERATIONS)
  t.diagnostic(`seeds ${first} to ${first + count - 1}, ${count * OPERATIONS} operations`)
})
