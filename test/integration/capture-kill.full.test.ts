/** Lifeboat is killed before and after each QMP command of a capture: the next backup is right, and nothing stays behind. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { killCaptures } from '../doubles/killed-captures.ts'
import { qemuMissing } from '../doubles/qemu.ts'

for (const method of ['copy-before-write', 'blockdev-backup'] as const)
  test(`${method}: a kill before and after every command loses nothing`, { skip: qemuMissing() }, async t => {
    const seed = `kill-${process.pid}`
    t.diagnostic(`seed ${seed}`)
    const { commands, kills } = await killCaptures({ method, stride: 1, guarded: false, seed })
    t.diagnostic(`N = ${commands} QMP commands, killed ${kills} times`)
    assert.ok(kills >= 2 * commands - 8, `${kills} kills for ${commands} commands`)
  })

test('killed alone, Lifeboat is taken out of QEMU at once and not only by the next backup', {
  skip: qemuMissing(),
}, async t => {
  const seed = `kill-${process.pid}`
  t.diagnostic(`seed ${seed}`)
  const { commands, kills } = await killCaptures({ method: 'auto', stride: 2, guarded: true, seed })
  t.diagnostic(`N = ${commands} QMP commands, killed ${kills} times`)
  assert.ok(kills >= commands - 8)
})
