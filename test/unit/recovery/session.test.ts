import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { systemClock } from '../../../src/core/clock.ts'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { systemRandom } from '../../../src/core/random.ts'
import {
  createSession,
  discardSession,
  inventSessionName,
  listSessions,
  openSession,
  readSession,
  showSession,
} from '../../../src/recovery/session.ts'
import { encodeSessionState, parseSessionState, type SessionState } from '../../../src/recovery/session-state.ts'

const folder = await mkdtemp(path.join(tmpdir(), 'lb-session-'))
after(() => rm(folder, { recursive: true, force: true }))
let count = 0
const place = () => ({
  stateDir: path.join(folder, `${count++}`),
  runDir: path.join(folder, 'run'),
  clock: systemClock,
  random: systemRandom,
})

const state: SessionState = {
  name: 'web1-a',
  kind: 'boot',
  state: 'running',
  repository: { url: 'file:///backup', id: '00'.repeat(16) },
  point: { id: '00000000000000a1', key: 'points/web1/x', vm: 'web1', pin: 'feedfeedfeedfeed' },
  created: '2026-11-21T10:00:00.000Z',
  updated: '2026-11-21T10:00:00.000Z',
  bootId: 'b',
  disks: [
    { name: 'vda', size: 1 << 30, overlay: { path: '/x/disk0.qcow2', format: 'qcow2', bitmap: 'lifeboat-1-2' } },
    { name: 'vdb', size: 512 },
  ],
  sockets: { nbd: '/x/nbd.sock', qmp: '/x/qmp.sock' },
  qemu: { program: 'qemu-system-x86_64', arguments: ['-S'], accelerator: 'tcg', process: { pid: 7, start: 9 } },
  figures: { secondsToFirstRead: 1.25 },
}

test('a state that was written is read again as it was, and unknown members do no harm', () => {
  const bytes = encodeSessionState(state)
  assert.deepEqual(parseSessionState(bytes, 'f'), state)
  const more = { ...state, later: { thing: true } }
  assert.deepEqual(parseSessionState(encodeSessionState(more), 'f'), state)
})

test('a torn, flipped or foreign state file is named damaged; one of a newer version is told apart', () => {
  const bytes = encodeSessionState(state)
  const isDamaged = (error: unknown) => isLifeboatError(error, 'session-damaged') && error.details.object === 'f'
  for (let length = 0; length < bytes.length; length++)
    assert.throws(() => parseSessionState(bytes.subarray(0, length), 'f'), isDamaged, `torn at ${length}`)
  fc.assert(
    fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const copy = Uint8Array.from(bytes)
      copy[at] = copy[at]! ^ flip
      try {
        parseSessionState(copy, 'f')
      } catch (error) {
        // A flip may turn "version":1 into 2 to 9.
        return isDamaged(error) || isLifeboatError(error, 'session-newer')
      }
      return false
    }),
  )
  const newer = Buffer.from(bytes).toString().replace('"version":1', '"version":2')
  assert.throws(() => parseSessionState(Buffer.from(newer), 'f'), { code: 'session-newer' })
  const { repository: _, ...rest } = state
  assert.throws(() => parseSessionState(encodeSessionState(JSON.parse(JSON.stringify(rest))), 'f'), isDamaged)
  for (const text of ['', '[]', 'null', '{}', '{"version":1}'])
    assert.throws(() => parseSessionState(Buffer.from(text), 'f'), isDamaged)
})

test('a session has one owner; a name is taken once; a dead owner is succeeded', async () => {
  const at = place()
  const session = await createSession(at, 'one')
  await session.save({ ...state, name: 'one' })
  await assert.rejects(createSession(at, 'one'), { code: 'session-exists' })
  await assert.rejects(openSession(at, 'one'), { code: 'session-busy' })
  await assert.rejects(
    discardSession(at, 'one', async () => {}),
    { code: 'session-busy' },
  )
  assert.equal((await showSession(at.stateDir, 'one')).state, 'running')
  await session[Symbol.asyncDispose]()
  assert.equal((await showSession(at.stateDir, 'one')).state, 'crashed')
  const again = await openSession(at, 'one')
  assert.equal(again.state()?.point.id, state.point.id)
  await again[Symbol.asyncDispose]()
  await assert.rejects(openSession(at, 'two'), { code: 'no-such-session' })

  const file = JSON.stringify(new URL('../../../src/recovery/session.ts', import.meta.url).href)
  const clock = JSON.stringify(new URL('../../../src/core/clock.ts', import.meta.url).href)
  const random = JSON.stringify(new URL('../../../src/core/random.ts', import.meta.url).href)
  const child = spawn(process.execPath, [
    '--input-type=module',
    '-e',
    `import { openSession } from ${file}; import { systemClock } from ${clock}; import { systemRandom } from ${random}
     await openSession({ ...${JSON.stringify({ stateDir: at.stateDir, runDir: at.runDir })}, clock: systemClock, random: systemRandom }, 'one')
     console.log('mine'); setTimeout(() => {}, 60_000)`,
  ])
  await Promise.race([once(child.stdout, 'data'), once(child, 'close')])
  await assert.rejects(openSession(at, 'one'), { code: 'session-busy' })
  child.kill('SIGKILL')
  await once(child, 'close')
  await (await openSession(at, 'one'))[Symbol.asyncDispose]()
})

