/** The bounds of `lifeboat export`, through the command line: each takes effect, wrong ones are told, a session keeps them. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { rm, writeFile } from 'node:fs/promises'
import { after, test } from 'node:test'
import { LifeboatError } from '../../src/core/errors.ts'
import { MiB } from '../../src/core/limits.ts'
import * as C from '../../src/nbd/constants.ts'
import { encodeGo } from '../../src/nbd/option-codec.ts'
import { readSession } from '../../src/recovery/session.ts'
import { done, smallRepository } from '../doubles/bad-input.ts'
import { type Answer, commandLine } from '../doubles/command-line.ts'
import { RawNbdClient } from '../doubles/raw-nbd-client.ts'

const cli = commandLine()
after(() => cli[Symbol.asyncDispose]())
await writeFile(cli.at('disk.raw'), Buffer.alloc(16 * MiB, 7))
const FILE = ['export', '--file', cli.at('disk.raw'), '--socket', cli.at('nbd')]

interface Serving extends AsyncDisposable {
  /** What it said, when it has ended. */
  readonly end: () => Promise<Answer>
}

async function serving(words: readonly string[], { run } = cli, socket = cli.at('nbd')): Promise<Serving> {
  await rm(socket, { force: true })
  const stop = new AbortController()
  const ended = run(words, stop)
  const failed = ended.then(({ stderr }) => assert.fail(stderr))
  failed.catch(() => {})
  while (!existsSync(socket)) await Promise.race([new Promise(resolve => setTimeout(resolve, 5)), failed])
  const end = async () => {
    stop.abort(new LifeboatError('interrupted', 'stopped'))
    const answer = await ended
    assert.equal(answer.code, 0, answer.stderr)
    return answer
  }
  return { end, [Symbol.asyncDispose]: async () => void (await end()) }
}

const choose = async (client: RawNbdClient, name = 'file') =>
  (await client.option(C.NBD_OPT_GO, encodeGo(name, []))).at(-1)

test('--max-connections: one more is refused in words, and let in when another has gone', async () => {
  await using _server = await serving([...FILE, '--max-connections', '2'])
  const first = await RawNbdClient.go(cli.at('nbd'), 'file')
  await using _second = await RawNbdClient.go(cli.at('nbd'), 'file')
  await using third = await RawNbdClient.open(cli.at('nbd'))
  assert.equal((await choose(third))?.type, C.NBD_REP_ERR_POLICY)
  await first[Symbol.asyncDispose]()
  for (let reply = await choose(third); reply?.type !== C.NBD_REP_ACK; reply = await choose(third))
    await new Promise(resolve => setTimeout(resolve, 10))
})

// The default is ten seconds: by then this test has failed.
test('--handshake-timeout: who chooses nothing is dropped, and the log says why', { timeout: 9_000 }, async () => {
  const server = await serving([...FILE, '--handshake-timeout', '1s'])
  await using served = await RawNbdClient.go(cli.at('nbd'), 'file')
  await using silent = await RawNbdClient.open(cli.at('nbd'))
  await silent.closed
  served.request(C.NBD_CMD_READ, 0, 512)
  assert.equal((await served.reply(512)).error, 0)
  assert.match((await server.end()).stderr, /connection dropped: handshake deadline/)
})

