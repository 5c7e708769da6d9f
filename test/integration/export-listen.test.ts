/** `lifeboat export` as a process of its own: sockets that systemd passes, TLS folders, and what is refused. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtemp, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { GiB, MiB } from '../../src/core/limits.ts'
import * as C from '../../src/nbd/constants.ts'
import { encodeGo } from '../../src/nbd/option-codec.ts'
import { certificateAuthority, credentialFolder } from '../doubles/certificates.ts'
import { commandLine } from '../doubles/command-line.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { lacking } from '../doubles/peer-tools.ts'
import { errorOf, RawNbdClient } from '../doubles/raw-nbd-client.ts'

const folder = await mkdtemp(join(tmpdir(), 'lifeboat-export-'))
after(() => rm(folder, { recursive: true, force: true }))
const at = (name: string) => join(folder, name)
const program = join(import.meta.dirname, '..', '..', 'bin', 'lifeboat.mjs')
const content = patternBytes(MiB)
await writeFile(at('disk.raw'), content)
const ca = certificateAuthority()
const server = ca.issue({ commonName: 'server', names: ['IP:127.0.0.1', 'DNS:localhost'] })
const EXPORT = [process.execPath, program, 'export', '--file', at('disk.raw')]

interface Exporting extends AsyncDisposable {
  /** What it printed first. */
  readonly uri: string
  readonly stderr: () => string
}

interface Passed {
  /** Opened by another process, which has gone when the service runs. */
  readonly listen?: { path: string } | { host: string; port: number }
  readonly count?: number
}

/** Listens, and starts a command as systemd starts a service: descriptor 3 listens, and its own id is in LISTEN_PID. */
const ACTIVATE = `
  const [where, count, ...command] = process.argv.slice(1)
  const server = require('net').createServer().listen(JSON.parse(where), () => {
    const stdio = ['ignore', 'inherit', 'inherit', server._handle.fd]
    const shell = 'LISTEN_PID=$$ LISTEN_FDS=' + count + ' exec "$@"'
    const child = require('child_process').spawn('sh', ['-c', shell, 'sh', ...command], { stdio })
    console.log(child.pid)
    process.exit()
  })`

/** The program until it serves or ends; ends with the scope. */
async function serving(words: readonly string[], passed: Passed = {}): Promise<Exporting> {
  const { listen, count = 1 } = passed
  const command = [...EXPORT, ...words]
  const whole = listen ? [process.execPath, '-e', ACTIVATE, JSON.stringify(listen), String(count), ...command] : command
  const [program = '', ...rest] = whole
  const child = spawn(program, rest, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, LIFEBOAT_STATE_DIR: at('state') },
  })
  let [stdout, stderr] = ['', '']
  child.stderr.on('data', text => {
    stderr += text
  })
  const closed = new Promise<void>(resolve => child.once('close', () => resolve()))
  const lines = listen ? 2 : 1
  const spoken = new Promise<void>(resolve =>
    child.stdout.on('data', text => {
      stdout += text
      if (stdout.split('\n').length > lines) resolve()
    }),
  )
  await Promise.race([spoken, closed])
  const [pid = child.pid, uri = ''] = listen ? stdout.split('\n') : [undefined, ...stdout.split('\n')]
  return {
    uri,
    stderr: () => stderr,
    async [Symbol.asyncDispose]() {
      try {
        process.kill(Number(pid), 'SIGTERM')
      } catch {}
      await closed
    },
  }
}

async function firstBytes(client: RawNbdClient): Promise<void> {
  client.request(C.NBD_CMD_READ, 0, 4096)
  assert.ok((await client.reply(4096)).payload.equals(content.subarray(0, 4096)))
}

test('--file --writable announces FAST_ZERO, and zeroes a TiB in one request', async () => {
  const [file, socket] = [at('sparse.raw'), at('sparse.sock')]
  await writeFile(file, patternBytes(MiB))
  await truncate(file, 1024 * GiB)
  const words = ['--file', file, '--socket', socket]
  {
    await using _service = await serving([...words, '--writable'])
    await using client = await RawNbdClient.open(socket)
    client.mode = 'extended'
    await client.option(C.NBD_OPT_EXTENDED_HEADERS)
    const [info] = await client.option(C.NBD_OPT_GO, encodeGo('file', []))
    assert.notEqual((info?.payload.readUInt16BE(10) ?? 0) & C.NBD_FLAG_SEND_FAST_ZERO, 0)
    client.request(C.NBD_CMD_WRITE_ZEROES, 0, 1024 * GiB, C.NBD_CMD_FLAG_FAST_ZERO | C.NBD_CMD_FLAG_FUA)
    assert.equal(errorOf(await client.reply()), 0)
    client.request(C.NBD_CMD_WRITE_ZEROES, 0, MiB, C.NBD_CMD_FLAG_FAST_ZERO | C.NBD_CMD_FLAG_NO_HOLE)
    assert.equal(errorOf(await client.reply()), C.NBD_ENOTSUP, 'space that must be there is written')
    assert.equal((await stat(file)).blocks, 0)
  }
  await using _service = await serving(words)
  await using client = await RawNbdClient.open(socket)
  const [info] = await client.option(C.NBD_OPT_GO, encodeGo('file', []))
  assert.equal((info?.payload.readUInt16BE(10) ?? 0) & C.NBD_FLAG_SEND_FAST_ZERO, 0)
})

