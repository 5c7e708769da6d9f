import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { memoryDevice } from '../../../src/block/memory.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { isLifeboatError } from '../../../src/core/errors.ts'
import * as C from '../../../src/nbd/constants.ts'
import { serveNbd } from '../../../src/nbd/server.ts'
import { RawNbdClient } from '../../doubles/raw-nbd-client.ts'

const folder = await mkdtemp(join(tmpdir(), 'lifeboat-listen-'))
after(() => rm(folder, { recursive: true, force: true }))

const exports = [{ name: 'disk', device: memoryDevice(Buffer.alloc(4096, 5)), readOnly: true }]
const serve = (socket: string) => serveNbd({ exports, listen: { socket }, clock: systemClock })

async function answers(socket: string): Promise<boolean> {
  await using client = await RawNbdClient.go(socket, 'disk')
  client.request(C.NBD_CMD_READ, 0, 1)
  return (await client.reply(1)).payload[0] === 5
}

/** Looks without pause and says what it saw that others could connect to: a socket that they may write to, in folders that they may enter. */
const WATCHER = `
  const { lstatSync, readdirSync } = require('node:fs')
  const { join } = require('node:path')
  let looks = 0
  const stat = path => { try { return lstatSync(path) } catch {} }
  const walk = folder => {
    let names = []
    try { names = readdirSync(folder) } catch {}
    for (const name of names) {
      const path = join(folder, name), there = stat(path)
      looks++
      if (there === undefined || (there.mode & 0o077) === 0) continue
      if (there.isSocket()) console.log('open to others: ' + path + ' ' + (there.mode & 0o777).toString(8))
      else if (there.isDirectory()) walk(path)
    }
  }
  const until = Date.now() + 60000
  process.stdin.on('data', () => { console.log('looked ' + looks); process.exit() })
  const look = () => { for (let i = 0; i < 50; i++) walk(process.argv[1]); if (Date.now() < until) setImmediate(look) }
  console.log('ready'); look()`

test('at no moment can another user connect to a socket file, whatever the umask', async t => {
  const place = join(folder, 'watched')
  await mkdir(place)
  const watcher = spawn(process.execPath, ['-e', WATCHER, place], { stdio: ['pipe', 'pipe', 'inherit'] })
  let said = ''
  watcher.stdout.on('data', text => {
    said += text
  })
  while (!said.includes('ready')) await new Promise(resolve => setTimeout(resolve, 5))
  const seen = async () => {
    while (!/open to others: .*naive\.sock/.test(said)) await new Promise(resolve => setTimeout(resolve, 5))
  }
  const umask = process.umask(0)
  try {
    // One that does it wrong shows that the watcher sees.
    await new Promise<void>(resolve => {
      const naive = createServer().listen(join(place, 'naive.sock'), () =>
        seen().then(() => naive.close(() => resolve())),
      )
    })
    for (let i = 0; i < 100; i++) {
      const server = await serve(join(place, `${i}.sock`))
      assert.equal((await stat(join(place, `${i}.sock`))).mode & 0o777, 0o600)
      await server.stop()
    }
  } finally {
    process.umask(umask)
    watcher.stdin.write('end')
  }
  await new Promise(resolve => watcher.once('close', resolve))
  t.diagnostic(said.split('\n').slice(-2).join(''))
  assert.deepEqual(
    said.split('\n').filter(line => line.startsWith('open') && !line.includes('naive')),
    [],
  )
  assert.deepEqual(await readdir(place), [], 'nothing is left behind')
})

test('of several servers that start at once on one stale socket, one has it and the others are told', async () => {
  for (let round = 0; round < 10; round++) {
    const socket = join(folder, `race-${round}.sock`)
    const killed = `require('net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))`
    if (round % 2 === 0) spawnSync(process.execPath, ['-e', killed, socket])
    const outcomes = await Promise.allSettled(Array.from({ length: 6 }, () => serve(socket)))
    const running = outcomes.flatMap(outcome => (outcome.status === 'fulfilled' ? [outcome.value] : []))
    await using stack = new AsyncDisposableStack()
    for (const server of running) stack.use(server)
    assert.equal(running.length, 1, `round ${round}`)
    for (const outcome of outcomes)
      if (outcome.status === 'rejected')
        assert.ok(isLifeboatError(outcome.reason, 'nbd-refused'), String(outcome.reason))
    assert.ok(await answers(socket))
  }
  assert.deepEqual(
    (await readdir(folder)).filter(name => name !== 'watched'),
    [],
  )
})

test('a server that stops while its successor starts takes nothing away from it', async () => {
  const socket = join(folder, 'successor.sock')
  let first = await serve(socket)
  for (let round = 0; round < 30; round++) {
    const stopping = first.stop()
    let next: typeof first | undefined
    while (next === undefined) next = await serve(socket).catch(() => undefined)
    await stopping
    assert.ok(await answers(socket), `round ${round}`)
    first = next
  }
  await first.stop()
  await assert.rejects(stat(socket))
})

test('a long path of a socket is served as long as clients can name it', async () => {
  const socket = join(folder, 'x'.repeat(107 - folder.length - 1))
  assert.equal(Buffer.byteLength(socket), 107)
  const server = await serve(socket)
  assert.ok(await answers(socket))
  await server.stop()
})

test('what cannot be listened at is told with what to do about it', async () => {
  await using taken = await serveNbd({ exports, listen: { host: '127.0.0.1', port: 0 }, clock: systemClock })
  assert.ok('port' in taken.address)
  const { port } = taken.address
  for (const [listen, message, hint] of [
    [{ host: '127.0.0.1', port }, /127.0.0.1:\d+: EADDRINUSE/, /another port/],
    [{ host: '203.0.113.9', port: 0 }, /EADDRNOTAVAIL/, /address of this host/],
    [{ socket: join(folder, 'nowhere', 's') }, /nowhere\/s: ENOENT/, /does not exist/],
    [{ descriptor: 1000 }, /descriptor 1000: E\w+/, /\.socket unit/],
  ] as const)
    await assert.rejects(serveNbd({ exports, listen, clock: systemClock }), (error: unknown) => {
      assert.ok(isLifeboatError(error, 'nbd-refused'), String(error))
      assert.match(error.message, message)
      assert.match(String(error.details.hint), hint)
      return true
    })
})
