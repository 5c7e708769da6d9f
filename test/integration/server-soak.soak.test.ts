/** R23 for the server: an hour of the soak, or as many MINUTES as are asked for. */
import { test } from 'node:test'
import { assertSound, soak } from './server-soak.ts'

test('an hour of every kind of client and a failing store: no wrong byte, and nothing that the server holds grows', async t =>
  assertSound(await soak({ minutes: Number(process.env.MINUTES ?? 60), say: line => t.diagnostic(line) })))
