/** QEMU lives longer than the process that serves its disks, unless that ends in order. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { systemClock } from '../../src/core/clock.ts'
import { isLifeboatError } from '../../src/core/errors.ts'
import { connectQmp, type QmpClient } from '../../src/hypervisor/qemu/qmp.ts'
import { startOf } from '../../src/hypervisor/run-lock.ts'
import { adoptQemu, cutLog, findQemu, startQemu } from '../../src/recovery/qemu-process.ts'

const folder = await mkdtemp(path.join(tmpdir(), 'lb-qemu-'))
after(() => rm(folder, { recursive: true, force: true }))
const log = path.join(folder, 'qemu.log')
const clock = systemClock
const program = 'qemu-system-x86_64'
const WORDS = ['-accel', 'tcg', '-nodefaults', '-no-user-config', '-display', 'none', '-S']
const SESSION = [
  ...['-chardev', `socket,id=control,path=${folder}/control.sock,server=on,wait=off`],
  ...['-mon', 'chardev=control,mode=control'],
]

test('kill -9 of the server leaves its QEMU alone, which is found by its folder, taken over and ended in order', async () => {
  const url = (file: string) => JSON.stringify(new URL(`../../src/${file}`, import.meta.url).href)
  const server = spawn(
    process.execPath,
    [
      '--input-type=module',
      '-e',
      `import { startQemu } from ${url('recovery/qemu-process.ts')}; import { systemClock } from ${url('core/clock.ts')}
       const request = ${JSON.stringify({ program, arguments: [...WORDS, ...SESSION], log })}
       const qemu = await startQemu({ ...request, clock: systemClock })
       console.log(qemu.pid); setTimeout(() => {}, 60_000)`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  const [said] = await Promise.race([once(server.stdout, 'data'), once(server, 'close')])
  const pid = Number(String(said))
  server.kill('SIGKILL')
  await once(server, 'close')
  while (!existsSync(path.join(folder, 'control.sock'))) await sleep(10)
  const found = await findQemu(folder)
  assert.equal(found?.pid, pid)
  assert.ok(found)
  assert.equal(await findQemu(`${folder}x`), undefined)
  const qemu = adoptQemu(found, log, clock)
  await qemu.stop()
  // One whose parent is gone may stay a zombie for a while, which counts as ended.
  assert.equal(await startOf(pid), undefined)
  assert.equal(await findQemu(folder), undefined)
  await qemu.kill()
  await adoptQemu({ pid: process.pid, start: 1 }, log, clock).kill()
})

test('a QEMU that goes its own way keeps nobody waiting', async () => {
  const url = (file: string) => JSON.stringify(new URL(`../../src/${file}`, import.meta.url).href)
  const [pid, start] = [process.pid, await startOf(process.pid)]
  const owner = spawn(process.execPath, [
    '--input-type=module',
    '-e',
    `import { adoptQemu } from ${url('recovery/qemu-process.ts')}; import { systemClock } from ${url('core/clock.ts')}
     adoptQemu(${JSON.stringify({ pid, start })}, ${JSON.stringify(log)}, systemClock).release()`,
  ])
  const late = setTimeout(() => owner.kill('SIGKILL'), 60_000)
  const [code] = await once(owner, 'exit')
  clearTimeout(late)
  assert.equal(code, 0)
})

/** The socket has its name before QEMU listens at it. */
async function controlOf(folder: string): Promise<QmpClient> {
  for (;;)
    try {
      return await connectQmp({ socket: path.join(folder, 'control.sock'), clock })
    } catch (error) {
      if (!isLifeboatError(error, 'qmp-unreachable')) throw error
      await sleep(10)
    }
}

test('stop ends it in order; what it said about bad options is kept, and its log is bounded', async () => {
  const qemu = await startQemu({ program, arguments: [...WORDS, ...SESSION], log, clock })
  // It says so on its control socket when it runs, and has been told by then what SIGTERM means.
  await using _control = await controlOf(folder)
  const exit = await qemu.stop()
  assert.equal(exit.code ?? exit.signal, 0)
  assert.equal(await startOf(qemu.pid), undefined)
  const wrong = await (await startQemu({ program, arguments: ['-nonsense'], log, clock })).ended
  assert.match(wrong.said, /nonsense/)
  assert.equal((await stat(log)).mode & 0o777, 0o600)

  const environment = { PATH: process.env.PATH, LIFEBOAT_PASSPHRASE: 'secret', LISTEN_FDS: '1' }
  const named = await startQemu({ program: 'sh', arguments: ['-c', 'env >&2'], log, environment, clock })
  assert.doesNotMatch((await named.ended).said, /secret|LISTEN/)
  assert.match((await named.ended).said, /^PATH=/m)
  assert.match(await readFile(`${log}.1`, 'utf8'), /nonsense/)

  const go = path.join(folder, 'go')
  const words = ['-c', `yes complaint | head -c 3000000 >&2; until [ -e ${go} ]; do sleep 0.1; done; echo last >&2`]
  const loud = await startQemu({ program: 'sh', arguments: words, log, clock })
  while ((await stat(log)).size < 3_000_000) await sleep(10)
  await cutLog(log)
  await writeFile(go, '')
  assert.match((await loud.ended).said, /complaint\nlast$/)
  assert.ok((await readFile(log)).length < 10_000)
  await assert.rejects(startQemu({ program: 'qemu-system-none', arguments: [], log, clock }), { code: 'tool-missing' })
})
