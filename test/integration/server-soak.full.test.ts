/** A minute of the soak, with the same bounds; and a server that leaks, which must be found out. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { assertSound, grown, soak } from './server-soak.ts'

const minutes = Number(process.env.MINUTES ?? 1)

test('a minute of every kind of client and a failing store: no wrong byte, and nothing that the server holds grows', async t =>
  assertSound(await soak({ minutes, say: line => t.diagnostic(line) })))

test('a server that leaks memory, descriptors and time with each client is found out', async t => {
  const found = grown(await soak({ minutes: minutes / 2, leaks: true, say: line => t.diagnostic(line) }))
  for (const what of ['live MiB', 'descriptors', 'ms a read']) assert.ok(found.includes(what), `found: ${found}`)
})
