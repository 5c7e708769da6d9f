/** What sessions are asked that they cannot do, by the command line: each is refused with what to do, and the session is as it was. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises'
import { after, before, describe, test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { LifeboatError } from '../../src/core/errors.ts'
import { connectNbd } from '../../src/nbd/client.ts'
import { encodeSessionState, parseSessionState, type SessionState } from '../../src/recovery/session-state.ts'
import { done, type Refusal, refused, type SmallRepository, smallRepository } from '../doubles/bad-input.ts'
import { smallDisk } from '../doubles/command-line.ts'
import { loopDevice } from '../doubles/loop-device.ts'
import { lacking } from '../doubles/peer-tools.ts'

const usage = { exit: 2, code: 'usage' } as const
const VERBS = ['show', 'resume', 'commit', 'migrate', 'discard']
const interrupted = () => new LifeboatError('interrupted', 'stopped by SIGINT')

describe('sessions that are asked for what they cannot do', { timeout: 180_000 }, () => {
  let small: SmallRepository
  before(async () => {
    small = await smallRepository()
    // Sessions remember where their repository is, and nobody remembers a key for them.
    small.cli.environment.LIFEBOAT_KEY_FILE = small.cli.at('key')
  })
  after(() => small[Symbol.asyncDispose]())

  const at = (...parts: string[]) => small.cli.at(...parts)
  const ask = (words: string, signal?: AbortSignal) => small.cli.json(words, signal && { signal })
  const refuse = async (words: string, refusal: Refusal) => {
    const answer = await ask(words)
    refused(answer, refusal)
    return answer
  }
  /** The words of a verb with what it cannot do without. */
  const call = (verb: string, name: string) =>
    `session ${verb} ${name}${verb === 'migrate' ? ` --to vda=${at('nowhere.raw')}` : ''}`
  const stateFile = (name: string) => at('state', 'sessions', name, 'session.json')
  const stateOf = async (name: string) => parseSessionState(await readFile(stateFile(name)), name)
  const pins = () => readdir(at('repo', 'pins')).catch(() => [])

  /** Serves it while `work` is at it. */
  async function served(words: string, name: string, work: () => Promise<void>): Promise<void> {
    const stop = new AbortController()
    const running = ask(words, stop.signal)
    let isEnded = false
    void running.finally(() => {
      isEnded = true
    })
    try {
      const isUp = () =>
        stateOf(name).then(
          ({ state }) => state === 'running',
          () => false,
        )
      while (!isEnded && !(await isUp())) await systemClock.sleep(10)
      assert.ok(!isEnded, JSON.stringify(await Promise.race([running, undefined])))
      await work()
    } finally {
      stop.abort(interrupted())
      await running
    }
  }
  const writable = (name: string) => `${small.at} export web1@latest --session ${name} --writable`
  const client = (name: string) =>
    connectNbd({ socket: at('state', 'sessions', name, 'nbd.sock'), exportName: 'vda', clock: systemClock })
  const firstBytes = async (name: string) => {
    await using reader = await client(name)
    const bytes = Buffer.alloc(8)
    await reader.readInto(bytes, 0)
    return bytes
  }

  test('names that no session has, and that none may have', async () => {
    for (const verb of VERBS) {
      await refuse(call(verb, 'nobody'), { exit: 2, code: 'no-such-session' })
      for (const name of ['../../etc', 'a/b', '.', 'ü']) await refuse(call(verb, name), usage)
    }
    await refuse('session dance x', usage)
    await refuse('session show', usage)
    await refuse('session list x', usage)
    await refuse('session resume x --all', usage)
    const { error } = await refuse('session show a b', usage)
    assert.match(
      error.hint ?? '',
      /lifeboat session --help/,
      'the hint is of the verb that was called, not of its words',
    )
    assert.ok(!existsSync(at('state', 'sessions', 'nobody')))
  })

  test('a session that takes no writes: nothing to commit, nothing to migrate', async () => {
    const readOnly = `${small.at} export web1@latest --session still`
    const both = async () => {
      await refuse(call('commit', 'still'), usage)
      const { error } = await refuse(call('migrate', 'still'), usage)
      assert.match(error.message ?? '', /takes no writes/)
      assert.match(error.hint ?? '', /lifeboat restore web1@/)
    }
    await served(readOnly, 'still', async () => {
      await both()
      for (const words of [call('resume', 'still'), readOnly, `${small.at} boot web1@latest --session still`])
        await refuse(words, { exit: 2, code: 'session-busy' })
    })
    await both()
    await refuse(`${small.at} boot web1@latest --session still`, usage)
    await refuse(`${small.at} export other@latest --session still`, usage)
    done(await ask('session discard still'))
  })

  test('targets of a migration that are there, the same, nowhere, full or none', async t => {
    await writeFile(at('there.raw'), 'mine')
    await mkdir(at('tight'))
    await using disk = smallDisk(at('tight'), 256 * 1024)
    await served(writable('moves'), 'moves', async () => {
      const move = (to: string) => `session migrate moves ${to}`
      const { error } = await refuse(move(`--to ${at('there.raw')}`), { exit: 2, code: 'output-exists' })
      assert.doesNotMatch(error.hint ?? '', /--force|--onto/, 'only flags that it has')
      const same = `--to vda=${at('a.raw')} --to vda=${at('a.raw')}`
      await refuse(move(same), { ...usage, message: /two disks cannot both go/ })
      await refuse(move(`--to vda=${at('a.raw')} --to vda=${at('b.raw')}`), usage)
      await refuse(move(`--to vdz=${at('a.raw')}`), { exit: 2, code: 'no-such-disk' })
      await refuse(move(`--to ${at('no', 'such', 'a.raw')}`), { exit: 1, code: 'output-failed' })
      await refuse(move(`--to ${at('a.qcow2')}`), usage)
      await refuse(move(`--to ${at('a.raw')},format=vmdk`), usage)
      await refuse(move(`--to ${at('a.raw')} --limit-rate 0`), usage)
      await refuse(move('--to /dev/null'), { exit: 2, code: 'output-exists' })
      if (disk) await refuse(move(`--to ${at('tight', 'a.raw')}`), { exit: 1, code: 'disk-full' })
      else t.diagnostic('mounting a tmpfs takes root')
      assert.deepEqual(await readdir(at('tight')), [])
      assert.ok(!existsSync(at('a.raw')))
      assert.equal(await readFile(at('there.raw'), 'utf8'), 'mine')
      assert.deepEqual(await firstBytes('moves'), small.contents[1].subarray(0, 8), 'it serves as before')
    })
    const { error } = await refuse(call('migrate', 'moves'), usage)
    assert.match(error.hint ?? '', /session resume moves/, 'a stopped one is to be resumed first')
    done(await ask('session discard moves'))
  })

  test('a device that is mounted or too small is not written to by a VM that moves', async t => {
    if (lacking('qemu-system-x86_64', 'qemu-img', 'mkfs.ext4')) return t.skip('QEMU or mkfs.ext4 is not installed')
    await truncate(await touched('small.img'), 512 * 1024)
    await truncate(await touched('mounted.img'), 4 << 20)
    await using little = loopDevice(at('small.img'))
    await using mounted = loopDevice(at('mounted.img'))
    if (!little || !mounted) return t.skip('loop devices take root')
    execFileSync('mkfs.ext4', ['-q', mounted.device])
    await mkdir(at('mount'))
    execFileSync('mount', [mounted.device, at('mount')])
    try {
      const boot = `${small.at} boot web1@latest --session vm --accel tcg --memory 32M`
      await served(boot, 'vm', async () => {
        await refuse(`session migrate vm --to ${little.device}`, usage)
        await refuse(`session migrate vm --to ${mounted.device}`, { exit: 1, code: 'output-failed' })
        await refuse('session migrate vm --to /dev/null', { exit: 2, code: 'output-exists' })
        assert.equal((await stateOf('vm')).migration, undefined)
      })
    } finally {
      execFileSync('umount', [at('mount')])
    }
    execFileSync('e2fsck', ['-fn', mounted.device], { stdio: 'ignore' })
    done(await ask('session discard vm'))
  })

  const touched = async (name: string) => {
    await writeFile(at(name), '')
    return at(name)
  }

  test('Ctrl-C in mid migration, and a server that is told to stop: the session stays, and no target', async () => {
    const words = `session migrate slow --to ${at('slow.raw')} --limit-rate 64KiB`
    const copying = async () => {
      while (!(await readdir(at())).some(name => name.startsWith('.slow.raw'))) await systemClock.sleep(10)
    }
    const noTarget = async () =>
      assert.deepEqual(
        (await readdir(at())).filter(name => name.includes('slow.raw')),
        [],
      )
    let stopped: ReturnType<typeof ask> | undefined
    await served(writable('slow'), 'slow', async () => {
      const stop = new AbortController()
      const moving = ask(words, stop.signal)
      await copying()
      await refuse('session commit slow', { exit: 2, code: 'session-busy' })
      stop.abort(interrupted())
      const { code, stderr } = await moving
      assert.equal(code, 130)
      assert.match(stderr, /lifeboat session show slow/, 'it says how to see what has become of it')
      while ((await readdir(at())).some(name => name.includes('slow.raw'))) await systemClock.sleep(10)
      assert.equal((await stateOf('slow')).state, 'running')
      stopped = ask(words)
      await copying()
    })
    refused((await stopped)!, { exit: 130, code: 'interrupted' })
    await noTarget()
    assert.equal((await stateOf('slow')).state, 'stopped')
    done(await ask('session discard slow'))
  })

  test('a session that was migrated, or is being discarded, does nothing else', async () => {
    await served(writable('gone'), 'gone', async () => {
      const { stderr } = done(await ask(`session migrate gone --to ${at('gone.raw')}`))
      assert.match(stderr, /clients must open .*gone\.raw instead of vda/)
    })
    for (const verb of ['resume', 'commit', 'migrate']) await refuse(call(verb, 'gone'), usage)
    await writeFile(stateFile('gone'), encodeSessionState({ ...(await stateOf('gone')), state: 'discarding' }))
    for (const verb of ['resume', 'commit', 'migrate']) await refuse(call(verb, 'gone'), usage)
    done(await ask('session discard gone'))
  })

  test('a state that is damaged, newer or not there: said as what it is, and only discarded by who knows it', async () => {
    await served(writable('kept'), 'kept', async () => {})
    const whole = await readFile(stateFile('kept'))
    await writeFile(stateFile('kept'), whole.subarray(0, 100))
    for (const verb of ['resume', 'commit', 'migrate']) {
      const { error } = await refuse(call(verb, 'kept'), { exit: 1, code: 'session-damaged' })
      assert.match(error.hint ?? '', /overlay/)
    }
    assert.match(JSON.stringify(done(await ask('session show kept')).json), /"state":"damaged"/)
    await writeFile(stateFile('kept'), whole.toString().replace('"version":1', '"version":2'))
    for (const verb of ['resume', 'commit', 'migrate', 'discard'])
      await refuse(call(verb, 'kept'), { exit: 2, code: 'session-newer' })
    await rm(stateFile('kept'))
    for (const verb of ['resume', 'commit', 'migrate']) {
      const { error } = await refuse(call(verb, 'kept'), usage)
      assert.match(error.hint ?? '', /session discard kept/)
    }
    await writeFile(stateFile('kept'), whole.subarray(0, 100))
    const before = await pins()
    const { stderr } = done(await ask('session discard kept'))
    assert.match(stderr, /unlock --pin/, 'the pin that nobody knows of is told')
    assert.deepEqual(await pins(), before)
    for (const pin of before) await rm(at('repo', 'pins', pin))
  })

  test('a repository that is gone: the session can be discarded, and which pin stays is told', async () => {
    await served(writable('alone'), 'alone', async () => {})
    const [pin = ''] = await pins()
    await rename(at('repo'), at('away'))
    for (const verb of ['resume', 'commit', 'migrate', 'discard'])
      assert.equal((await ask(call(verb, 'alone'))).code, 4)
    assert.notEqual((await ask('session discard alone')).error.hint, undefined)
    const { stderr } = done(await ask('session discard alone --leave-pin'))
    assert.match(stderr, new RegExp(pin))
    assert.ok(!existsSync(at('state', 'sessions', 'alone')))
    await rename(at('away'), at('repo'))
    done(await ask(`${small.at} unlock --pin ${pin}`))
    assert.deepEqual(await pins(), [])
  })

  test('a VM that may have moved already is not killed by discarding its session', async () => {
    await served(writable('moved'), 'moved', async () => {})
    const state = await stateOf('moved')
    const { pid } = process
    const start = Number((await readFile('/proc/self/stat', 'utf8')).split(') ')[1]?.split(' ')[19])
    const targets = [{ disk: 'vda', path: at('new.raw'), format: 'raw' as const }]
    const pivoting: SessionState = {
      ...state,
      ...{ kind: 'boot', state: 'running', serve: undefined, migration: { targets, phase: 'pivoting' } },
      // This very process, which would notice.
      qemu: { program: 'qemu', arguments: ['-S'], accelerator: 'tcg', process: { pid, start } },
    }
    await writeFile(stateFile('moved'), encodeSessionState(JSON.parse(JSON.stringify(pivoting))))
    const { error } = await refuse('session discard moved', usage)
    assert.match(error.message ?? '', /new\.raw/)
    await writeFile(stateFile('moved'), encodeSessionState(state))
    done(await ask('session discard moved'))
    assert.deepEqual(await pins(), [])
  })

  test('two sessions of one point: each has its own writes, and the point none', async () => {
    await served(writable('one'), 'one', () =>
      served(writable('two'), 'two', async () => {
        for (const name of ['one', 'two']) {
          await using writer = await client(name)
          await writer.write(Buffer.alloc(8, name), 0)
        }
        for (const name of ['one', 'two']) assert.deepEqual(await firstBytes(name), Buffer.alloc(8, name))
        assert.equal(new Set(await pins()).size, 2, 'each has a pin of its own')
      }),
    )
    for (const name of ['one', 'two']) done(await ask(`session discard ${name}`))
    done(await ask(`${small.at} restore web1@latest/vda --output ${at('point.raw')}`))
    assert.ok((await readFile(at('point.raw'))).equals(small.contents[1]))
  })
})
