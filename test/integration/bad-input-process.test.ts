/** Failures that need a process or a QEMU: signals, closed and full outputs, QMP sockets, a guest that goes, a full fleecing disk. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { openSync } from 'node:fs'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { systemClock } from '../../src/core/clock.ts'
import { connectQmp } from '../../src/hypervisor/qemu/qmp.ts'
import {
  done,
  noise,
  refused,
  refusedWithoutTrace,
  type SmallRepository,
  smallRepository,
} from '../doubles/bad-input.ts'
import { smallDisk } from '../doubles/command-line.ts'
import { qemuMissing, startQemu, type TestQemu } from '../doubles/qemu.ts'

const program = fileURLToPath(new URL('../../bin/lifeboat.mjs', import.meta.url))
const MiB = 1 << 20

describe('the program', { timeout: 120_000 }, () => {
  let small: SmallRepository
  before(async () => {
    small = await smallRepository()
    await writeFile(small.cli.at('new.raw'), noise(2 * MiB))
  })
  after(() => small[Symbol.asyncDispose]())
  const at = (...parts: string[]) => small.cli.at(...parts)

  function start(words: string, stdout: 'pipe' | number = 'pipe'): ChildProcess {
    const environment = { PATH: process.env.PATH, ...small.cli.environment }
    const list = [program, ...`${small.at} ${words}`.split(' ')]
    return spawn(process.execPath, list, { stdio: ['ignore', stdout, 'pipe'], env: environment })
  }

  async function ended(child: ChildProcess): Promise<{ code: number | null; signal: string | null; stderr: string }> {
    let stderr = ''
    child.stderr?.on('data', part => {
      stderr += String(part)
    })
    const [code, signal] = await once(child, 'close')
    return { code, signal, stderr }
  }

  async function lease(): Promise<void> {
    for (let names: string[] = []; names.length === 0; names = await readdir(`${small.repo}/leases`))
      await new Promise(resolve => setTimeout(resolve, 20))
  }

  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    test(`${signal} in mid backup: exit code 130, no lease and no point stays`, async () => {
      const child = start(`backup fresh --image vda=${at('new.raw')} --limit-rate 100KiB`)
      const end = ended(child)
      await lease()
      await new Promise(resolve => setTimeout(resolve, 200))
      child.kill(signal)
      const { code, stderr } = await end
      assert.equal(code, 130, stderr)
      assert.equal(stderr, `lifeboat: stopped by ${signal}\n`)
      assert.deepEqual(await readdir(`${small.repo}/leases`), [])
      assert.deepEqual((await readdir(`${small.repo}/points`)).sort(), ['other', 'web1'])
    })

  test('SIGTERM ends an export with 0, its socket and its pin go', async () => {
    const child = start(`export web1@latest --socket ${at('s')}`)
    const end = ended(child)
    assert.ok(child.stdout)
    await once(child.stdout, 'data')
    assert.equal((await readdir(`${small.repo}/pins`)).length, 1)
    child.kill('SIGTERM')
    assert.equal((await end).code, 0)
    await assert.rejects(readFile(at('s')), { code: 'ENOENT' })
    assert.deepEqual(await readdir(`${small.repo}/pins`), [])
  })

  test('nobody reads stdout any more: the work is done, without a word', async () => {
    for (const words of ['points', `--json backup piped --image vda=${small.image}`]) {
      const child = start(words)
      child.stdout?.destroy()
      const { code, signal, stderr } = await ended(child)
      assert.deepEqual([code, signal, stderr], [0, null, ''], words)
    }
    done(await small.cli.json(`${small.at} show piped@latest`))
  })

  test('a result that cannot be written is a failure that is told', async () => {
    const full = openSync('/dev/full', 'w')
    const { code, stderr } = await ended(start('points', full))
    assert.equal(code, 1)
    assert.match(stderr, /^lifeboat: the result cannot be written: .*ENOSPC/)
  })
})

describe('a QEMU', { skip: qemuMissing(), timeout: 120_000 }, () => {
  let small: SmallRepository
  let qemu: TestQemu
  before(async () => {
    small = await smallRepository()
    qemu = await startQemu({ disks: [{ id: 'vda', format: 'qcow2', size: 64 * MiB }], running: true })
    for (let n = 0; n < 32; n++) await qemu.write('vda', n + 1, n * MiB, MiB)
  })
  after(async () => {
    await qemu[Symbol.asyncDispose]()
    await small[Symbol.asyncDispose]()
  })
  const at = (...parts: string[]) => small.cli.at(...parts)
  const backup = (more = '') => small.cli.json(`${small.at} backup guest --qmp ${qemu.qmp} ${more}`)
  const clean = async () => {
    assert.deepEqual(await qemu.residue(), [])
    assert.deepEqual(await qemu.bitmaps(), {})
    assert.equal(await qemu.status(), 'running')
  }
  const inCapture = async () => {
    while ((await qemu.residue()).length === 0) await new Promise(resolve => setTimeout(resolve, 20))
    await new Promise(resolve => setTimeout(resolve, 100))
  }

  test('the QMP socket is absent, or no socket', async () => {
    for (const place of [at('nothing'), small.image, small.cli.dir])
      await refusedWithoutTrace(small.cli.dir, () => small.cli.json(`${small.at} backup guest --qmp ${place}`), {
        exit: 2,
        code: 'qmp-unreachable',
        object: place,
      })
  })

  test("another QMP client's exclusive use of the socket", async () => {
    await using _ = await connectQmp({ socket: qemu.qmp, clock: systemClock })
    await refusedWithoutTrace(small.cli.dir, backup, {
      exit: 2,
      code: 'qmp-unreachable',
      message: /another QMP client/,
    })
    await clean()
  })

  test('no such disk, among those that there are', async () => {
    const answer = await refusedWithoutTrace(small.cli.dir, () => backup('--disk vdz'), {
      exit: 2,
      code: 'no-such-disk',
    })
    assert.match(answer.error.hint ?? '', /vda/)
    await clean()
  })

  test('Ctrl-C in mid capture: the guest runs, and nothing of ours stays in it', async () => {
    const stop = new AbortController()
    const running = small.cli.json(`${small.at} backup guest --qmp ${qemu.qmp} --limit-rate 20KiB`, {
      signal: stop.signal,
    })
    await inCapture()
    const { LifeboatError } = await import('../../src/core/errors.ts')
    stop.abort(new LifeboatError('interrupted', 'stopped by SIGINT'))
    assert.equal((await running).code, 130)
    await clean()
    assert.deepEqual(await readdir(at('state', 'fleecing')), [])
  })

  test('two backups of one guest at once: the second says who is at it', async () => {
    const stop = new AbortController()
    const first = small.cli.json(`${small.at} backup guest --qmp ${qemu.qmp} --limit-rate 20KiB`, {
      signal: stop.signal,
    })
    await inCapture()
    const second = await backup()
    stop.abort(new Error('enough'))
    await first
    assert.notEqual(second.code, 0)
    refused(second, {
      exit: second.error.code === 'vm-busy' ? 1 : 2,
      code: second.error.code ?? '',
      message: new RegExp(`${process.pid}|another QMP client`),
    })
    await clean()
  })

  test('the fleecing folder is on a disk without room: refused before the guest is touched', async t => {
    await mkdir(at('tight'))
    await using disk = smallDisk(at('tight'), 2 * MiB)
    if (!disk) return t.skip('mounting a tmpfs takes root')
    const answer = await backup(`--fleecing-dir ${at('tight')}`)
    refused(answer, { exit: 1, code: 'disk-full', message: /tight/ })
    await clean()
    assert.deepEqual(await readdir(at('tight')), [])
  })

  test('the guest powers off in mid capture: said, no point, nothing of ours stays on this host', async () => {
    const running = backup('--limit-rate 20KiB')
    await inCapture()
    await qemu.quit()
    refused(await running, { exit: 1, code: 'guest-gone' })
    assert.deepEqual(await readdir(at('state', 'fleecing')), [])
    assert.deepEqual(await readdir(`${small.repo}/leases`), [])
    refused(await small.cli.json(`${small.at} show guest@latest`), { exit: 2, code: 'no-such-vm' })
  })
})
