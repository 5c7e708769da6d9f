/** Every option and every command, from clients that have not proven who they are, or are somebody else: nothing is learned. */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { ConnectionOptions } from 'node:tls'
import { memoryDevice } from '../../../src/block/memory.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { MiB } from '../../../src/core/limits.ts'
import * as C from '../../../src/nbd/constants.ts'
import * as O from '../../../src/nbd/option-codec.ts'
import { serveNbd } from '../../../src/nbd/server.ts'
import { readServerTls } from '../../../src/nbd/tls-folder.ts'
import { emptyRequest, putRequest, requestHeaderBytes } from '../../../src/nbd/wire.ts'
import { certificateAuthority, credentialFolder } from '../../doubles/certificates.ts'
import { patternBytes } from '../../doubles/pattern.ts'
import { RawNbdClient } from '../../doubles/raw-nbd-client.ts'

const folder = await mkdtemp(join(tmpdir(), 'lifeboat-nbd-r18-'))
after(() => rm(folder, { recursive: true, force: true }))

const SIZE = 5 * MiB + 512
const content = patternBytes(SIZE)
const NAMES = ['payroll-disk', 'mail-disk'] as const
const day = 86_400_000
const now = new Date()
const ca = certificateAuthority()
const server = ca.issue({ commonName: 'server', names: ['DNS:localhost'] })
const mallory = ca.issue({ commonName: 'mallory' })
const revoked = ca.issue({ commonName: 'admin' })
const permissions = { clients: { 'cn:admin': ['*'], 'psk:admin': ['*'], 'cn:mallory': ['elsewhere/*'] } }
const credentials = {
  ca: ca.certificate,
  crl: ca.revoke(revoked),
  server,
  permissions,
  psk: { admin: 'aa'.repeat(32) },
}

const own = ({ certificate, key }: { certificate: string; key: string }) => ({ cert: certificate, key })
const psk = (identity: string, key: string): ConnectionOptions => ({
  ciphers: 'TLS_AES_128_GCM_SHA256:ECDHE-PSK-CHACHA20-POLY1305',
  checkServerIdentity: () => undefined,
  pskCallback: () => ({ identity, psk: Buffer.from(key, 'hex') }),
})

/** Undefined: in the clear. All of them must learn nothing; the last has a good certificate and may open nothing here. */
const strangers: readonly [string, ConnectionOptions | undefined, 'heard'?][] = [
  ['in the clear', undefined, 'heard'],
  ['no certificate', {}],
  ["another authority's certificate", own(certificateAuthority().issue({ commonName: 'admin' }))],
  [
    'an expired certificate',
    own(ca.issue({ commonName: 'admin', from: new Date(0), to: new Date(now.getTime() - day) })),
  ],
  ['a revoked certificate', own(revoked)],
  ['a wrong shared key', psk('admin', 'bb'.repeat(32))],
  ['an unknown shared key', psk('root', 'aa'.repeat(32))],
  ["a certificate for others' exports", own(mallory), 'heard'],
]

function everyMessage(names: readonly string[]): Buffer[] {
  const messages: Buffer[] = []
  for (const name of names)
    for (const option of [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 99, 0xffffffff])
      for (const payload of [
        Buffer.alloc(0),
        Buffer.from(name),
        O.encodeGo(name, [0, 1, 2, 3]),
        O.encodeMetaQueries(name, ['base:allocation', 'qemu:', '']),
      ])
        messages.push(O.encodeOption(option, payload))
  for (const mode of ['simple', 'extended'] as const)
    for (let type = 0; type < 9; type++) {
      const request = Buffer.alloc(requestHeaderBytes(mode))
      putRequest(mode, request, 0, { ...emptyRequest(), type, length: 512 })
      messages.push(request)
    }
  return messages
}

/** What of the exports is in these bytes: their names, their size, or their contents. */
function disclosed(heard: Buffer): string[] {
  const size = Buffer.alloc(8)
  size.writeBigUInt64BE(BigInt(SIZE))
  const found: string[] = NAMES.filter(name => heard.includes(name))
  if (heard.includes(size)) found.push('the size')
  if (heard.includes('quarterly')) found.push('a description')
  if (heard.includes(content.subarray(0, 16))) found.push('contents')
  return found
}

