/** A guest that booted from its point with --hydrate: its repository goes away, then its server as well, and it reads on. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { rename } from 'node:fs/promises'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { restartedGuest } from '../doubles/restarted-guest.ts'

test('a hydrated guest reads all of its disk without the repository, also through a server that was resumed without it', async () => {
  await using running = await restartedGuest(['--hydrate'])
  const { at, guest } = running
  const isHydrated = async () => {
    const shown = await at.shown('guest')
    return shown !== undefined && 'isHydrated' in shown && shown.isHydrated === true
  }
  while (!(await isHydrated())) await sleep(500)
  const files = 'find / -xdev -type f -not -path "/var/*" | sort | xargs sha256sum | sha256sum'
  await guest.must('echo 3 > /proc/sys/vm/drop_caches')
  const before = await guest.must(files)
  await rename(at.cli.at('repository'), at.cli.at('away'))
  assert.ok(!existsSync(at.cli.at('repository')))
  await guest.must('echo 3 > /proc/sys/vm/drop_caches')
  assert.equal(await guest.must(files), before, 'without the repository')
  await guest.must('dd if=/dev/vda of=/dev/null bs=1M 2>/dev/null')
  await running.startWriter()
  await running.restartServer(300)
  await guest.must('echo 3 > /proc/sys/vm/drop_caches')
  assert.equal(await guest.must(files), before, 'through a server that never saw the repository')
  const findings = await running.findings()
  console.log(`injected: no repository, server killed; observed: ${JSON.stringify(findings)}`)
  assert.deepEqual({ ...findings, checked: 0 }, { rounds: 1, ioErrors: 0, mismatches: 0, checked: 0 })
  await rename(at.cli.at('away'), at.cli.at('repository'))
  assert.equal((await running.run(['session', 'discard', 'guest'])).code, 0)
  await at.nothingIsLeft('guest')
})