test('names that leave the folder or surprise a shell are refused; invented ones are not', async () => {
  for (const name of ['', '.', '..', '../x', 'a/b', '-rf', 'a b', 'a\0b', 'ü', 'x'.repeat(65)])
    await assert.rejects(createSession(place(), name), { code: 'usage' }, name)
  for (const vm of ['web1', '../../etc', 'ü', 'a b', '', '-x', 'y'.repeat(300)])
    await (await createSession(place(), inventSessionName(vm, systemRandom)))[Symbol.asyncDispose]()
})

test('sessions are listed with what is wrong with them, and discarding removes pin, then folder', async () => {
  const at = place()
  for (const name of ['live', 'stopped', 'broken', 'new']) {
    const session = await createSession(at, name)
    if (name !== 'new') await session.save({ ...state, name, state: name === 'live' ? 'running' : 'stopped' })
    if (name !== 'live') await session[Symbol.asyncDispose]()
  }
  await writeFile(path.join(at.stateDir, 'sessions/broken/session.json'), 'xx')
  await mkdir(path.join(at.stateDir, 'sessions/.hidden'))
  assert.deepEqual(
    (await listSessions(at.stateDir)).map(({ name, state: found }) => [name, found]),
    [
      ['broken', 'damaged'],
      ['live', 'running'],
      ['new', 'unfinished'],
      ['stopped', 'stopped'],
    ],
  )
  const dropped: (string | undefined)[] = []
  const dropPin = async ({ point }: SessionState) => void dropped.push(point.pin)
  await assert.rejects(
    discardSession(at, 'stopped', () => Promise.reject(new Error('store is down'))),
    /store is down/,
  )
  assert.equal((await readSession(at.stateDir, 'stopped')).name, 'stopped', 'without the pin gone, the session stays')
  await discardSession(at, 'stopped', dropPin)
  await discardSession(at, 'broken', dropPin)
  await assert.rejects(discardSession(at, 'stopped', dropPin), { code: 'no-such-session' })
  assert.deepEqual(dropped, ['feedfeedfeedfeed'])
  assert.deepEqual((await readdir(path.join(at.stateDir, 'sessions'))).sort(), ['.hidden', 'live', 'new'])
  assert.deepEqual(await listSessions(path.join(folder, 'nowhere')), [])
})

test('the state file is replaced whole and private, and a left-over draft does no harm', async () => {
  const at = place()
  await using session = await createSession(at, 'whole')
  await session.save(state)
  const file = path.join(session.folder, 'session.json')
  assert.equal((await stat(file)).mode & 0o777, 0o600)
  assert.equal((await stat(session.folder)).mode & 0o777, 0o700)
  await writeFile(`${file}.new`, 'half')
  await session.save({ ...state, state: 'stopped' })
  assert.equal((await readSession(at.stateDir, 'whole')).state, 'stopped')
  assert.match(await readFile(file, 'utf8'), /"sha256":"[0-9a-f]{64}"}\n$/)
})

test('sockets move to a short folder when the session has a long path, and go with the session', async () => {
  const short = place()
  await using near = await createSession(short, 'near')
  assert.equal(near.socketPath('qmp'), path.join(near.folder, 'qmp.sock'))
  const long = { ...place(), stateDir: path.join(folder, 'x'.repeat(90)) }
  const far = await createSession(long, 'far')
  assert.ok(far.socketPath('control').length <= 107)
  assert.ok(far.runDir)
  await far.save({ ...state, runDir: far.runDir })
  await far[Symbol.asyncDispose]()
  const resumed = await openSession(long, 'far')
  assert.equal(resumed.runDir, far.runDir)
  await resumed[Symbol.asyncDispose]()
  await discardSession(long, 'far', async () => {})
  await assert.rejects(stat(far.runDir!), { code: 'ENOENT' })
  for (const _ of ['first', 'again, the name being free'])
    await assert.rejects(createSession({ ...long, runDir: path.join(folder, 'y'.repeat(90)) }, 'no'), { code: 'usage' })
})
