/** QEMU never outlives the process that serves its disks. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { systemClock } from '../../src/core/clock.ts'
import { startQemu } from '../../src/recovery/qemu-process.ts'
import { startTimeOf } from '../guest/process-record.ts'

const WORDS = ['-accel', 'tcg', '-nodefaults', '-no-user-config', '-display', 'none', '-S']
const program = 'qemu-system-x86_64'

test('kill -9 of the server ends its QEMU', async () => {
  const url = (file: string) => JSON.stringify(new URL(`../../src/${file}`, import.meta.url).href)
  const server = spawn(
    process.execPath,
    [
      '--input-type=module',
      '-e',
      `import { startQemu } from ${url('recovery/qemu-process.ts')}; import { systemClock } from ${url('core/clock.ts')}
       const qemu = await startQemu(${JSON.stringify(program)}, ${JSON.stringify(WORDS)}, systemClock)
       console.log(qemu.pid)`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  const [said] = await Promise.race([once(server.stdout, 'data'), once(server, 'close')])
  const pid = Number(String(said))
  assert.notEqual(startTimeOf(pid), '', 'QEMU runs')
  server.kill('SIGKILL')
  // The test's own time limit ends this wait.
  while (startTimeOf(pid) !== '') await sleep(20)
})

test('stop ends it in order; what it said about bad options is kept', async () => {
  const qemu = await startQemu(program, WORDS, systemClock)
  await sleep(200)
  const exit = await qemu.stop()
  assert.equal(exit.code ?? exit.signal, 0)
  assert.equal(startTimeOf(qemu.pid), '')
  const wrong = await (await startQemu(program, ['-nonsense'], systemClock)).ended
  assert.match(wrong.said, /nonsense/)
})
