import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { systemClock } from '../../../src/core/clock.ts'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { systemRandom } from '../../../src/core/random.ts'
import { guestAgent } from '../../../src/hypervisor/qemu/guest-agent.ts'
import { atOneInstant } from '../../../src/hypervisor/qemu/instant.ts'
import type { QmpClient } from '../../../src/hypervisor/qemu/qmp.ts'
import { type FakeAgentHabits, type FakeGuestAgent, startFakeGuestAgent } from '../../doubles/fake-guest-agent.ts'

let dir: string
before(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'lifeboat-agent-'))
})
after(() => rm(dir, { recursive: true, force: true }))

let number = 0
const fakeAgent = (habits?: FakeAgentHabits) => startFakeGuestAgent(path.join(dir, `${number++}`), habits)
const agentOf = ({ socket }: FakeGuestAgent, syncTimeoutMs = 20_000) =>
  guestAgent({ socket, clock: systemClock, random: systemRandom, thawPauseMs: 1, syncTimeoutMs })

/** A QEMU that only runs and stops. */
function fakeQemu(): QmpClient & { readonly said: string[] } {
  const said: string[] = []
  return {
    said,
    version: { major: 7, minor: 2, micro: 0 },
    isClosed: false,
    async execute(command) {
      said.push(command)
      return command === 'query-status' ? { running: true, status: 'running' } : {}
    },
    until: () => assert.fail('no event is waited for'),
    onEvent: () => () => {},
    onClosed: () => {},
    async [Symbol.asyncDispose]() {},
  }
}

test('freezes, reports and thaws; what an earlier client left in the channel is skipped', async () => {
  await using fake = await fakeAgent({ stale: '{"return": 17}\n{"ret' })
  const agent = agentOf(fake)
  assert.equal(await agent.status(), 'thawed')
  assert.equal(await agent.freeze(), 2)
  assert.equal(await agent.status(), 'frozen')
  await agent.thaw()
  assert.equal(fake.frozen(), false)
})

test('an agent that is not there, does not answer or refuses is said with a hint', async () => {
  const failed = (error: unknown) => isLifeboatError(error, 'guest-agent-failed') && error.details.hint !== undefined
  await assert.rejects(
    guestAgent({ socket: path.join(dir, 'absent'), clock: systemClock, random: systemRandom }).status(),
    failed,
  )
  await using silent = await fakeAgent({ hangsAt: ['guest-sync-delimited'] })
  await assert.rejects(agentOf(silent, 300).freeze(), failed)
  await using unwilling = await fakeAgent({ refuses: ['guest-fsfreeze-freeze'] })
  await assert.rejects(agentOf(unwilling).freeze(), failed)
})

test('the instant is filesystem-consistent, on Windows application-consistent; the guest is thawed and runs', async () => {
  for (const windows of [false, true]) {
    await using fake = await fakeAgent({ windows })
    const qmp = fakeQemu()
    let seen = false
    const consistency = await atOneInstant(
      { qmp, agent: agentOf(fake), clock: systemClock, log: assert.fail },
      async () => {
        seen = fake.frozen()
      },
    )
    assert.ok(seen, 'frozen while the switch is made')
    assert.equal(consistency, windows ? 'application' : 'filesystem')
    assert.equal(fake.frozen(), false)
    assert.deepEqual(qmp.said, ['query-status', 'object-add', 'stop', 'cont', 'object-del'])
  }
})

test('a refused freeze and one that hangs mean a crash-consistent point, and a thaw all the same', async () => {
  for (const habits of [{ refuses: ['guest-fsfreeze-freeze'] }, { hangsAt: ['guest-fsfreeze-freeze'] }]) {
    await using fake = await fakeAgent(habits)
    const said: string[] = []
    const agent = agentOf(fake)
    const impatient = { ...agent, freeze: () => agent.freeze({ timeoutMs: 100 }) }
    const guest = {
      qmp: fakeQemu(),
      agent: impatient,
      clock: systemClock,
      log: (message: string) => said.push(message),
    }
    assert.equal(await atOneInstant(guest, async () => {}), 'crash')
    assert.equal(fake.frozen(), false, 'thawed although it never said that it froze')
    assert.match(said.join(), /only crash-consistent/)
  }
})

test('a failing switch thaws and continues the guest before it is thrown', async () => {
  await using fake = await fakeAgent({ failingThaws: 2 })
  const qmp = fakeQemu()
  const failing = async () => {
    throw new Error('switch failed')
  }
  await assert.rejects(
    atOneInstant({ qmp, agent: agentOf(fake), clock: systemClock, log: () => {} }, failing),
    /switch failed/,
  )
  assert.equal(fake.frozen(), false)
  assert.ok(qmp.said.includes('cont'))
})

test('a thaw that fails is tried again; one that never works is said loudly', async () => {
  await using moody = await fakeAgent({ failingThaws: 3 })
  await atOneInstant({ qmp: fakeQemu(), agent: agentOf(moody), clock: systemClock, log: () => {} }, async () => {})
  assert.equal(moody.frozen(), false)

  await using broken = await fakeAgent({ failingThaws: 1000 })
  const qmp = fakeQemu()
  await assert.rejects(
    atOneInstant({ qmp, agent: agentOf(broken), clock: systemClock, log: () => {} }, async () => {}),
    error => isLifeboatError(error, 'guest-agent-failed') && /MAY STILL BE FROZEN/.test(error.message),
  )
  assert.ok(qmp.said.includes('cont'))
  assert.ok(!qmp.said.includes('object-del'), 'the note stays, so that the next run thaws')
})

test('a guest that somebody else froze is left to them', async () => {
  await using fake = await fakeAgent()
  const agent = agentOf(fake)
  await agent.freeze()
  await atOneInstant({ qmp: fakeQemu(), agent, clock: systemClock, log: () => {} }, async () => {})
  assert.equal(fake.frozen(), true)
  assert.equal(fake.freezes(), 1)
})
