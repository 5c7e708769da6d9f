/**
 * kill -9 of a session's process after each step of its life: what is left is listed as what it is, known pins only, at most
 * one QEMU, and resume or discard goes on with it.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { patternBytes } from '../doubles/pattern.ts'
import { lacking } from '../doubles/peer-tools.ts'
import { type SessionSteps, type StepRun, sessionSteps } from '../doubles/session-steps.ts'

const KINDS = {
  export: { begin: (name: string) => ['export', 'vm@latest', '--session', name] },
  boot: { begin: (name: string) => ['boot', 'vm@latest', '--session', name, '--accel', 'tcg'] },
}
const told = (text: string) => process.stdout.write(`# ${text}\n`)

for (const [kind, { begin }] of Object.entries(KINDS)) {
  const skip = kind === 'boot' && lacking('qemu-system-x86_64', 'qemu-img')

  test(`${kind}: killed after each step of its start`, { skip }, async () => {
    await using at = await sessionSteps(patternBytes(1 << 20))
    const whole = await at.killedAt(undefined, begin('whole'))
    assert.equal(whole.code, 0, whole.stderr)
    assert.equal((await at.shown('whole'))?.state, 'stopped')
    assert.equal((await at.cli.json('session discard whole')).code, 0)
    const first = whole.steps.slice(0, whole.steps.indexOf('state running') + 1)
    assert.ok(first.length >= 5, first.join(', '))
    const seen = new Set<string>()
    for (const [i, step] of first.entries()) {
      const name = `at${i + 1}`
      const { killed, steps } = await at.killedAt(i + 1, begin(name))
      assert.ok(killed, `the kill after '${step}' never came`)
      assert.deepEqual(steps, first.slice(0, i + 1))
      await at.pinsAreKnown()
      const shown = await at.shown(name)
      assert.ok(shown?.state === 'unfinished' || shown?.state === 'crashed', `${step}: ${shown?.state}`)
      const goesOn = shown.state === 'crashed'
      seen.add(shown.state)
      const resumed = await at.killedAt(undefined, ['session', 'resume', name])
      told(
        `${kind} killed after '${step}': ${shown.state}${shown.pid ? ', QEMU lives' : ''}, resume ends with ${resumed.code}`,
      )
      assert.equal(resumed.code, goesOn ? 0 : 2, resumed.stderr)
      await at.pinsAreKnown()
      assert.equal((await at.cli.json(`session discard ${name}`)).code, 0)
      await at.nothingIsLeft(name)
    }
    assert.deepEqual([...seen], ['unfinished', 'crashed'])
  })

  test(`${kind}: killed after each step of resuming and of discarding, stopped and crashed`, { skip }, async () => {
    await using at = await sessionSteps(patternBytes(1 << 20))
    await begun(at, begin('one'))
    const resume = ['session', 'resume', 'one']
    const whole = await at.killedAt(undefined, resume)
    assert.equal(whole.code, 0, whole.stderr)
    const steps = whole.steps.slice(0, whole.steps.indexOf('state running') + 1)
    let kills = 0
    // First over a stopped session, then over what the kill before has left.
    for (const [i, step] of steps.entries()) {
      // One that takes over takes fewer steps, and is told to stop when it runs.
      const { killed } = await at.killedAt(i + 1, resume)
      await at.pinsAreKnown()
      const shown = await at.shown('one')
      told(`${kind} killed at its resume after '${step}': ${shown?.state}${shown?.pid ? ', QEMU lives' : ''}`)
      assert.ok(shown?.state === 'crashed' || shown?.state === 'stopped', shown?.state)
      kills += killed ? 1 : 0
    }
    assert.ok(kills >= 4, `${kills} kills`)
    assert.equal((await at.killedAt(undefined, resume)).code, 0)
    assert.equal((await at.pins()).length, 1)

    const ends: StepRun[] = []
    for (let last = 1; ends.at(-1)?.killed !== false; last++) {
      const shown = await at.shown('one')
      if (!shown) await begun(at, begin('one'))
      const run = await at.killedAt(last, ['session', 'discard', 'one'])
      ends.push(run)
      await at.pinsAreKnown()
      const after = (await at.shown('one'))?.state
      told(`${kind} killed at its discard after '${run.steps.at(-1)}': ${after ?? 'gone'}`)
      assert.ok(after === undefined || after === 'discarding', after)
      if (after === 'discarding') assert.equal((await at.killedAt(undefined, resume)).code, 2)
      assert.equal((await at.cli.json('session discard one')).code, after === undefined ? 2 : 0)
      await at.nothingIsLeft('one')
    }
    assert.ok(ends.length >= 5)
  })

  test(`${kind}: its server is killed after each step of a discard that it carries out itself`, { skip }, async () => {
    await using at = await sessionSteps(patternBytes(1 << 20))
    const until = ['state discarding', 'guest ended', 'servers ended', 'pins dropped', 'session renamed']
    const seen: string[] = []
    const runs = async () => (await at.shown('one'))?.state === 'running'
    const whole = await at.killedAt(undefined, begin('one'), async () => {
      assert.equal((await at.cli.json('session discard one')).code, 0)
    })
    const wholeEnd = whole.steps.slice(whole.steps.indexOf('state discarding'))
    assert.deepEqual(
      wholeEnd.filter(step => until.includes(step)),
      until,
    )
    for (const step of until) {
      const kills = at.start(begin('one'), { TEST_STEP_LOG: at.cli.at('live'), TEST_STEP_AFTER: step })
      const ended = new Promise<string | null>(resolve => kills.once('close', (_code, signal) => resolve(signal)))
      while (!(await runs())) assert.equal(kills.exitCode, null)
      await at.cli.json('session discard one')
      assert.equal(await ended, 'SIGKILL', step)
      await at.pinsAreKnown()
      const after = (await at.shown('one'))?.state
      seen.push(step)
      told(`${kind} killed in its own discard after '${step}': ${after ?? 'gone'}`)
      assert.ok(after === undefined || after === 'discarding', after)
      if (after !== undefined) assert.equal((await at.cli.json('session discard one')).code, 0)
      await at.nothingIsLeft('one')
    }
    assert.deepEqual(seen, until)
  })
}

async function begun(at: SessionSteps, words: readonly string[]): Promise<void> {
  const { code, stderr } = await at.killedAt(undefined, words)
  assert.equal(code, 0, stderr)
}
