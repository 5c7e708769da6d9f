/** TLS between our server and other projects' clients, and between our client and their servers: certificates and shared keys. */
import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { memoryDevice } from '../../src/block/memory.ts'
import { systemClock } from '../../src/core/clock.ts'
import { MiB } from '../../src/core/limits.ts'
import { connectNbd } from '../../src/nbd/client.ts'
import { serveNbd } from '../../src/nbd/server.ts'
import type { ClientTls } from '../../src/nbd/tls-client.ts'
import { readClientTls, readServerTls } from '../../src/nbd/tls-folder.ts'
import { certificateAuthority, credentialFolder } from '../doubles/certificates.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { lacking, run, startPeer } from '../doubles/peer-tools.ts'

const folder = await mkdtemp(join(tmpdir(), 'lifeboat-nbd-tls-'))
after(() => rm(folder, { recursive: true, force: true }))
const path = (name: string) => join(folder, name)

const SIZE = 12 * MiB
const content = patternBytes(SIZE)
content.fill(0, 4 * MiB, 6 * MiB)
await writeFile(path('content.raw'), content)

const now = new Date()
const ca = certificateAuthority()
const names = ['DNS:localhost', 'IP:127.0.0.1']
const server = ca.issue({ commonName: 'server', names })
const client = ca.issue({ commonName: 'client', names: ['DNS:client'] })
const KEY = 'c0ffee00'.repeat(8)
/** All names at once: the same folder serves each of the programs, as server and as client. */
const whole = await credentialFolder(path('whole'), { ca: ca.certificate, server, client })
const keyed = await credentialFolder(path('keyed'), { psk: { alice: KEY } })
const wrongKey = await credentialFolder(path('wrong'), { psk: { alice: 'aa'.repeat(32) } })
const anonymous = await credentialFolder(path('anonymous'), { ca: ca.certificate })

async function serve(credentials: string, { verify = false, readOnly = true } = {}) {
  const exports = [{ name: 'vda', device: memoryDevice(Buffer.from(content)), readOnly }]
  const tls = await readServerTls({ folder: credentials, verify, now })
  const listen = { host: '127.0.0.1', port: 0 }
  const running = await serveNbd({ exports, listen, clock: systemClock, tls })
  assert.ok('port' in running.address)
  return Object.assign(running, { port: running.address.port })
}

/** The words with which QEMU's programs reach an export. */
const qemuImage = (port: number, credentials: string, kind: 'x509' | 'psk'): string[] => [
  '--object',
  kind === 'x509'
    ? `tls-creds-x509,id=t,endpoint=client,dir=${credentials}`
    : `tls-creds-psk,id=t,endpoint=client,dir=${credentials},username=alice`,
  '--image-opts',
  `driver=nbd,host=127.0.0.1,port=${port},export=vda,tls-creds=t`,
]

test('qemu-img and qemu-io with certificates: compare, map, write', {
  skip: lacking('qemu-img', 'qemu-io'),
}, async () => {
  await using running = await serve(whole, { verify: true, readOnly: false })
  const words = qemuImage(running.port, whole, 'x509')
  const info = await run('qemu-img', 'info', ...words)
  assert.match(info, /virtual size: 12 MiB/)
  const [object = '', definition = '', options = '', image = ''] = words
  await run('qemu-img', 'convert', object, definition, options, image, '-O', 'raw', path('copy.raw'))
  assert.ok((await readFile(path('copy.raw'))).equals(content))
  const commands = [
    'write -P 9 1M 3M',
    'write -z 7M 1M',
    'flush',
    'read -P 9 1M 3M',
    'read -P 0 7M 1M',
    'aio_write -P 3 8M 2M',
    'aio_flush',
    'read -P 3 8M 2M',
  ]
  const said = await run('qemu-io', object, definition, ...commands.flatMap(line => ['-c', line]), options, image)
  assert.doesNotMatch(said, /failed|error/i)
})

test('qemu-img with a shared key; with the wrong one it is refused', { skip: lacking('qemu-img') }, async () => {
  await using running = await serve(keyed)
  assert.match(await run('qemu-img', 'info', ...qemuImage(running.port, keyed, 'psk')), /virtual size: 12 MiB/)
  await assert.rejects(run('qemu-img', 'info', ...qemuImage(running.port, wrongKey, 'psk')))
})

test('qemu-img without a certificate, or without TLS, is refused', { skip: lacking('qemu-img') }, async () => {
  await using running = await serve(whole, { verify: true })
  await assert.rejects(run('qemu-img', 'info', ...qemuImage(running.port, anonymous, 'x509')))
  const plain = `nbd://127.0.0.1:${running.port}/vda`
  await assert.rejects(run('qemu-img', 'info', plain), /TLS|tls/)
})

