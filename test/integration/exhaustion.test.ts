/**
 * A server that runs out of descriptors or of heap, as a real process: who is served goes on, others are told or wait, the log
 * says what to do, nothing is lost, and all is well when there is enough again.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, truncate, writeFile } from 'node:fs/promises'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { systemClock } from '../../src/core/clock.ts'
import { GiB, KiB, MiB } from '../../src/core/limits.ts'
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts'
import * as C from '../../src/nbd/constants.ts'
import { encodeGo } from '../../src/nbd/option-codec.ts'
import { type SmallRepository, smallRepository } from '../doubles/bad-input.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { lacking } from '../doubles/peer-tools.ts'
import { errorOf, RawNbdClient } from '../doubles/raw-nbd-client.ts'

const run = promisify(execFile)
const program = fileURLToPath(new URL('../../bin/lifeboat.mjs', import.meta.url))
const small: SmallRepository = await smallRepository()
after(() => small[Symbol.asyncDispose]())
const at = (name: string) => small.cli.at(name)
const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

/** The kernel gives the lowest number that is free: from here on there is none. */
async function exhaust({ pid }: Server): Promise<void> {
  const numbers = new Set(await readdir(`/proc/${pid}/fd`))
  let most = 0
  while (numbers.has(`${most}`)) most++
  await run('prlimit', ['--pid', `${pid}`, `--nofile=${most}:256`])
}

interface Server extends AsyncDisposable {
  readonly pid: number
  stderr(): string
  /** Resolves when the log has it; fails when the process has ended without. */
  says(what: RegExp): Promise<void>
  descriptors(): Promise<number>
  end(signal?: NodeJS.Signals): Promise<{ readonly code: number | null; readonly signal: string | null }>
}

/** `shell` is said before the program takes the shell's place: ulimit, or a variable. */
async function serving(words: readonly string[], shell: string): Promise<Server> {
  const argv = ['-c', `${shell}; exec "$@"`, 'sh', process.execPath, program, ...words]
  const env = { ...process.env, NODE_TEST_CONTEXT: undefined, ...small.cli.environment }
  const child: ChildProcess = spawn('sh', argv, { stdio: ['ignore', 'pipe', 'pipe'], env })
  let stderr = ''
  child.stderr?.setEncoding('utf8').on('data', text => {
    stderr += text
  })
  const ended = once(child, 'exit').then(([code, signal]) => ({ code, signal }))
  const server: Server = {
    pid: child.pid ?? 0,
    stderr: () => stderr,
    async says(what) {
      for (let tries = 0; !what.test(stderr); tries++) {
        assert.equal(child.exitCode ?? child.signalCode, null, stderr)
        assert.ok(tries < 1500, `${what} was never said: ${stderr}`)
        await pause(20)
      }
    },
    descriptors: async () => (await readdir(`/proc/${child.pid}/fd`)).length,
    async end(signal = 'SIGTERM') {
      child.kill(signal)
      return await ended
    },
    [Symbol.asyncDispose]: async () => void (await server.end('SIGKILL')),
  }
  const serves = once(child.stdout!, 'data').then(() => undefined)
  const how = await Promise.race([serves, ended])
  assert.equal(how, undefined, `it ended before it served: ${JSON.stringify(how)} ${stderr}`)
  return server
}

const connect = (socket: string, exportName: string): Promise<NbdClient> =>
  connectNbd({ socket, exportName, clock: systemClock })

async function readBack(client: NbdClient, offset: number, length: number): Promise<Uint8Array> {
  const target = new Uint8Array(length)
  await client.readInto(target, offset)
  return target
}

const same = (actual: Uint8Array, expected: Uint8Array, what: string) =>
  assert.equal(Buffer.compare(actual, expected), 0, what)