test('R18: strangers try every option and command, and learn neither a byte nor a name', async t => {
  const given = await credentialFolder(join(folder, 'tls'), credentials)
  const tls = await readServerTls({ folder: given, verify: true, now })
  const path = join(folder, 'r18.sock')
  const exports = NAMES.map(name => ({
    name,
    path: `web1/${name}`,
    description: 'quarterly figures',
    device: memoryDevice(Buffer.from(content)),
    readOnly: false,
  }))
  await using running = await serveNbd({ exports, listen: { socket: path }, clock: systemClock, tls })
  const all = everyMessage([...NAMES, '', 'nothing', '*', 'web1/payroll-disk'])
  // Each of them costs a handshake where it ends with the first message.
  const few = everyMessage([NAMES[0]])
  let total = 0
  for (const [who, options, heard] of strangers) {
    const messages = heard ? all : few
    let bytes = 0
    let tried = 0
    let connections = 0
    while (tried < messages.length) {
      connections++
      await using client = await RawNbdClient.open(path)
      if (options !== undefined) await client.startTls(options).catch(() => {})
      let open = true
      void client.closed.then(() => {
        open = false
      })
      // Each message is answered or ends the connection; the next one then tries on a new one.
      do {
        const before = client.unread
        client.write(messages[tried++]!)
        while (open && client.unread === before) await new Promise(setImmediate)
      } while (open && tried < messages.length)
      const answers = client.unread > 0 ? await client.read(client.unread) : Buffer.alloc(0)
      bytes += answers.length
      assert.deepEqual(disclosed(answers), [], who)
    }
    total += tried
    t.diagnostic(
      `${who}: ${tried} messages on ${connections} connections, ${bytes} bytes of refusals, 0 disclosed, 0 exports`,
    )
    assert.equal(running.connectionCount, 0, who)
  }
  t.diagnostic(`${total} messages in all; disclosed bytes 0; exports that could be listed 0 of ${NAMES.length}`)
  assert.ok(total === 2 * all.length + (strangers.length - 2) * few.length)
  // The same questions by somebody who may ask them: the test would see what it looks for.
  await using admin = await RawNbdClient.open(path)
  await admin.startTls(psk('admin', 'aa'.repeat(32)))
  const told = await admin.option(C.NBD_OPT_LIST)
  const info = await admin.option(C.NBD_OPT_INFO, O.encodeGo(NAMES[0], [2]))
  const heard = Buffer.concat([...told, ...info].map(({ payload }) => payload))
  assert.deepEqual(disclosed(heard).sort(), [...NAMES, 'a description', 'the size'].sort())
})

test('R18: a name that is forbidden takes the same way through the server as one that does not exist', async t => {
  const given = await credentialFolder(join(folder, 'alike'), credentials)
  const tls = await readServerTls({ folder: given, verify: true, now })
  const looked: string[] = []
  const watched = { ...tls, permissions: { allows: (_: readonly string[], path: string) => looked.push(path) < 0 } }
  const path = join(folder, 'alike.sock')
  const device = memoryDevice(Buffer.alloc(4096))
  const exports = NAMES.map(name => ({ name, device, readOnly: true }))
  await using _running = await serveNbd({ exports, listen: { socket: path }, clock: systemClock, tls: watched })
  await using client = await RawNbdClient.open(path)
  await client.startTls(own(mallory))
  const took = new Map<string, number[]>(['nothing', NAMES[0], NAMES[1]].map(name => [name, []]))
  const seen = new Set<string>()
  for (let i = 0; i < 60; i++)
    for (const [name, times] of took) {
      looked.length = 0
      const start = process.hrtime.bigint()
      const [reply] = await client.option(C.NBD_OPT_INFO, O.encodeGo(name, []))
      times.push(Number(process.hrtime.bigint() - start) / 1000)
      seen.add(`${looked.join()} ${reply?.type} ${reply?.payload.toString()}`)
    }
  assert.deepEqual([...seen], [`${NAMES.join()} ${C.NBD_REP_ERR_UNKNOWN} no such export`])
  for (const [name, times] of took) {
    times.sort((a, b) => a - b)
    t.diagnostic(`${name}: median ${Math.round(times[times.length >> 1] ?? 0)} us`)
  }
})
