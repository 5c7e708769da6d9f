import assert from 'node:assert/strict'
import { test } from 'node:test'
import { lyingServers } from './guest-campaign.ts'

test('fuzz: a server that lies about a guest ends in errors with codes, never in a crash', async t => {
  const { malformed, outcomes } = await lyingServers('guest', 3_000)
  t.diagnostic(`${malformed} malformed replies: ${[...outcomes].map(pair => pair.join(' ')).join(', ')}`)
  for (const code of ['answered', 'guest-protocol', 'guest-lost', 'guest-filesystem'])
    assert.ok(outcomes.has(code), `nothing ended as '${code}'`)
})