test('nbdinfo and nbdcopy with certificates, over several connections, in both directions', {
  skip: lacking('nbdinfo', 'nbdcopy'),
}, async () => {
  await using running = await serve(whole, { verify: true, readOnly: false })
  const uri = `${running.uri('vda')}?tls-certificates=${whole}`
  const { protocol, TLS, exports } = JSON.parse(await run('nbdinfo', '--json', uri))
  assert.deepEqual([protocol, TLS, exports[0]['export-size']], ['newstyle-fixed', true, SIZE])
  const map: { length: number; type: number }[] = JSON.parse(await run('nbdinfo', '--map', '--json', uri))
  assert.equal(
    map.filter(({ type }) => type === 3).reduce((sum, { length }) => sum + length, 0),
    2 * MiB,
  )
  await run('nbdcopy', '--connections=4', uri, path('copy.raw'))
  assert.ok((await readFile(path('copy.raw'))).equals(content))
  const other = Buffer.concat([content.subarray(5 * MiB), content.subarray(0, 5 * MiB)])
  await writeFile(path('other.raw'), other)
  await run('nbdcopy', '--flush', '--connections=4', '--requests=16', path('other.raw'), uri)
  await run('nbdcopy', '--no-extents', '--request-size=65536', uri, path('copy.raw'))
  assert.ok((await readFile(path('copy.raw'))).equals(other))
  await assert.rejects(run('nbdinfo', `${running.uri('vda')}?tls-certificates=${anonymous}`))
  await assert.rejects(run('nbdinfo', `nbd://127.0.0.1:${running.port}/vda`))
})

test('nbdinfo with a shared key; with the wrong one it is refused', { skip: lacking('nbdinfo') }, async () => {
  await using running = await serve(keyed)
  const uri = (credentials: string) =>
    `nbds://alice@127.0.0.1:${running.port}/vda?tls-psk-file=${join(credentials, 'keys.psk')}`
  assert.equal((await run('nbdinfo', '--size', uri(keyed))).trim(), String(SIZE))
  await assert.rejects(run('nbdinfo', '--size', uri(wrongKey)))
})

async function freePort(): Promise<number> {
  const probe = createServer()
  await new Promise<void>(resolve => probe.listen(0, '127.0.0.1', resolve))
  const address = probe.address()
  await new Promise(resolve => probe.close(resolve))
  return typeof address === 'object' && address !== null ? address.port : 0
}

async function readWhole(port: number, exportName: string, tls: ClientTls): Promise<Buffer> {
  await using device = await connectNbd({
    host: '127.0.0.1',
    port,
    exportName,
    tls,
    connections: 2,
    clock: systemClock,
  })
  const target = Buffer.alloc(device.size)
  await device.readInto(target, 0)
  return target
}

test('our client and qemu-nbd: certificates and shared keys; wrong ones, other names and no TLS are refused', {
  skip: lacking('qemu-nbd'),
}, async () => {
  const port = await freePort()
  const listening = ['-t', '-r', '-e', '8', '-f', 'raw', '-b', '127.0.0.1', '-p', String(port)]
  const own = await readClientTls({ folder: whole, now })
  {
    const tls = ['--object', `tls-creds-x509,id=t,endpoint=server,dir=${whole},verify-peer=on`, '--tls-creds', 't']
    await using _peer = await startPeer(port, 'qemu-nbd', ...listening, ...tls, path('content.raw'))
    assert.ok((await readWhole(port, '', own)).equals(content))
    await assert.rejects(readWhole(port, '', { ...own, hostname: 'elsewhere' }), { code: 'nbd-refused' })
    await assert.rejects(readWhole(port, '', await readClientTls({ folder: anonymous, now })))
  }
  {
    const tls = ['--object', `tls-creds-psk,id=t,endpoint=server,dir=${keyed}`, '--tls-creds', 't']
    await using _peer = await startPeer(port, 'qemu-nbd', ...listening, ...tls, path('content.raw'))
    assert.ok(
      (await readWhole(port, '', await readClientTls({ folder: keyed, identity: 'alice', now }))).equals(content),
    )
    const wrong = await readClientTls({ folder: wrongKey, identity: 'alice', now })
    await assert.rejects(readWhole(port, '', wrong), { code: 'nbd-refused' })
  }
  await using _peer = await startPeer(port, 'qemu-nbd', ...listening, path('content.raw'))
  await assert.rejects(readWhole(port, '', own), { code: 'nbd-refused', message: /does not offer TLS/ })
})

test('our client and nbdkit: certificates and shared keys', { skip: lacking('nbdkit') }, async () => {
  const port = await freePort()
  const listening = ['-f', '-r', '-i', '127.0.0.1', '-p', String(port), '--tls=require']
  {
    const tls = [`--tls-certificates=${whole}`, '--tls-verify-peer']
    await using _peer = await startPeer(port, 'nbdkit', ...listening, ...tls, 'file', path('content.raw'))
    assert.ok((await readWhole(port, '', await readClientTls({ folder: whole, now }))).equals(content))
    await assert.rejects(readWhole(port, '', await readClientTls({ folder: anonymous, now })))
  }
  const tls = [`--tls-psk=${join(keyed, 'keys.psk')}`]
  await using _peer = await startPeer(port, 'nbdkit', ...listening, ...tls, 'file', path('content.raw'))
  assert.ok((await readWhole(port, '', await readClientTls({ folder: keyed, identity: 'alice', now }))).equals(content))
})
