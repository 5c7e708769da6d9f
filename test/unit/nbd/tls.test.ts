import assert from 'node:assert/strict'
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { ConnectionOptions } from 'node:tls'
import { memoryDevice } from '../../../src/block/memory.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { MiB } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { connectNbd } from '../../../src/nbd/client.ts'
import * as C from '../../../src/nbd/constants.ts'
import type { NbdExport } from '../../../src/nbd/nbd-export.ts'
import * as O from '../../../src/nbd/option-codec.ts'
import { type NbdServer, type ServeNbdOptions, serveNbd } from '../../../src/nbd/server.ts'
import { readClientTls, readServerTls } from '../../../src/nbd/tls-folder.ts'
import { certificateAuthority, credentialFolder } from '../../doubles/certificates.ts'
import { patternBytes } from '../../doubles/pattern.ts'
import { errorOf, RawNbdClient } from '../../doubles/raw-nbd-client.ts'
import { slowDevice } from '../../doubles/slow-device.ts'

const folder = await mkdtemp(join(tmpdir(), 'lifeboat-tls-'))
after(() => rm(folder, { recursive: true, force: true }))
let made = 0
const fresh = (kind: string) => join(folder, `${++made}.${kind}`)

const day = 86_400_000
const now = new Date()
const ca = certificateAuthority()
const server = ca.issue({ commonName: 'server', names: ['DNS:localhost', 'IP:127.0.0.1'] })
const alice = ca.issue({ commonName: 'alice', names: ['DNS:alice.example'] })
const bob = ca.issue({ commonName: 'bob' })
const KEY = 'aa'.repeat(32)

const content = patternBytes(3 * MiB)
const disks: readonly NbdExport[] = [
  { name: 'vda', path: 'web1/vda', device: memoryDevice(content), readOnly: true },
  { name: 'vdb', path: 'web1/vdb', device: memoryDevice(Buffer.alloc(MiB, 7)), readOnly: false },
]

interface Wishes extends Partial<ServeNbdOptions> {
  readonly verify?: boolean
}

async function serve(
  given: Parameters<typeof credentialFolder>[1],
  { verify = false, ...options }: Wishes = {},
): Promise<NbdServer & { path: string; log: string[] }> {
  const credentials = await credentialFolder(fresh('tls'), given)
  const tls = await readServerTls({ folder: credentials, verify, now })
  const path = fresh('sock')
  const log: string[] = []
  const running = await serveNbd({
    exports: disks,
    listen: { socket: path },
    clock: systemClock,
    tls,
    log: line => log.push(line),
    ...options,
  })
  return Object.assign(running, { path, log })
}

const certificateOf = ({ certificate, key }: { certificate: string; key: string }): ConnectionOptions => ({
  cert: certificate,
  key,
})

test('inside TLS every request gets its bytes, in every header mode, from memory and from a slow device', async () => {
  for (const device of [memoryDevice(content), slowDevice(memoryDevice(content), seededRandom('tls'))]) {
    await using running = await serve({ server }, { exports: [{ name: 'vda', device, readOnly: true }] })
    for (const version of ['TLSv1.2', 'TLSv1.3'] as const)
      for (const mode of ['simple', 'structured', 'extended'] as const) {
        const tls = { minVersion: version, maxVersion: version }
        await using client = await RawNbdClient.go(running.path, 'vda', mode, [], tls)
        for (const [offset, length] of [
          [0, 1],
          [4097, 4096],
          [1, 300_000],
          [0, 3 * MiB],
        ] as const) {
          client.request(C.NBD_CMD_READ, offset, length, C.NBD_CMD_FLAG_DF * Number(mode !== 'simple'))
          const { payload } = mode === 'simple' ? await client.reply(length) : await client.reply()
          const bytes = mode === 'simple' ? payload : payload.subarray(8)
          assert.ok(bytes.equals(content.subarray(offset, offset + length)), `${version} ${mode} ${offset}+${length}`)
        }
        client.request(C.NBD_CMD_DISC, 0, 0)
        await client.closed
      }
  }
})

