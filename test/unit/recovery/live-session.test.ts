/** A live session and what is asked of it over its control socket. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { ChunkCache } from '../../../src/cache/chunk-cache.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { LifeboatError } from '../../../src/core/errors.ts'
import { systemRandom } from '../../../src/core/random.ts'
import { connectNbd } from '../../../src/nbd/client.ts'
import { askSession } from '../../../src/recovery/control-client.ts'
import { type ExportSessionRequest, exportSession } from '../../../src/recovery/export-session.ts'
import type { LiveSession } from '../../../src/recovery/live-session.ts'
import { controlSocketOf, readSession } from '../../../src/recovery/session.ts'
import { type SessionCommands, sessionCommands } from '../../../src/recovery/session-commands.ts'
import { openStoppedSession } from '../../../src/recovery/stopped-session.ts'
import { testExporter } from '../../doubles/nbd-exporter.ts'
import { keysOf, noise, repositoryFixture } from '../../doubles/repository-fixture.ts'

const folder = await mkdtemp(path.join(tmpdir(), 'lb-live-'))
after(() => rm(folder, { recursive: true, force: true }))
const clock = systemClock
const place = { stateDir: path.join(folder, 's'), runDir: path.join(folder, 'r'), clock, random: systemRandom }
const fixture = await repositoryFixture()
const SIZE = 16 * 4096
const old = noise('old', SIZE)
const fresh = noise('new', SIZE)
const disk = (bytes: Uint8Array) => [{ name: 'vda', size: SIZE, writes: [[0, bytes] as const] }]
const older = await fixture.writePoint({ disks: disk(old) })
const newer = await fixture.writePoint({ disks: disk(fresh) })
const other = await fixture.writePoint({ disks: [{ name: 'vda', size: 4096, writes: [] }] })
const noOverlays: ExportSessionRequest['openOverlays'] = () => Promise.reject(new Error('read-only'))
const request = (session: string, more: Partial<ExportSessionRequest> = {}): ExportSessionRequest => ({
  ...place,
  repository: fixture.repository,
  point: older,
  session,
  openOverlays: noOverlays,
  exporter: testExporter,
  cache: new ChunkCache({ maxBytes: 1e6 }),
  ...more,
})
const socketOf = (name: string) => controlSocketOf(place.stateDir, name, undefined)
const ask = (name: string, command: string, more: object = {}) =>
  askSession({ socket: socketOf(name), command, clock, ...more })
const pins = () => keysOf(fixture.store, 'pins/')

async function readAll(socket: string): Promise<Buffer> {
  await using client = await connectNbd({ socket, exportName: 'vda', clock })
  const bytes = Buffer.alloc(SIZE)
  await client.readInto(bytes, 0)
  return bytes
}

/** Goes on until it is let, or given up. */
function waiting() {
  const begun = Promise.withResolvers<void>()
  const ended = Promise.withResolvers<unknown>()
  const commands: SessionCommands = {
    ...sessionCommands,
    wait: {
      isExclusive: true,
      async run(_session, _request, { signal, progress }) {
        for (let done = 1; done <= 3; done++) progress({ done, total: 3 })
        begun.resolve()
        await new Promise((_, reject) =>
          signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
        ).catch(error => {
          ended.resolve(error)
          throw error
        })
        return {}
      },
    },
  }
  return { commands, begun: begun.promise, ended: ended.promise }
}

test('a live session tells its figures, and nothing but its owner can reach it', async () => {
  await using running = await exportSession(request('figures'))
  assert.equal((await stat(socketOf('figures'))).mode & 0o777, 0o600)
  const state = await readSession(place.stateDir, 'figures')
  assert.deepEqual(await readAll(state.sockets.nbd ?? ''), Buffer.from(old))
  const shown = await ask('figures', 'show')
  assert.equal(shown.state, 'running')
  assert.deepEqual(shown.figures, running.figures())
  assert.equal(running.figures().bytesRead, SIZE)
  await running.stop()
  assert.equal((await readSession(place.stateDir, 'figures')).figures.bytesRead, SIZE)
  assert.ok(!existsSync(socketOf('figures')))
  await assert.rejects(ask('figures', 'show'), { code: 'session-busy' })
})

