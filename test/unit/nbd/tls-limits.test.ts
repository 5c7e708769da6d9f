/** The limits hold inside TLS as they do outside: time, connections, memory, descriptors, and memory that was lent. */
import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import type { BlockReader } from '../../../src/block/block-device.ts'
import { memoryDevice } from '../../../src/block/memory.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { KiB, MiB } from '../../../src/core/limits.ts'
import * as C from '../../../src/nbd/constants.ts'
import { encodeOption } from '../../../src/nbd/option-codec.ts'
import { type NbdServer, type ServeNbdOptions, serveNbd } from '../../../src/nbd/server.ts'
import { readServerTls } from '../../../src/nbd/tls-folder.ts'
import { certificateAuthority, credentialFolder } from '../../doubles/certificates.ts'
import { endlessDevice } from '../../doubles/endless-device.ts'
import { freshSockets } from '../../doubles/fresh-sockets.ts'
import { manualClock } from '../../doubles/manual-clock.ts'
import { patternBytes } from '../../doubles/pattern.ts'
import { RawNbdClient } from '../../doubles/raw-nbd-client.ts'
import { until } from '../../doubles/until.ts'

const { folder, freshSocket } = await freshSockets()
const server = certificateAuthority().issue({ commonName: 'server', names: ['DNS:localhost'] })
const credentials = await credentialFolder(join(folder, 'tls'), { server })
const tls = await readServerTls({ folder: credentials, verify: false, now: new Date() })

async function serve(
  device: BlockReader,
  options: Partial<ServeNbdOptions> = {},
): Promise<NbdServer & { path: string; log: string[] }> {
  const path = freshSocket()
  const log: string[] = []
  const exports = [{ name: 'disk', device, readOnly: true }]
  const listen = { socket: path }
  const running = await serveNbd({ exports, listen, clock: systemClock, tls, log: line => log.push(line), ...options })
  return Object.assign(running, { path, log })
}

const descriptors = async () => (await readdir('/proc/self/fd')).length

test('clients that stop before, in and after the handshake of TLS are held while a good one is served, and dropped at the deadline', async () => {
  const clock = manualClock()
  const bytes = patternBytes(MiB)
  const before = await descriptors()
  {
    await using running = await serve(memoryDevice(bytes), { clock })
    const silent = await Promise.all(
      Array.from({ length: 150 }, async (_, i) => {
        const client = await RawNbdClient.open(running.path)
        if (i % 3 === 0) return client
        if (i % 3 === 1) await client.option(C.NBD_OPT_STARTTLS)
        else await client.startTls()
        // The first bytes of a handshake that never goes on.
        if (i % 6 === 1) client.write(Buffer.from([0x16, 3, 1, 2, 0, 1]))
        return client
      }),
    )
    await until(() => running.halfOpenCount === 150)
    await using good = await RawNbdClient.go(running.path, 'disk', 'simple', [], {})
    for (let i = 0; i < 50; i++) {
      good.request(C.NBD_CMD_READ, i, 4096)
      assert.ok((await good.reply(4096)).payload.equals(bytes.subarray(i, i + 4096)))
    }
    await clock.advance(9_000)
    assert.equal(running.halfOpenCount, 150)
    await clock.advance(1_000)
    await Promise.all(silent.map(client => client.closed))
    assert.deepEqual([running.halfOpenCount, running.connectionCount], [0, 1])
    assert.ok(running.log.length < 100, 'the log was not flooded')
    good.request(C.NBD_CMD_READ, 0, 1)
    assert.equal((await good.reply(1)).error, 0)
  }
  // Descriptors are given back; if they never are, the test's own limit ends it.
  while ((await descriptors()) > before + 2) await new Promise(resolve => setTimeout(resolve, 10))
})