test('a FORCEDTLS server discloses nothing in the clear, and nothing older than TLS 1.2 is spoken', async () => {
  await using running = await serve({ server })
  await using client = await RawNbdClient.open(running.path)
  for (const option of [C.NBD_OPT_LIST, C.NBD_OPT_STRUCTURED_REPLY, C.NBD_OPT_EXTENDED_HEADERS, 99])
    assert.deepEqual(
      (await client.option(option)).map(({ type }) => type),
      [C.NBD_REP_ERR_TLS_REQD],
    )
  await client.startTls()
  const names = (await client.option(C.NBD_OPT_LIST)).map(({ payload }) => O.parseServer(payload)?.name)
  assert.deepEqual(names, ['vda', 'vdb', undefined])
  assert.equal((await client.option(C.NBD_OPT_STARTTLS)).at(-1)!.type, C.NBD_REP_ERR_INVALID)
  for (const version of ['TLSv1', 'TLSv1.1'] as const) {
    await using old = await RawNbdClient.open(running.path)
    const options = { minVersion: version, maxVersion: version, ciphers: 'ALL:@SECLEVEL=0' } as const
    await assert.rejects(old.startTls(options))
    await old.closed
  }
})

test('CVE-2021-3716: what is sent in the clear behind STARTTLS is never honoured, before or after its ACK', async () => {
  await using running = await serve({ server })
  const injected = O.encodeOption(C.NBD_OPT_LIST, Buffer.alloc(0))
  const start = O.encodeOption(C.NBD_OPT_STARTTLS, Buffer.alloc(0))
  for (const split of [start.length, start.length + 1, start.length + injected.length]) {
    await using client = await RawNbdClient.open(running.path)
    const all = Buffer.concat([start, injected])
    client.write(all.subarray(0, split))
    if (split === start.length) assert.equal((await client.optionReplies())[0]!.type, C.NBD_REP_ACK)
    client.write(all.subarray(split))
    await client.closed
    const left = await client.read(client.unread)
    assert.ok(!left.includes('vda') && !left.includes(C.NBD_REP_SERVER), `${split}: nothing but the ACK or an alert`)
  }
  assert.ok(running.log.some(line => line.includes('plain bytes behind STARTTLS')))
  // What was agreed on in the clear is gone: simple replies are what a client gets that asks for nothing inside.
  await using selective = await serve({ server }, { plainToo: true })
  await using client = await RawNbdClient.open(selective.path)
  await client.option(C.NBD_OPT_STRUCTURED_REPLY)
  await client.option(C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries('vda', ['base:allocation']))
  await client.startTls()
  await client.option(C.NBD_OPT_GO, O.encodeGo('vda', []))
  client.request(C.NBD_CMD_READ, 5, 10)
  assert.ok((await client.reply(10)).payload.equals(content.subarray(5, 15)))
  client.request(C.NBD_CMD_BLOCK_STATUS, 0, 4096)
  assert.equal(errorOf(await client.reply()), C.NBD_EINVAL)
})

test('SELECTIVETLS: exports for TLS only are there inside TLS only; the others are there for both', async () => {
  const exports = [{ ...disks[0]!, tlsOnly: true }, disks[1]!]
  await using running = await serve({ server }, { exports, plainToo: true })
  await using plain = await RawNbdClient.open(running.path)
  const list = await plain.option(C.NBD_OPT_LIST)
  assert.deepEqual(
    list.map(({ payload }) => O.parseServer(payload)?.name),
    ['vdb', undefined],
  )
  for (const name of ['vda', 'nothing'])
    assert.equal((await plain.option(C.NBD_OPT_GO, O.encodeGo(name, []))).at(-1)!.type, C.NBD_REP_ERR_TLS_REQD)
  await using open = await RawNbdClient.go(running.path, 'vdb')
  open.request(C.NBD_CMD_READ, 0, 1)
  assert.equal((await open.reply(1)).payload[0], 7)
  await using inside = await RawNbdClient.go(running.path, 'vda', 'simple', [], {})
  inside.request(C.NBD_CMD_READ, 0, 10)
  assert.ok((await inside.reply(10)).payload.equals(content.subarray(0, 10)))
})