test('a Unix socket that systemd passes is served, and its file stays when the service ends', async () => {
  const path = at('passed.sock')
  {
    await using service = await serving([], { listen: { path } })
    assert.equal(service.uri, `nbd+unix:///file?socket=${path}`, service.stderr())
    await using client = await RawNbdClient.go(path, 'file')
    await firstBytes(client)
  }
  assert.ok((await stat(path)).isSocket())
})

test('an address that systemd passes is served inside TLS or with --insecure, and else refused', async () => {
  const listen = { host: '127.0.0.1', port: 0 }
  await using refused = await serving([], { listen })
  assert.equal(refused.uri, '')
  assert.match(refused.stderr(), /without TLS lets everybody/)
  await using insecure = await serving(['--insecure'], { listen })
  assert.match(insecure.uri, /^nbd:\/\/127\.0\.0\.1:\d+\/file$/)
  const tls = await credentialFolder(at('activated'), { server })
  await using secure = await serving(['--tls', tls], { listen })
  assert.match(secure.uri, /^nbds:\/\/127\.0\.0\.1:\d+\/file$/)
  await using client = await RawNbdClient.go(portOf(secure.uri), 'file', 'structured', [], {})
  client.request(C.NBD_CMD_READ, 0, 4096, C.NBD_CMD_FLAG_DF)
  assert.ok((await client.reply()).payload.subarray(8).equals(content.subarray(0, 4096)))
})

test('several sockets are refused with what to do, and those of another process are not taken', async () => {
  await using several = await serving([], { listen: { path: at('two.sock') }, count: 2 })
  assert.match(several.stderr(), /systemd passed 2 sockets; export listens at one[\s\S]*one ListenStream/)
  const environment = { LISTEN_PID: '1', LISTEN_FDS: '1' }
  await using cli = commandLine(environment)
  const answer = await cli.run(['export', '--file', at('disk.raw')])
  assert.equal(answer.code, 2)
  assert.match(answer.stderr, /the place to listen at is missing/)
})

test('systemd-socket-activate starts it at the first connection', {
  skip: lacking('systemd-socket-activate'),
}, async () => {
  const path = at('on-demand.sock')
  const child = spawn('systemd-socket-activate', ['-l', path, ...EXPORT], { stdio: ['ignore', 'ignore', 'pipe'] })
  const ended = new Promise(resolve => child.once('close', resolve))
  try {
    while (!(await stat(path).catch(() => undefined))) await new Promise(resolve => setTimeout(resolve, 10))
    await using client = await RawNbdClient.go(path, 'file')
    await firstBytes(client)
  } finally {
    child.kill('SIGTERM')
    await ended
  }
})

test('--tls serves inside TLS; its mistakes are told with exit code 2', async () => {
  const whole = await credentialFolder(at('whole'), { ca: ca.certificate, server })
  const keyed = await credentialFolder(at('keyed'), { psk: { alice: 'aa'.repeat(32) } })
  const late = ca.issue({ commonName: 'x', from: new Date(0), to: new Date(Date.now() - 86_400_000) })
  const expired = await credentialFolder(at('expired'), { ca: ca.certificate, server: late })
  const listen = ['--listen', '127.0.0.1:0']
  await using cli = commandLine()
  for (const [words, code, message] of [
    [[], 'usage', /place to listen at is missing/],
    [listen, 'usage', /--listen without TLS/],
    [[...listen, '--tls-verify'], 'usage', /--tls-verify goes with --tls/],
    [[...listen, '--tls', whole, '--tls-verify', '--insecure'], 'usage', /--insecure lets in whom/],
    [[...listen, '--tls', keyed, '--insecure'], 'usage', /--insecure lets in whom/],
    [[...listen, '--tls', at('nowhere')], 'tls-credentials', /cannot be read: ENOENT/],
    [[...listen, '--tls', expired], 'tls-credentials', /server-cert\.pem: has expired/],
    [['--socket', at('s'), '--tls', keyed, '--tls-verify'], 'tls-credentials', /server-cert\.pem: is needed/],
  ] as const) {
    const answer = await cli.json(['export', '--file', at('disk.raw'), ...words])
    assert.deepEqual([answer.code, answer.error.code], [2, code], words.join(' '))
    assert.match(answer.error.message ?? '', message)
    assert.ok(answer.error.hint)
  }
  await using both = await serving([...listen, '--tls', whole, '--insecure'])
  await using plain = await RawNbdClient.go(portOf(both.uri), 'file')
  await firstBytes(plain)
  await using verified = await serving(['--socket', at('v.sock'), '--tls', whole, '--tls-verify'])
  assert.equal(verified.uri, `nbds+unix:///file?socket=${at('v.sock')}`)
  await using anonymous = await RawNbdClient.open(at('v.sock'))
  await assert.rejects(anonymous.startTls().then(() => anonymous.option(C.NBD_OPT_LIST)))
  const client = ca.issue({ commonName: 'client' })
  const own = { cert: client.certificate, key: client.key }
  await using known = await RawNbdClient.go(at('v.sock'), 'file', 'simple', [], own)
  await firstBytes(known)
})

const portOf = (uri: string): number => Number(new URL(uri).port)
