/** The guests that other tests rely on: they boot, they do what they are told, and they never outlive the test. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { dataDisk } from '../guest/data-disk.ts'
import { endLeftovers, startTimeOf } from '../guest/process-record.ts'
import { tinyImage } from '../guest/tiny-image.ts'
import { copyImage } from '../guest/tool.ts'
import { startVm } from '../guest/vm.ts'

const folder = mkdtempSync(join(tmpdir(), 'lifeboat-guest-'))
after(() => rmSync(folder, { recursive: true }))
const system = { name: 'vda', path: join(folder, 'system.raw'), format: 'raw' } as const
const data = { name: 'vdb', path: join(folder, 'data.qcow2'), format: 'qcow2' } as const

test('a tiny guest boots, keeps what it writes, and powers off', async () => {
  const image = await tinyImage()
  await copyImage(image.disk, system.path)
  await copyImage(await dataDisk(), data.path)
  for (const boots of ['1', '2']) {
    await using vm = await startVm({ disks: [system, data], direct: image.direct, bootTimeoutMs: image.bootTimeoutMs })
    await vm.waitForPrompt()
    assert.equal(await vm.must('cat /var/boots'), boots)
    assert.equal((await vm.run('ls /data/letters | wc -l; exit 3')).rc, 3)
    assert.equal((await vm.run('if then')).rc, 2, 'a line with a fault does not end the channel')
    if (boots === '1') await vm.must('echo kept > /data/note; sync')
    else assert.equal(await vm.must('cat /data/note'), 'kept')
    await vm.poweroff()
  }
})

test('a guest ends when the process that started it is killed', async () => {
  const image = await tinyImage()
  await copyImage(image.disk, system.path)
  const program = `
    import { startVm } from ${JSON.stringify(new URL('../guest/vm.ts', import.meta.url).href)}
    const vm = await startVm(${JSON.stringify({ disks: [system], direct: image.direct })})
    console.log(JSON.stringify([vm.pid, vm.qmp]))
    setInterval(() => {}, 1000)`
  const starter = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [pid, socket] = JSON.parse(`${await new Promise(resolve => starter.stdout.once('data', resolve))}`)
  assert.notEqual(startTimeOf(pid), '')
  starter.kill('SIGKILL')
  while (startTimeOf(pid) !== '') await sleep(20)
  assert.ok(existsSync(socket))
  endLeftovers()
  assert.ok(!existsSync(dirname(socket)), 'the next run removes what a killed one left')
})
