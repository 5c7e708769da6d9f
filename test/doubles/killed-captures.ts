/** Kills captures at their commands, one after the other on one QEMU, and checks what the next capture makes of it. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import { systemClock } from '../../src/core/clock.ts'
import { seededRandom, systemRandom } from '../../src/core/random.ts'
import { pointOfBitmap } from '../../src/hypervisor/bitmap-name.ts'
import { type QemuSettings, qemuHypervisor } from '../../src/hypervisor/qemu/qemu-hypervisor.ts'
import type { ChildOrder } from './capture-child.ts'
import { type FakeGuestAgent, startFakeGuestAgent } from './fake-guest-agent.ts'
import { KiB, MiB, startQemu, type TestQemu } from './qemu.ts'
import { openShelf, REPOSITORY } from './shelf.ts'

const DISKS = [
  { id: 'vda', format: 'qcow2', size: 4 * MiB },
  { id: 'vdb', format: 'raw', size: 2 * MiB },
] as const

async function runChild(order: ChildOrder): Promise<{ killed: boolean; commands: number }> {
  const program = path.join(import.meta.dirname, 'capture-child.ts')
  try {
    const { stdout } = await promisify(execFile)(process.execPath, [program, JSON.stringify(order)])
    return { killed: false, commands: Number(stdout) }
  } catch (error) {
    if (error instanceof Error && 'signal' in error && error.signal === 'SIGKILL') return { killed: true, commands: 0 }
    throw error
  }
}

export interface KillPlan {
  readonly method: QemuSettings['method']
  /** Every so many commands, before and after it. */
  readonly stride: number
  /** True: the dead man's switch must have cleaned up before the next capture does. False: it was killed too. */
  readonly guarded: boolean
  readonly seed: string
}

/** Gives the number of commands of one capture and of kills. */
export async function killCaptures({
  method,
  stride,
  guarded,
  seed,
}: KillPlan): Promise<{ commands: number; kills: number }> {
  await using qemu = await startQemu({ disks: DISKS, running: true })
  const fleecingDir = path.join(qemu.dir, 'f')
  const shelfDir = path.join(qemu.dir, 'shelf')
  const shelf = await openShelf(shelfDir)
  await using agent = await startFakeGuestAgent(path.join(qemu.dir, 'ga'))
  const connection = { qmp: qemu.qmp, guestAgent: agent.socket, method, guarded }
  const hypervisor = qemuHypervisor({
    qmp: qemu.qmp,
    guestAgent: agent.socket,
    method,
    clock: systemClock,
    random: systemRandom,
    fleecingFreeMin: 0,
  })
  const scribble = guestOf(qemu, seed)

  await scribble()
  await shelf.backup({ hypervisor, fleecingDir })
  const { commands } = await runChild({ ...connection, fleecingDir, shelfDir })
  let kills = 0
  for (let at = 1; at <= commands; at += stride)
    for (const moment of ['before', 'after'] as const) {
      await scribble()
      const { killed } = await runChild({ ...connection, fleecingDir, shelfDir, kill: { at, moment } })
      // The last commands may be fewer after a kill than in the first run: then the child simply ends.
      if (killed) kills++
      const where = `killed ${moment} command ${at} of ${commands}`
      if (guarded) await until(`guest freed by itself after a capture was ${where}`, () => isFree(qemu, agent))
      if ((await qemu.status()) === 'running') await scribble()
      const { point, disks, capture } = await shelf.backup({ hypervisor, fleecingDir })
      for (const { id } of DISKS)
        assert.ok(
          (await shelf.disk(point, id)).equals(qemu.contents(id)),
          `${id} is wrong after a capture was ${where}`,
        )
      for (const { changes, description } of disks)
        assert.equal(changes.kind, 'incremental', `${description.name} had to be read in full after one was ${where}`)
      await assertClean(qemu, fleecingDir, where)
      assert.equal(capture.consistency, 'filesystem', where)
      assert.equal(agent.frozen(), false, `the guest is frozen after a capture was ${where}`)
    }
  return { commands, kills }
}

async function isFree(qemu: TestQemu, agent: FakeGuestAgent): Promise<boolean> {
  return (await qemu.residue()).length === 0 && (await qemu.status()) === 'running' && !agent.frozen()
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  for (let attempt = 0; attempt < 1200; attempt++) {
    if (await holds()) return
    await systemClock.sleep(25)
  }
  assert.fail(`no ${what}`)
}

function guestOf(qemu: TestQemu, seed: string): () => Promise<void> {
  const random = seededRandom(seed)
  const below = (count: number) => Buffer.from(random(4)).readUInt32BE(0) % count
  return async () => {
    for (const { id, size } of DISKS) {
      const offset = below(size / (4 * KiB)) * 4 * KiB
      await qemu.write(id, 1 + below(255), offset, Math.min(size - offset, (1 + below(20)) * 4 * KiB))
    }
  }
}

async function assertClean(qemu: TestQemu, fleecingDir: string, where: string): Promise<void> {
  assert.equal(await qemu.status(), 'running', `the guest stands still after a capture was ${where}`)
  assert.deepEqual(await qemu.residue(), [], where)
  assert.deepEqual(existsSync(fleecingDir) ? readdirSync(fleecingDir) : [], [], where)
  for (const names of Object.values(await qemu.bitmaps()))
    assert.equal(names.filter(name => pointOfBitmap(name, REPOSITORY)).length, 1, where)
}