test('clients inside TLS that pipeline large reads and never take a reply cost bounded memory and block nobody', async t => {
  const clock = manualClock()
  await using running = await serve(endlessDevice(), { clock })
  for (const mode of ['simple', 'extended'] as const) {
    globalThis.gc?.()
    const before = process.memoryUsage().rss
    let most = 0
    const clients = await Promise.all(
      Array.from({ length: 8 }, () => RawNbdClient.go(running.path, 'disk', mode, [], {})),
    )
    await using stack = new AsyncDisposableStack()
    for (const client of clients) stack.use(client)
    for (const client of clients) {
      client.socket.pause()
      // The largest read that is served, which must be in memory as a whole in simple replies.
      for (let i = 0; i < 32; i++) client.request(C.NBD_CMD_READ, i * 64 * MiB, 64 * MiB, 0, i)
      for (let i = 0; i < 2000; i++) client.request(C.NBD_CMD_READ, i, 16 * KiB, 0, i)
    }
    for (let i = 0; i < 40; i++) {
      most = Math.max(most, process.memoryUsage().rss)
      await new Promise(resolve => setTimeout(resolve, 10))
    }
    t.diagnostic(`${mode}: grew by ${Math.round((most - before) / MiB)} MiB`)
    assert.ok(most - before < 128 * MiB, `${mode}: grew by ${(most - before) / MiB} MiB`)
    await using good = await RawNbdClient.go(running.path, 'disk', mode, [], {})
    for (let i = 0; i < 20; i++) {
      good.request(C.NBD_CMD_READ, 0, 128 * KiB, C.NBD_CMD_FLAG_DF * Number(mode !== 'simple'), i)
      await (mode === 'simple' ? good.reply(128 * KiB) : good.reply())
    }
    while (running.connectionCount > 1) await clock.advance(2_000)
    good.request(C.NBD_CMD_READ, 0, 32 * MiB, 0, 1)
    if (mode === 'simple') await good.reply(32 * MiB)
    else await good.chunks()
  }
})

test('memory that was lent comes back once, from clients that vanish inside TLS, and from those that hang up politely', async () => {
  const bytes = patternBytes(8 * MiB)
  let lent = 0
  const lending: BlockReader = {
    ...memoryDevice(bytes),
    borrow: (offset, length) => {
      lent++
      let released = false
      return {
        views: [bytes.subarray(offset, offset + length)],
        release: () => {
          assert.ok(!released, 'released once')
          released = true
          lent--
        },
      }
    },
  }
  await using running = await serve(lending)
  for (const way of ['vanish', 'hang up', 'read all'] as const) {
    const client = await RawNbdClient.go(running.path, 'disk', 'structured', [], {})
    if (way !== 'read all') client.socket.pause()
    for (let i = 0; i < 20; i++) client.request(C.NBD_CMD_READ, 0, 4 * MiB, C.NBD_CMD_FLAG_DF, i)
    client.request(C.NBD_CMD_DISC, 0, 0)
    if (way === 'read all') {
      for (let i = 0; i < 20; i++)
        assert.ok((await client.reply()).payload.subarray(8).equals(bytes.subarray(0, 4 * MiB)))
      await client.closed
    } else {
      await until(() => lent > 0)
      if (way === 'vanish') client.socket.destroy()
      else client.socket.end()
    }
    if (way === 'hang up') setTimeout(() => client.socket.destroy(), 50)
    await until(() => running.connectionCount === 0 && lent === 0)
  }
})

test('a handshake of TLS that is garbage ends its connection only, whatever comes how', async () => {
  await using running = await serve(memoryDevice(Buffer.alloc(4096)))
  for (const garbage of [
    Buffer.alloc(1),
    Buffer.alloc(70_000, 0x16),
    Buffer.from('GET / HTTP/1.0\r\n\r\n'),
    encodeOption(1, Buffer.alloc(9)),
  ]) {
    await using client = await RawNbdClient.open(running.path)
    await client.option(C.NBD_OPT_STARTTLS)
    client.write(garbage)
    client.socket.end()
    await client.closed
  }
  await until(() => running.halfOpenCount === 0)
  assert.ok(!running.log.some(line => line.includes('internal error')), running.log.join('\n'))
  await using good = await RawNbdClient.go(running.path, 'disk', 'simple', [], {})
  good.request(C.NBD_CMD_READ, 0, 1)
  assert.equal((await good.reply(1)).error, 0)
})
