/** A server that is killed and resumed under a running guest: the guest notices nothing. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { restartedGuest } from '../doubles/restarted-guest.ts'

test('kill -9 of the server under a guest that writes and checksums: no I/O error, no mismatch', async () => {
  await using running = await restartedGuest()
  await running.startWriter()
  await running.restartServer(300)
  const findings = await running.findings()
  process.stdout.write(`# ${JSON.stringify(findings)}\n`)
  assert.deepEqual({ ...findings, checked: 0 }, { rounds: 1, ioErrors: 0, mismatches: 0, checked: 0 })
  assert.ok(findings.checked >= 2)
  await running.guest.must('echo wrong >> /var/w/1; echo 3 > /proc/sys/vm/drop_caches')
  const before = await running.checked()
  while ((await running.checked()) < before + 2);
  assert.ok((await running.findings()).mismatches > 0, 'the guest would have noticed')
  assert.equal((await running.run(['session', 'discard', 'guest'])).code, 0)
  await running.at.nothingIsLeft('guest')
})