test('what is no request is refused, in bounded memory, and harms nobody', async () => {
  await using _running = await exportSession(request('refusals'))
  await assert.rejects(ask('refusals', 'dance'), { code: 'usage' })
  await assert.rejects(ask('refusals', '__proto__'), { code: 'usage' })
  const say = async (bytes: string | Buffer) => {
    const socket = connect(socketOf('refusals'))
    let answer = ''
    socket.on('data', data => {
      answer += data
    })
    socket.on('error', () => {})
    socket.write(bytes)
    await new Promise(resolve => socket.once('close', resolve))
    return answer
  }
  assert.match(await say('nonsense\n'), /"error":{"code":"usage"/)
  assert.match(await say('{"version":2,"command":"show"}\n'), /"session-newer"/)
  assert.match(await say(Buffer.alloc(200_000, 'x')), /at most 64 KiB/)
  assert.match(await say('{"version":1,"command":"show","request":7}\nmore\n'), /"result"/)
  const idle = Array.from({ length: 16 }, () => connect(socketOf('refusals')))
  await Promise.all(idle.map(socket => once(socket, 'connect')))
  await assert.rejects(ask('refusals', 'show'), { code: 'session-busy' })
  for (const socket of idle) socket.destroy()
  await Promise.all(idle.map(socket => once(socket, 'close')))
  assert.equal((await ask('refusals', 'show')).state, 'running')
})

test('one command at a time changes a session; it reports, and is given up with the one who asked or with the server', async () => {
  for (const by of ['client', 'server'] as const) {
    const { commands, begun, ended } = waiting()
    await using running = await exportSession(request(`wait-${by}`, { commands }))
    const gone = new AbortController()
    const seen: unknown[] = []
    const asked = ask(`wait-${by}`, 'wait', { signal: gone.signal, progress: (step: unknown) => seen.push(step) })
    const outcome = asked.catch(error => error)
    await begun
    await assert.rejects(ask(`wait-${by}`, 'discard'), { code: 'session-busy' })
    assert.equal((await ask(`wait-${by}`, 'show')).state, 'running', 'questions are answered meanwhile')
    if (by === 'client') gone.abort(new LifeboatError('interrupted', 'Ctrl-C'))
    else await running.stop()
    assert.deepEqual((await outcome).code, 'interrupted')
    await ended
    assert.deepEqual(
      seen,
      [1, 2, 3].map(done => ({ done, total: 3 })),
    )
  }
})

test('a live session is discarded: clients, pin and folder are gone when the answer comes', async () => {
  const before = pins()
  await using running = await exportSession(request('discarded'))
  assert.equal(pins().length, before.length + 1)
  const state = await readSession(place.stateDir, 'discarded')
  await using client = await connectNbd({ socket: state.sockets.nbd ?? '', exportName: 'vda', clock })
  await client.readInto(Buffer.alloc(512), 0)
  assert.deepEqual(await ask('discarded', 'discard'), { discarded: 'discarded' })
  assert.deepEqual(pins(), before)
  assert.ok(!existsSync(path.join(place.stateDir, 'sessions/discarded')))
  await running.ended
  await assert.rejects(client.readInto(Buffer.alloc(512), 0))
  await running.stop()
})

test('a session goes on against another point of the same disks: its pin follows, readers see the new one, and it survives', async () => {
  const before = pins()
  const socket = path.join(folder, 'repin.nbd')
  {
    await using running = await exportSession(request('repin', { listen: { socket } }))
    const { live } = running
    await using reader = await connectNbd({ socket, exportName: 'vda', clock })
    const bytes = Buffer.alloc(SIZE)
    await reader.readInto(bytes, 0)
    await assert.rejects(live.repin(other), { code: 'usage' })
    await assert.rejects(live.repin({ ...newer, id: other.id, key: 'points/web/none' }))
    assert.equal(live.point().id, older.id)
    assert.equal(live.state().otherPins, undefined)
    assert.equal(pins().length, before.length + 1, 'what failed leaves one pin')

    await live.repin(newer, state => ({ ...state, reserve: 7 }))
    await reader.readInto(bytes, 0)
    assert.deepEqual(bytes, Buffer.from(fresh), 'through the connection that was there before')
    assert.equal(live.figures().bytesRead, 2 * SIZE, 'figures go on')
    const state = await readSession(place.stateDir, 'repin')
    assert.deepEqual([state.point.id, state.reserve, state.otherPins], [newer.id, 7, undefined])
    assert.deepEqual(
      pins().filter(pin => !before.includes(pin)),
      [`pins/${state.point.pin}`],
    )
  }
  await assert.rejects(exportSession(request('repin', { resume: true })), { code: 'usage' })
  await using again = await exportSession(request('repin', { resume: true, point: newer }))
  assert.deepEqual(await readAll(socket), Buffer.from(fresh), 'at the place where it was')
  await again.live.end('discarded')
  assert.deepEqual(pins(), before)
})

test('reads that are under way when the point changes end with what they began with', async () => {
  await using running = await exportSession(request('racing'))
  const base = running.live.disks[0]!.base
  const reads = Array.from({ length: 50 }, async () => {
    const bytes = Buffer.alloc(SIZE)
    await base.readInto(bytes, 0)
    return bytes.equals(old) || bytes.equals(fresh)
  })
  for (const point of [newer, older, newer]) await running.live.repin(point)
  assert.ok((await Promise.all(reads)).every(Boolean))
  await running.live.end('discarded')
})

test('a stopped session is in the hands of one command, as a live one is', async () => {
  await (await exportSession(request('taken')))[Symbol.asyncDispose]()
  const taken = { ...request('taken'), session: 'taken' }
  const live: LiveSession = await openStoppedSession(taken)
  assert.equal(live.isServing, false)
  await assert.rejects(openStoppedSession(taken), { code: 'session-busy' })
  await assert.rejects(exportSession(request('taken', { resume: true })), { code: 'session-busy' })
  const bytes = Buffer.alloc(SIZE)
  await live.disks[0]!.base.readInto(bytes, 0)
  assert.deepEqual(bytes, Buffer.from(old))
  await live.update(state => ({ ...state, reserve: 1 }))
  await Promise.all([live.end('stopped'), live.end('discarded')])
  const state = await readSession(place.stateDir, 'taken')
  assert.deepEqual([state.state, state.reserve], ['stopped', 1])
  await (await openStoppedSession(taken)).end('migrated')
  const migrated = await readSession(place.stateDir, 'taken')
  assert.deepEqual([migrated.state, migrated.point.pin], ['migrated', undefined])
  await assert.rejects(openStoppedSession(taken), { code: 'usage' })
})

test('an export that cannot listen leaves nothing behind', async () => {
  const before = pins()
  const listen = { socket: path.join(folder, 'nowhere/nbd.sock') }
  await assert.rejects(exportSession(request('deaf', { listen })), { code: 'nbd-refused' })
  assert.deepEqual(pins(), before)
  assert.ok(!existsSync(path.join(place.stateDir, 'sessions/deaf')))
  await using tcp = await exportSession(request('tcp', { listen: { host: '127.0.0.1', port: 0 } }))
  const { serve } = await readSession(place.stateDir, 'tcp')
  assert.ok(serve && 'port' in serve.listen && serve.listen.port > 0, 'the port that the system chose is kept')
  assert.ok(tcp.uris[0]?.includes(`:${serve.listen.port}/`))
})
