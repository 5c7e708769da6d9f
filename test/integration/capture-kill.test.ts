/** A sample of capture-kill.full.test.ts: every eighth command. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { killCaptures } from '../doubles/killed-captures.ts'
import { qemuMissing } from '../doubles/qemu.ts'

test('a kill before and after every eighth command of a capture loses nothing', { skip: qemuMissing() }, async t => {
  const seed = `kill-${process.pid}`
  t.diagnostic(`seed ${seed}`)
  const { commands, kills } = await killCaptures('auto', 8, seed)
  t.diagnostic(`N = ${commands} QMP commands, killed ${kills} times`)
  assert.ok(kills >= commands / 4 - 2)
})
