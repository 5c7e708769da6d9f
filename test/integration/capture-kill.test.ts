/** A sample of capture-kill.full.test.ts: every twentieth command. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { killCaptures } from '../doubles/killed-captures.ts'
import { qemuMissing } from '../doubles/qemu.ts'

for (const guarded of [false, true])
  test(`a kill before and after every twentieth command loses nothing${guarded ? ', and frees the guest at once' : ''}`, {
    skip: qemuMissing(),
  }, async t => {
    const seed = `kill-${process.pid}`
    t.diagnostic(`seed ${seed}`)
    const { commands, kills } = await killCaptures({ method: 'auto', stride: 20, guarded, seed })
    t.diagnostic(`N = ${commands} QMP commands, killed ${kills} times`)
    assert.ok(kills >= commands / 10 - 2)
  })
