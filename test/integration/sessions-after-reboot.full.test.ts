/** Ten sessions at once, two of them VMs of one point; then all their processes die, the host boots, and resume --all. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { open, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { systemClock } from '../../src/core/clock.ts'
import { connectNbd } from '../../src/nbd/client.ts'
import { findQemu } from '../../src/recovery/qemu-process.ts'
import { encodeSessionState, parseSessionState } from '../../src/recovery/session-state.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { lacking } from '../doubles/peer-tools.ts'
import { type SessionSteps, sessionSteps } from '../doubles/session-steps.ts'

const EXPORTS = Array.from({ length: 7 }, (_, i) => `export${i}`)
const BOOTS = ['vm-a', 'vm-b', 'vm-damaged']
const NAMES = [...EXPORTS, ...BOOTS]
const disk = patternBytes(1 << 20)

async function served(at: SessionSteps, name: string): Promise<Buffer> {
  await using client = await connectNbd({
    socket: path.join(at.folder(name), 'nbd.sock'),
    exportName: 'vda',
    clock: systemClock,
  })
  const bytes = Buffer.alloc(disk.length)
  await client.readInto(bytes, 0)
  return bytes
}

/** Every process dies, and what was written says that it was another boot of the host. */
async function reboot(at: SessionSteps, name: string, server: number): Promise<void> {
  const qemu = await findQemu(at.folder(name))
  process.kill(server, 'SIGKILL')
  if (qemu) process.kill(qemu.pid, 'SIGKILL')
  while ((await at.shown(name))?.state !== 'crashed') await sleep(50)
  const file = path.join(at.folder(name), 'session.json')
  const state = parseSessionState(await readFile(file), file)
  await writeFile(file, encodeSessionState({ ...state, bootId: '00000000-0000-4000-8000-000000000000' }))
}

test('resume --all brings back what ran before the host booted, and says of one what it could not', {
  skip: lacking('qemu-system-x86_64', 'qemu-img'),
}, async () => {
  await using at = await sessionSteps(disk)
  const starts = NAMES.map(name =>
    at.start(
      EXPORTS.includes(name)
        ? ['export', 'vm@latest', '--session', name]
        : ['boot', 'vm@latest', '--session', name, '--accel', 'tcg'],
    ),
  )
  await Promise.all(starts.map(child => once(child.stdout!, 'data')))
  for (const name of NAMES) assert.deepEqual(await served(at, name), disk, name)
  assert.equal((await at.pins()).length, NAMES.length, 'each has its own pin')
  for (const [i, name] of NAMES.entries()) await reboot(at, name, starts[i]!.pid!)
  {
    await using overlay = await open(path.join(at.folder('vm-damaged'), 'disk0.qcow2'), 'r+')
    await overlay.write(Buffer.alloc(4096, 0xff), 0, 4096, 0)
  }
  // One that was stopped in order stays so.
  const stopped = at.start(['export', 'vm@latest', '--session', 'stopped'])
  await once(stopped.stdout!, 'data')
  stopped.kill('SIGTERM')
  await once(stopped, 'close')

  const resume = async () => {
    const child = at.start(['session', 'resume', '--all'])
    let text = ''
    child.stdout?.on('data', data => {
      text += data
    })
    const [code] = await once(child, 'close')
    return { code, sessions: JSON.parse(text).sessions }
  }
  const { code, sessions } = await resume()
  process.stdout.write(`# ${JSON.stringify(sessions)}\n`)
  assert.equal(code, 3)
  assert.deepEqual(
    sessions.map(({ name, outcome, afterReboot }: Record<string, unknown>) => ({ name, outcome, afterReboot })),
    NAMES.map(name => ({ name, outcome: name === 'vm-damaged' ? 'failed' : 'resumed', afterReboot: true })),
  )
  assert.match(sessions.find(({ name }: { name: string }) => name === 'vm-damaged').why, /disk0.qcow2 is damaged/)
  for (const name of [...EXPORTS, 'vm-a', 'vm-b']) assert.deepEqual(await served(at, name), disk, name)
  assert.equal((await at.shown('stopped'))?.state, 'stopped')
  assert.equal((await at.shown('vm-damaged'))?.state, 'crashed')

  const again = await resume()
  assert.equal(again.code, 3)
  assert.equal(again.sessions.filter(({ outcome }: { outcome: string }) => outcome === 'runs').length, 9)
  for (const name of [...NAMES, 'stopped']) assert.equal((await at.cli.json(`session discard ${name}`)).code, 0, name)
  for (const name of NAMES) await at.nothingIsLeft(name)
})
