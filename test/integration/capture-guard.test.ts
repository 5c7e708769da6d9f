/** The dead man's switch against the moment in which its process is already dead and can still be seen. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import path from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { mark, RUN_MARKER } from '../../src/hypervisor/qemu/markers.ts'
import { connectQmp } from '../../src/hypervisor/qemu/qmp.ts'
import { isAlive, runnerText, startOf, thisRunner } from '../../src/hypervisor/run-lock.ts'
import { MiB, qemuMissing, startQemu } from '../doubles/qemu.ts'

const WATCH = path.join(import.meta.dirname, '../../src/hypervisor/qemu/capture-watch.ts')

test('a process whose pipe has ended is dead, though it can still be seen: what it put into QEMU is taken out', {
  skip: qemuMissing(),
}, async () => {
  await using qemu = await startQemu({ disks: [{ id: 'vda', format: 'qcow2', size: MiB }], running: true })
  const runner = runnerText(await thisRunner())
  {
    await using qmp = await connectQmp({ socket: qemu.qmp, clock: systemClock })
    await mark(qmp, RUN_MARKER + runner)
  }
  assert.notDeepEqual(await qemu.residue(), [])
  const watch = spawn(process.execPath, [WATCH, JSON.stringify({ qmp: qemu.qmp, runner })], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const code = await new Promise(resolve => watch.once('exit', resolve))
  assert.equal(code, 0)
  assert.deepEqual(await qemu.residue(), [])
})

test('a zombie is not alive', async () => {
  // The shell becomes a program that does not wait for the child that it inherits.
  const parent = spawn('bash', ['-c', 'sleep 0.2 & echo $!; exec sleep 30'], { stdio: ['ignore', 'pipe', 'ignore'] })
  try {
    const pid = Number(await new Promise<string>(resolve => parent.stdout.once('data', data => resolve(String(data)))))
    const start = await startOf(pid)
    assert.ok(start, 'it lives at first')
    const { host } = await thisRunner()
    while (await isAlive({ host, pid, start })) await systemClock.sleep(20)
    assert.equal(await startOf(pid), undefined)
    process.kill(pid, 0)
  } finally {
    parent.kill('SIGKILL')
  }
})