test('mutual TLS: only valid certificates of our authority get in, and revoked ones do not', async () => {
  const other = certificateAuthority()
  const late = ca.issue({ commonName: 'alice', to: new Date(now.getTime() - day), from: new Date(0) })
  const early = ca.issue({ commonName: 'alice', from: new Date(now.getTime() + day) })
  const strangers: Record<string, ConnectionOptions> = {
    'no certificate': {},
    'another authority': certificateOf(other.issue({ commonName: 'alice' })),
    'self-signed': certificateOf(other),
    expired: certificateOf(late),
    'not valid yet': certificateOf(early),
    revoked: certificateOf(bob),
  }
  const crl = ca.revoke(bob)
  await using running = await serve({ ca: ca.certificate, crl, server }, { verify: true })
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const)
    for (const [name, options] of Object.entries(strangers)) {
      await using client = await RawNbdClient.open(running.path)
      const outcome = client
        .startTls({ ...options, minVersion: version, maxVersion: version })
        .then(() => client.option(C.NBD_OPT_LIST))
      await assert.rejects(outcome, `${version}: ${name}`)
      await client.closed
      assert.equal(client.unread, 0)
    }
  await using good = await RawNbdClient.go(running.path, 'vda', 'simple', [], certificateOf(alice))
  good.request(C.NBD_CMD_READ, 0, 10)
  assert.ok((await good.reply(10)).payload.equals(content.subarray(0, 10)))
  assert.ok(running.log.some(line => line.includes('CERT_HAS_EXPIRED')))
  assert.ok(running.log.some(line => line.includes('CERT_REVOKED')))
})

test('pre-shared keys: the right key of a known name gets in; a wrong key and an unknown name fail alike', async () => {
  await using running = await serve({ psk: { alice: KEY } })
  const ciphers = 'TLS_AES_128_GCM_SHA256:ECDHE-PSK-CHACHA20-POLY1305'
  const as = (identity: string, key: string, version: 'TLSv1.2' | 'TLSv1.3'): ConnectionOptions => ({
    ciphers,
    minVersion: version,
    maxVersion: version,
    checkServerIdentity: () => undefined,
    pskCallback: () => ({ identity, psk: Buffer.from(key, 'hex') }),
  })
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    await using good = await RawNbdClient.go(running.path, 'vda', 'simple', [], as('alice', KEY, version))
    good.request(C.NBD_CMD_READ, 0, 10)
    assert.ok((await good.reply(10)).payload.equals(content.subarray(0, 10)))
    const seen: string[] = []
    for (const options of [as('alice', 'bb'.repeat(32), version), as('mallory', KEY, version)]) {
      await using client = await RawNbdClient.open(running.path)
      seen.push(await client.startTls(options).then(String, error => error.code ?? error.message))
      await client.closed
    }
    assert.equal(seen[0], seen[1])
    assert.doesNotMatch(seen[0] ?? '', /object/)
  }
  await using without = await RawNbdClient.open(running.path)
  await assert.rejects(without.startTls())
  // Certificates beside keys let nobody in who shows neither.
  await using both = await serve({ server, psk: { alice: KEY } })
  await using anonymous = await RawNbdClient.open(both.path)
  await assert.rejects(anonymous.startTls().then(() => anonymous.option(C.NBD_OPT_LIST)))
  await using keyed = await RawNbdClient.go(both.path, 'vda', 'simple', [], as('alice', KEY, 'TLSv1.2'))
  keyed.request(C.NBD_CMD_READ, 0, 10)
  assert.equal((await keyed.reply(10)).error, 0)
})

