/** The kill test of capture-kill.full.test.ts again and again, with new seeds and every command with the dead man's switch: hours. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemRandom } from '../../src/core/random.ts'
import { killCaptures } from '../doubles/killed-captures.ts'
import { qemuMissing } from '../doubles/qemu.ts'

const ROUNDS = 10

for (let round = 1; round <= ROUNDS; round++)
  for (const method of ['copy-before-write', 'blockdev-backup'] as const)
    for (const guarded of [false, true])
      test(`round ${round}, ${method}${guarded ? ', with the switch' : ''}: a kill around every command loses nothing`, {
        skip: qemuMissing(),
      }, async t => {
        const seed = Buffer.from(systemRandom(8)).toString('hex')
        t.diagnostic(`seed ${seed}`)
        const { commands, kills } = await killCaptures({ method, stride: 1, guarded, seed })
        t.diagnostic(`${commands} commands, ${kills} kills`)
        assert.ok(kills >= 2 * commands - 8, `${kills} kills around ${commands} commands`)
      })
