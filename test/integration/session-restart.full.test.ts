/** R20: servers killed again and again under a guest and under a client of ours; and a host that boots anew. */
import assert from 'node:assert/strict'
import type { ChildProcess } from 'node:child_process'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { systemClock } from '../../src/core/clock.ts'
import { seededRandom } from '../../src/core/random.ts'
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { restartedGuest } from '../doubles/restarted-guest.ts'
import { sessionSteps } from '../doubles/session-steps.ts'

test('ten rounds of kill -9 under a guest, then every process dies with the host, and resume --all brings it back', async () => {
  await using running = await restartedGuest()
  await running.startWriter()
  for (let round = 0; round < 10; round++) await running.restartServer([0, 300, 1000, 2500, 5000][round % 5]!)
  const findings = await running.findings()
  process.stdout.write(`# ${JSON.stringify(findings)}\n`)
  assert.deepEqual({ ...findings, checked: 0 }, { rounds: 10, ioErrors: 0, mismatches: 0, checked: 0 })

  await running.reboot()
  const { code, json } = await running.run(['session', 'resume', '--all'])
  assert.deepEqual([code, json], [0, { sessions: [{ name: 'guest', afterReboot: true, outcome: 'resumed' }] }])
})

test('kill -9 under a client of ours that connects again: what it reads is the point, always', async () => {
  const disk = patternBytes(8 << 20)
  await using at = await sessionSteps(disk)
  const random = seededRandom('restarts')
  let server: ChildProcess = at.start(['export', 'vm@latest', '--session', 'one'])
  const socket = `${at.folder('one')}/nbd.sock`
  const done = new AbortController()
  const counts = { rounds: 0, reads: 0, interrupted: 0, mismatches: 0 }
  const reading = (async () => {
    let client: NbdClient | undefined
    while (!done.signal.aborted) {
      const length = 1 + (Buffer.from(random(4)).readUInt32LE() % 300_000)
      const offset = Buffer.from(random(4)).readUInt32LE() % (disk.length - length)
      const bytes = Buffer.alloc(length)
      try {
        client ??= await connectNbd({ socket, exportName: 'vda', clock: systemClock })
        await client.readInto(bytes, offset)
        counts.reads++
        if (!bytes.equals(disk.subarray(offset, offset + length))) counts.mismatches++
      } catch {
        counts.interrupted++
        await client?.[Symbol.asyncDispose]()
        client = undefined
        await sleep(20)
      }
    }
    await client?.[Symbol.asyncDispose]()
  })()
  const progress = async () => {
    const before = counts.reads
    while (counts.reads < before + 50) await sleep(20)
  }
  await progress()
  for (; counts.rounds < 10; counts.rounds++) {
    server.kill('SIGKILL')
    await new Promise(resolve => server.once('close', resolve))
    server = at.start(['session', 'resume', 'one'])
    await progress()
  }
  done.abort()
  await reading
  process.stdout.write(`# ${JSON.stringify(counts)}\n`)
  assert.equal(counts.mismatches, 0)
  assert.ok(counts.interrupted >= counts.rounds)
})