test('permissions: each certificate sees and opens its own exports; the rest do not exist for it', async () => {
  const permissions = { clients: { 'dns:alice.example': ['web1/vda'], 'cn:bob': ['*/vdb'], 'cn:server': ['*'] } }
  await using running = await serve({ ca: ca.certificate, server, permissions }, { verify: true })
  const carol = ca.issue({ commonName: 'carol', names: ['DNS:dns:alice.example', 'email:bob'] })
  for (const [identity, names] of [
    [alice, ['vda']],
    [bob, ['vdb']],
    [server, ['vda', 'vdb']],
    [carol, []],
  ] as const) {
    await using client = await RawNbdClient.open(running.path)
    await client.startTls(certificateOf(identity))
    const listed = (await client.option(C.NBD_OPT_LIST)).map(({ payload }) => O.parseServer(payload)?.name)
    assert.deepEqual(listed, [...names, undefined])
    await client.option(C.NBD_OPT_STRUCTURED_REPLY)
    const answers = new Map<string, Buffer>()
    for (const name of ['vda', 'vdb', 'nothing', ...(names.length === 1 ? [] : [''])]) {
      const allowed = (names as readonly string[]).includes(name)
      for (const [option, payload] of [
        [C.NBD_OPT_INFO, O.encodeGo(name, [C.NBD_INFO_NAME])],
        [C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries(name, ['base:allocation'])],
      ] as const) {
        const last = (await client.option(option, payload)).at(-1)!
        assert.equal(last.type, allowed ? C.NBD_REP_ACK : C.NBD_REP_ERR_UNKNOWN, `${name} option ${option}`)
        if (allowed) continue
        // Byte for byte what a name gets that does not exist.
        assert.ok(last.payload.equals(answers.get(`${option}`) ?? last.payload))
        answers.set(`${option}`, last.payload)
      }
    }
    const forbidden = ['vda', 'vdb'].find(name => !(names as readonly string[]).includes(name))
    if (forbidden !== undefined) {
      client.write(O.encodeOption(C.NBD_OPT_EXPORT_NAME, Buffer.from(forbidden)))
      await client.closed
    }
  }
  // The only export that one may open is also the default one, whatever else there is.
  await using only = await RawNbdClient.go(running.path, '', 'simple', [], certificateOf(alice))
  only.request(C.NBD_CMD_READ, 0, 10)
  assert.ok((await only.reply(10)).payload.equals(content.subarray(0, 10)))
})

test('our client inside TLS reads, writes and goes; over several connections; with a certificate or a shared key', async () => {
  const permissions = { clients: { 'dns:alice.example': ['*'], 'psk:alice': ['*'] } }
  const given = { ca: ca.certificate, server, permissions, psk: { alice: KEY } }
  await using running = await serve(given, {
    verify: true,
    exports: [disks[1]!],
    listen: { host: '127.0.0.1', port: 0 },
  })
  assert.ok('port' in running.address)
  assert.match(running.uri('vdb'), /^nbds:\/\/127\.0\.0\.1:\d+\/vdb$/)
  const own = await credentialFolder(fresh('tls'), { ca: ca.certificate, client: alice, psk: { alice: KEY } })
  for (const tls of [
    await readClientTls({ folder: own, now }),
    await readClientTls({ folder: own, hostname: 'localhost', now }),
    await readClientTls({ folder: own, identity: 'alice', now }),
  ])
    for (const headers of ['simple', 'structured', 'extended'] as const) {
      const options = { ...running.address, exportName: 'vdb', clock: systemClock, tls, headers, connections: 3 }
      await using client = await connectNbd(options)
      assert.equal(client.connectionCount, 3)
      const change = patternBytes(700_000, headers.length)
      await client.write(change, 100, { fua: true })
      const target = Buffer.alloc(change.length)
      await client.readInto(target, 100)
      assert.ok(target.equals(change))
    }
})

test('CVE-2019-14842, CVE-2024-7383: our client refuses a server without TLS, of another name, of another authority, or without names', async () => {
  const own = await credentialFolder(fresh('tls'), { ca: ca.certificate })
  const tls = await readClientTls({ folder: own, now })
  const listen = { host: '127.0.0.1', port: 0 }
  const attempt = async (running: NbdServer, hostname?: string) => {
    assert.ok('port' in running.address)
    const options = { ...running.address, exportName: 'vda', clock: systemClock }
    return connectNbd({ ...options, tls: hostname === undefined ? tls : { ...tls, hostname } })
  }
  const refused = { code: 'nbd-refused', retry: 'permanent' }
  await using plain = await serveNbd({ exports: disks, listen, clock: systemClock })
  await assert.rejects(attempt(plain), { ...refused, message: /does not offer TLS/ })
  await using good = await serve({ server }, { listen })
  await using client = await attempt(good)
  assert.equal(client.size, content.length)
  await assert.rejects(attempt(good, 'other.example'), refused)
  await assert.rejects(attempt(good, '127.0.0.2'), refused)
  // The common name says localhost, and nothing else does.
  const nameless = ca.issue({ commonName: 'localhost' })
  await using commonName = await serve({ server: nameless }, { listen })
  await assert.rejects(attempt(commonName, 'localhost'), { ...refused, message: /no alternative names/ })
  const forged = certificateAuthority().issue({ commonName: 'localhost', names: ['DNS:localhost', 'IP:127.0.0.1'] })
  await using impostor = await serve({ server: forged }, { listen })
  await assert.rejects(attempt(impostor), refused)
  const revoking = await credentialFolder(fresh('tls'), { ca: ca.certificate, crl: ca.revoke(server) })
  const strict = await readClientTls({ folder: revoking, now })
  assert.ok('port' in good.address)
  await assert.rejects(connectNbd({ ...good.address, exportName: 'vda', clock: systemClock, tls: strict }), refused)
})

