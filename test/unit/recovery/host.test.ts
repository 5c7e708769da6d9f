/** What a host can do: the probe of KVM, its kept verdict, and the doctor. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { systemClock } from '../../../src/core/clock.ts'
import { chooseAccelerator, hostBootId, kvmVerdict } from '../../../src/recovery/accelerator.ts'
import { doctor, qemuVersionCheck } from '../../../src/recovery/doctor.ts'
import { probeAccelerator, probeFirmware } from '../../../src/recovery/kvm-probe.ts'

const folder = await mkdtemp(path.join(tmpdir(), 'lb-host-'))
after(() => rm(folder, { recursive: true, force: true }))
const program = 'qemu-system-x86_64'

/** A QEMU that ends with this code, or hangs, and notes that it was run. */
async function fakeQemu(name: string, line: string): Promise<string> {
  const file = path.join(folder, name)
  await writeFile(file, `#!/bin/sh\necho run >> ${file}.runs\n${line}\n`)
  await chmod(file, 0o755)
  return file
}
const runsOf = async (file: string) => (await readFile(`${file}.runs`, 'utf8')).split('\n').length - 1

test('the probe runs to 64-bit mode and out again where the accelerator works, in a folder that it makes', async () => {
  const runDir = path.join(folder, 'not', 'there')
  const { works, reason } = await probeAccelerator({ accelerator: 'tcg', program, runDir, timeoutMs: 30_000 })
  assert.ok(works, reason)
})

test('a probe that hangs, fails or ends otherwise means no', async () => {
  const probe = async (line: string) =>
    probeAccelerator({ accelerator: 'kvm', program: await fakeQemu('fake', line), runDir: folder, timeoutMs: 1000 })
  assert.match((await probe('exec sleep 60')).reason, /hangs/)
  assert.equal((await probe('echo "failed to initialize kvm" >&2; exit 1')).reason, 'failed to initialize kvm')
  assert.equal((await probe('exit 0')).works, false)
  assert.equal((await probe('exit 85')).works, true)
  await assert.rejects(probeAccelerator({ accelerator: 'kvm', program: 'no-such-qemu', runDir: folder }), {
    code: 'tool-missing',
  })
})

test('the verdict is kept for this boot of the host and this QEMU; the user overrules it', async () => {
  const device = path.join(folder, 'kvm')
  await writeFile(device, '')
  const request = {
    stateDir: path.join(folder, 'state'),
    runDir: folder,
    bootId: 'one',
    device,
    program: await fakeQemu('counted', 'exit 85'),
  }
  assert.equal((await chooseAccelerator({ ...request, wanted: 'auto' })).accelerator, 'kvm')
  assert.equal((await kvmVerdict(request)).works, true)
  assert.equal(await runsOf(request.program), 1)
  await kvmVerdict({ ...request, bootId: 'two' })
  assert.equal(await runsOf(request.program), 2)
  await writeFile(path.join(request.stateDir, 'kvm-verdict.json'), '{"key":')
  assert.equal((await kvmVerdict(request)).works, true)
  assert.equal(await runsOf(request.program), 3)
  assert.equal((await kvmVerdict({ ...request, device: path.join(folder, 'absent') })).works, false)
  assert.equal((await chooseAccelerator({ ...request, wanted: 'tcg' })).accelerator, 'tcg')
  assert.equal((await chooseAccelerator({ ...request, device: '/absent', wanted: 'kvm' })).accelerator, 'kvm')
  assert.match(await hostBootId(), /^[0-9a-f-]{36}$/)
})

test('the firmware is what its source assembles to', {
  skip: !hasAssembler() && 'needs as and ld (binutils)',
}, async () => {
  const source = new URL('../../../src/recovery/kvm-probe.s', import.meta.url).pathname
  const at = (name: string) => path.join(folder, name)
  execFileSync('as', ['-o', at('probe.o'), source])
  execFileSync('ld', ['-Ttext', '0', '--oformat', 'binary', '-e', '0', '-o', at('probe.bin'), at('probe.o')])
  assert.equal(Buffer.compare(await readFile(at('probe.bin')), probeFirmware()), 0)
})

function hasAssembler(): boolean {
  try {
    execFileSync('as', ['--version'], { stdio: 'ignore' })
    execFileSync('ld', ['--version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

test('the doctor looks at everything, and says what to do about what is wrong', async () => {
  const plain = path.join(folder, 'plain')
  await writeFile(plain, '')
  const request = {
    stateDir: path.join(folder, 'd/state'),
    cacheDir: path.join(plain, 'below/a/file'),
    runDir: folder,
    clock: { ...systemClock, now: () => new Date(0) },
    nodeVersion: 'v18.20.0',
    loadAddon: () => {
      throw new Error('no addon')
    },
    program: 'no-such-qemu',
    devices: { kvm: '/absent', fuse: '/absent' },
  }
  const checks = await doctor(request)
  const status = Object.fromEntries(checks.map(check => [check.name, check.status]))
  for (const name of ['node', 'addon', 'qemu', 'cache-dir', 'clock']) assert.equal(status[name], 'fail', name)
  for (const name of ['kvm', 'fuse']) assert.equal(status[name], 'warn', name)
  for (const { name, status: found, advice } of checks) assert.ok(found === 'ok' || advice, `${name} says what to do`)
  const well = await doctor({
    ...request,
    cacheDir: folder,
    clock: systemClock,
    nodeVersion: process.version,
    loadAddon: () => {},
    program,
  })
  assert.deepEqual(
    well
      .filter(({ name }) =>
        ['node', 'addon', 'qemu', 'qemu-img', 'setpriv', 'state-dir', 'cache-dir', 'clock'].includes(name),
      )
      .filter(check => check.status !== 'ok'),
    [],
  )
  assert.equal(qemuVersionCheck('QEMU emulator version 6.2.0').status, 'warn')
  assert.equal(qemuVersionCheck('QEMU emulator version 7.1.0').status, 'ok')
  assert.equal(qemuVersionCheck('QEMU emulator version 10.0.2').status, 'ok')
  assert.equal(qemuVersionCheck('something').status, 'warn')
})