test('R15: more clients than descriptors: the good ones are served, the others are refused in words', {
  timeout: 120_000,
}, async t => {
  const DESCRIPTORS = 64
  const SILENT = 150
  const ASKING = 20
  const [file, socket] = [at('flooded.raw'), at('flooded')]
  const before = patternBytes(MiB, 3)
  await writeFile(file, before)
  const words = ['export', '--file', file, '--writable', '--overlay', '--socket', socket]
  const model = Buffer.from(before)
  {
    await using server = await serving(words, `ulimit -n ${DESCRIPTORS}`)
    await using clients = new AsyncDisposableStack()
    const good = await Promise.all(Array.from({ length: 4 }, async () => clients.use(await connect(socket, 'file'))))
    let [greeted, served, refused, mostOpen, checked] = [0, 0, 0, 0, 0]
    // First those that say nothing, all at once; they give way to those that ask one after the other, and stay.
    const silent = await Promise.all(Array.from({ length: SILENT }, () => RawNbdClient.connect(socket)))
    for (const client of silent)
      void clients
        .use(client)
        .read(18)
        .then(
          () => greeted++,
          () => {},
        )
    const asking = (async () => {
      for (let n = 0; n < ASKING; n++) {
        const type = await asksToBeServed(clients.use(await RawNbdClient.open(socket)))
        if (type === C.NBD_REP_ACK) served++
        if (type === C.NBD_REP_ERR_POLICY) refused++
      }
      return 'asked' as const
    })()
    for (let n = 0; (await Promise.race([asking, undefined])) === undefined || n < 40; n++) {
      const client = good[n % good.length]!
      const [offset, bytes] = [(n % 200) * 4 * KiB, patternBytes(4 * KiB, n)]
      await client.write(bytes, offset, { fua: n % 7 === 0 })
      model.set(bytes, offset)
      same(await readBack(client, offset, bytes.length), bytes, 'what was written is read')
      mostOpen = Math.max(mostOpen, await server.descriptors())
      checked++
    }
    await server.says(/at most \d+ clients: this process may have 64 files open; raise that \(ulimit -n/)
    await server.says(/too many are choosing an export/)
    // Of each second ten lines are told: this one is not lost among those of the flood.
    await pause(1100)
    const late = clients.use(await RawNbdClient.open(socket))
    assert.equal(await asksToBeServed(late), C.NBD_REP_ERR_POLICY)
    await server.says(/too many connections: refused one more to "file"/)
    t.diagnostic(
      `injected: ${SILENT} silent and ${ASKING} asking clients on ${DESCRIPTORS} descriptors; observed: ${greeted} greeted, ${served} served, ${refused} refused in words, at most ${mostOpen} descriptors open, ${checked} writes of served clients checked meanwhile`,
    )
    assert.equal(served + refused, ASKING, 'whoever asks is answered')
    assert.ok(refused > 0, 'there were more than there was room for')
    assert.ok(mostOpen < DESCRIPTORS, 'clients never have the last descriptor')
    await clients.disposeAsync()
    const last = await connectWhenThereIsRoom(socket)
    same(await readBack(last, 0, MiB), model, 'a client that comes afterwards')
    await last.flush()
    await last[Symbol.asyncDispose]()
    await server.end('SIGKILL')
  }
  await using _again = await serving(words, 'true')
  await using client = await connect(socket, 'file')
  same(await readBack(client, 0, MiB), model, 'after a kill')
})

const asksToBeServed = async (client: RawNbdClient): Promise<number | undefined> =>
  (await client.option(C.NBD_OPT_GO, encodeGo('file', []))).at(-1)?.type

/** Silent clients are still there until the deadline of the handshake, and give way to others. */
async function connectWhenThereIsRoom(socket: string): Promise<NbdClient> {
  for (;;) {
    const client = await connect(socket, 'file').catch(() => undefined)
    if (client) return client
    await pause(50)
  }
}

test('R15: no descriptor is left while it serves: open files go on, reads that need one wait, all comes back', {
  skip: lacking('prlimit'),
  timeout: 120_000,
}, async t => {
  const socket = at('starved')
  const words = `${small.at} export web1@latest --session starved --writable --socket ${socket}`.split(' ')
  const model = Buffer.from(small.contents[1])
  const put = async (client: NbdClient, offset: number, seed: number) => {
    const bytes = patternBytes(8 * KiB, seed)
    await client.write(bytes, offset, { fua: true })
    model.set(bytes, offset)
    same(await readBack(client, offset, bytes.length), bytes, 'what was written is read')
  }
  {
    await using server = await serving(words, 'ulimit -n 256')
    await using client = await connect(socket, 'vda')
    await put(client, 0, 1)
    await exhaust(server)
    await server.says(/no file can be opened \(EMFILE\).*raise the limit of open files \(ulimit -n/)
    let isRead = false
    // Neighbours come along with a read, so that one far away has not been fetched.
    const far = readBack(client, 512 * KiB, 64 * KiB).finally(() => {
      isRead = true
    })
    far.catch(() => {})
    for (let n = 0; n < 20; n++) await put(client, n * 16 * KiB, 2 + n)
    // The kernel takes it, and libuv turns it away; where even that takes a descriptor it waits.
    await using late = await RawNbdClient.connect(socket)
    const fate = await Promise.race([late.closed.then(() => 'closed'), pause(500).then(() => 'kept waiting')])
    assert.equal(late.unread, 0, 'nobody greets a new client')
    assert.equal(isRead, false, 'a read that needs a file waits')
    await run('prlimit', ['--pid', `${server.pid}`, '--nofile=256:256'])
    await server.says(/files can be opened again/)
    same(await far, model.subarray(512 * KiB, 576 * KiB), 'the read that waited')
    await using next = await connect(socket, 'vda')
    same(await readBack(next, 0, model.length), model, 'a client that comes afterwards')
    t.diagnostic(
      `injected: the limit of open files was lowered to what is open; observed: 20 durable writes, a new client ${fate}, a read that waited 20 writes long and gave the right bytes afterwards, a new client served`,
    )
    await exhaust(server)
    await put(client, 900 * KiB, 99)
    const { code, signal } = await server.end('SIGTERM')
    t.diagnostic(
      `injected: the same, then SIGTERM; observed: ended with ${code ?? signal}: ${server.stderr().trim().split('\n').at(-1)}`,
    )
    assert.equal(signal, null, server.stderr())
  }
  await using _again = await serving(`${small.at} session resume starved`.split(' '), 'true')
  await using client = await connect(socket, 'vda')
  same(await readBack(client, 0, model.length), model, 'after an end without descriptors')
})

test('R15: a heap of 32 MiB carries half-open clients, status lists of a whole disk and reads that nobody takes', {
  timeout: 120_000,
}, async t => {
  const [file, socket] = [at('heap.raw'), at('heap')]
  const content = patternBytes(MiB, 5)
  await writeFile(file, content)
  await truncate(file, 4 * GiB)
  const words = ['export', '--file', file, '--socket', socket]
  const heap = (MiBs: number) => `export NODE_OPTIONS=--max-old-space-size=${MiBs}`
  // That the limit is one: with less than the program itself takes, V8 ends the process.
  await assert.rejects(serving(words, heap(6)), /ended before it served: .*"signal":"SIG/)
  await using server = await serving(words, heap(32))
  await using clients = new AsyncDisposableStack()
  const good = clients.use(await connect(socket, 'file'))
  for (let n = 0; n < 100; n++) clients.use(await RawNbdClient.open(socket))
  const greedy = await Promise.all(
    Array.from({ length: 8 }, async () => clients.use(await RawNbdClient.go(socket, 'file', 'structured'))),
  )
  for (const client of greedy) {
    client.socket.pause()
    for (let n = 0; n < 500; n++) client.request(C.NBD_CMD_READ, n * MiB, MiB, 0, n)
  }
  await using asking = await RawNbdClient.go(socket, 'file', 'structured', ['base:allocation'])
  for (let n = 0; n < 10; n++) {
    asking.request(C.NBD_CMD_BLOCK_STATUS, 0, 2 ** 32 - 4 * KiB)
    assert.ok((await asking.chunks()).every(chunk => errorOf(chunk) === 0))
    same(await readBack(good, 0, MiB), content, 'what a good client reads')
  }
  t.diagnostic(
    `injected: 6 MiB of heap, and 32 MiB under 100 half-open clients and 8 that take none of ${greedy.length * 500} MiB; observed: the first ended, the second served 10 status lists and 10 MiB of right bytes`,
  )
  for (const client of greedy) client.socket.destroy()
  same(await readBack(good, 0, MiB), content, 'when the greedy have gone')
  assert.deepEqual(await server.end(), { code: 0, signal: null })
})
