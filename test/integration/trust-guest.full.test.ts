/** `--trust-guest` on every filesystem and layout: what this host's kernel takes on is as it was written, the rest is left to the appliance. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { mountTree } from '../../src/fuse/mount.ts'
import { AGENT_PROGRAM } from '../../src/guest/guest-programs.ts'
import { kernelGuests } from '../../src/guest/kernel-guests.ts'
import { checkLayout, openDisks } from '../doubles/guest-matrix.ts'
import { guestDisks } from '../guest/filesystem-images.ts'

const skip =
  process.getuid?.() !== 0
    ? 'mounts of the kernel need root'
    : existsSync(AGENT_PROGRAM)
      ? false
      : 'needs the agent, which the set-up builds'

test('each layout is read as it was written, or left to the appliance', { skip }, async context => {
  const runDir = await mkdtemp(join(tmpdir(), 'trust-guest-'))
  const wrong: string[] = []
  let compared = 0
  for (const layout of await guestDisks()) {
    await using opened = await openDisks(layout.disks)
    const open = kernelGuests({
      clock: systemClock,
      runDir,
      treePrefix: () => layout.name,
      mount: (root, mountPoint) => mountTree({ root, mountPoint, fsName: 'lifeboat:trusted', clock: systemClock }),
    })
    await using guest = await open(opened.disks)
    const report = await checkLayout(guest, layout, ({ needs }) => needs === 'appliance')
    context.diagnostic(report.line)
    compared += report.compared
    wrong.push(...report.wrong.map(line => `${layout.name}: ${line}`))
  }
  await rm(runDir, { recursive: true })
  assert.deepEqual(wrong, [])
  assert.ok(compared > 0)
})