test('--idle-timeout: who asks for nothing is dropped, who asks now and then is not', async () => {
  const server = await serving([...FILE, '--idle-timeout', '1s'])
  await using busy = await RawNbdClient.go(cli.at('nbd'), 'file')
  await using idle = await RawNbdClient.go(cli.at('nbd'), 'file')
  let isGone = false
  void idle.closed.then(() => {
    isGone = true
  })
  while (!isGone) {
    busy.request(C.NBD_CMD_READ, 0, 512)
    assert.equal((await busy.reply(512)).error, 0)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  assert.match((await server.end()).stderr, /connection dropped: idle/)
})

test('--max-options: who haggles on is dropped', async () => {
  const server = await serving([...FILE, '--max-options', '8'])
  await using client = await RawNbdClient.open(cli.at('nbd'))
  for (let n = 0; n < 8; n++) assert.equal((await client.option(C.NBD_OPT_LIST)).at(-1)?.type, C.NBD_REP_ACK)
  await assert.rejects(client.option(C.NBD_OPT_LIST), /closed/)
  assert.match((await server.end()).stderr, /connection dropped: too many options/)
})

/** Whether a small read overtook the large one that was sent before it. */
async function overtaken(client: RawNbdClient): Promise<boolean> {
  client.request(C.NBD_CMD_READ, 0, 8 * MiB, 0, 1)
  client.request(C.NBD_CMD_READ, 0, 512, 0, 2)
  const { cookieLo } = await client.reply(0)
  // The data of a simple reply have no length of their own: whose they are, the cookie says.
  await client.read(cookieLo === 1 ? 8 * MiB : 512)
  await client.reply(cookieLo === 1 ? 512 : 8 * MiB)
  return cookieLo === 2
}

test('--max-requests and --max-in-flight: what is past them waits for what was asked before', async () => {
  const orders: Record<string, number> = {}
  for (const words of [[], ['--max-requests', '1'], ['--max-in-flight', '8MiB']]) {
    await using _server = await serving([...FILE, ...words])
    await using client = await RawNbdClient.go(cli.at('nbd'), 'file')
    let count = 0
    // Without a bound it happens almost always, but a busy host may delay the small one.
    for (let n = 0; n < 20 && (words.length > 0 || count === 0); n++) count += (await overtaken(client)) ? 1 : 0
    orders[words.join(' ')] = count
  }
  assert.deepEqual(orders, { '': 1, '--max-requests 1': 0, '--max-in-flight 8MiB': 0 })
})

test('bounds that make no sense are refused with what to say instead', async () => {
  for (const [flag, value] of [
    ['--max-connections', '0'],
    ['--max-connections', '1e3'],
    ['--max-requests', '-1'],
    ['--max-requests', '65536'],
    ['--max-options', '7'],
    ['--max-in-flight', '1000'],
    ['--max-in-flight', 'much'],
    ['--handshake-timeout', '0'],
    ['--handshake-timeout', '10 years'],
    ['--idle-timeout', '50ms'],
  ] as const) {
    const { code, error } = await cli.json([...FILE, `${flag}=${value}`])
    assert.deepEqual([code, error.code], [2, 'usage'], `${flag} ${value}`)
    assert.match(error.message ?? '', new RegExp(`^${flag}`))
    assert.ok(error.hint)
  }
  assert.equal(existsSync(cli.at('nbd')), false)
  await using _never = await serving([...FILE, '--idle-timeout', '0'])
})

test('a session keeps its bounds for those who resume it; each can be said anew', async () => {
  await using small = await smallRepository()
  const { cli: host, at } = small
  const [socket, state] = [host.at('s'), host.at('state')]
  const words = (text: string) => `${at} ${text}`.split(' ')
  const begin = words(`export web1@latest --session kept --socket ${socket} --max-connections 1 --idle-timeout 1h`)
  const isFull = async () => {
    await using _first = await RawNbdClient.go(socket, 'vda')
    await using second = await RawNbdClient.open(socket)
    return (await choose(second, 'vda'))?.type === C.NBD_REP_ERR_POLICY
  }
  {
    await using _server = await serving(begin, host, socket)
    assert.equal(await isFull(), true)
  }
  {
    await using _server = await serving(words('session resume kept'), host, socket)
    assert.equal(await isFull(), true)
  }
  {
    await using _server = await serving(words('export web1@latest --session kept --max-connections 2'), host, socket)
    assert.equal(await isFull(), false)
  }
  const { serve } = await readSession(state, 'kept')
  assert.deepEqual(serve?.options, { 'max-connections': '2', 'idle-timeout': '1h' })
  {
    await using _server = await serving(words('session resume kept'), host, socket)
    assert.equal(await isFull(), false)
  }
  done(await host.json(words('session discard kept')))
})