test('credentials that do not serve are told by file and reason before anybody connects', async () => {
  const late = ca.issue({ commonName: 'x', from: new Date(0), to: new Date(now.getTime() - day) })
  const early = ca.issue({ commonName: 'x', from: new Date(now.getTime() + day) })
  const oldCa = certificateAuthority('old', { from: new Date(0), to: new Date(now.getTime() - day) })
  const whole = { ca: ca.certificate, server }
  const cases: [string, Parameters<typeof credentialFolder>[1], boolean, RegExp, ((path: string) => Promise<void>)?][] =
    [
      ['an empty folder', {}, false, /neither server-cert\.pem .* nor keys\.psk/],
      ['no key', whole, false, /server-key\.pem: is missing/, path => rm(join(path, 'server-key.pem'))],
      ['no certificate', whole, false, /server-cert\.pem: is missing/, path => rm(join(path, 'server-cert.pem'))],
      ['no authority', { server }, true, /ca-cert\.pem: is missing/],
      [
        'a public key file',
        whole,
        false,
        /server-key\.pem: everybody .* can read/,
        path => chmod(join(path, 'server-key.pem'), 0o644),
      ],
      [
        'public shared keys',
        { psk: { a: KEY } },
        false,
        /keys\.psk: everybody/,
        path => chmod(join(path, 'keys.psk'), 0o604),
      ],
      ['an expired certificate', { server: late }, false, /server-cert\.pem: has expired on/],
      ['one from the future', { server: early }, false, /server-cert\.pem: is valid only from/],
      ['an expired authority', { ca: oldCa.certificate, server }, true, /ca-cert\.pem: has expired on/],
      [
        "another's key",
        { server: { ...server, key: bob.key } },
        false,
        /server-key\.pem: is not the key of .*server-cert\.pem/,
      ],
      ['a damaged key', { server: { ...server, key: 'x' } }, false, /server-key\.pem: is not a private key/],
      [
        'a damaged certificate',
        { server: { ...server, certificate: 'x' } },
        false,
        /server-cert\.pem: is not a certificate/,
      ],
      [
        'a folder for a file',
        { psk: { a: KEY } },
        false,
        /server-cert\.pem: cannot be read: EISDIR/,
        path => mkdir(join(path, 'server-cert.pem')),
      ],
      ['a list that is none', { ...whole, crl: 'x' }, true, /do not serve/],
      ['bad shared keys', { psk: { a: 'xyz' } }, false, /keys\.psk: line 1 is not NAME:HEX/],
      ['no shared keys', { psk: {} }, false, /keys\.psk: has no keys/],
      ['verifying without certificates', { psk: { a: KEY } }, true, /server-cert\.pem: is needed/],
      [
        'permissions for nobody',
        { server, permissions: { clients: {} } },
        false,
        /permissions\.json: cannot be obeyed/,
      ],
      [
        'permissions of another shape',
        { ...whole, permissions: { client: {} } },
        true,
        /permissions\.json: the only member/,
      ],
      ['a name without its kind', { ...whole, permissions: { clients: { bob: ['*'] } } }, true, /"bob" does not say/],
      ['exports that are no list', { ...whole, permissions: { clients: { 'cn:bob': '*' } } }, true, /not a list/],
      [
        'no JSON',
        { ...whole, permissions: {} },
        true,
        /not JSON/,
        path => writeFile(join(path, 'permissions.json'), '{'),
      ],
    ]
  for (const [name, given, verify, message, change] of cases) {
    const path = await credentialFolder(fresh('tls'), given)
    await change?.(path)
    const outcome = await readServerTls({ folder: path, verify, now }).catch((error: unknown) => error)
    assert.ok(isLifeboatError(outcome, 'tls-credentials'), `${name}: ${outcome}`)
    assert.match(outcome.message, message, name)
    assert.ok(outcome.details.hint, name)
  }
  await assert.rejects(readServerTls({ folder: fresh('nowhere'), verify: false, now }), /cannot be read: ENOENT/)
})
