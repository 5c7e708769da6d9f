/** Small writes that arrive together: the device gets them in one call, or each by itself where it will not do it at once. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { BlockDevice, PlacedBytes } from '../../../src/block/block-device.ts'
import { memoryDevice } from '../../../src/block/memory.ts'
import { systemClock } from '../../../src/core/clock.ts'
import * as C from '../../../src/nbd/constants.ts'
import { serveNbd } from '../../../src/nbd/server.ts'
import type { HeaderMode } from '../../../src/nbd/wire.ts'
import { freshSockets } from '../../doubles/fresh-sockets.ts'
import { errorOf, RawNbdClient } from '../../doubles/raw-nbd-client.ts'

const { freshSocket } = await freshSockets()
const BLOCK = 4096
const BLOCKS = 64

/** Writes at once while `ready`; `write` takes a turn before it looks at its bytes. */
function turnDevice(contents: Buffer) {
  const inner = memoryDevice(contents)
  const seen = { ready: true, batches: [] as number[], single: 0 }
  const device: BlockDevice = {
    ...inner,
    writeNow: (writes: readonly PlacedBytes[]) => {
      seen.batches.push(writes.length)
      if (seen.ready) for (const { bytes, offset } of writes) contents.set(bytes, offset)
      return seen.ready
    },
    write: async (bytes, offset, options) => {
      await new Promise(resolve => setImmediate(resolve))
      seen.single++
      await inner.write(bytes, offset, options)
    },
  }
  return { device, seen }
}

async function connected(device: BlockDevice, mode: HeaderMode) {
  const path = freshSocket()
  const server = await serveNbd({
    exports: [{ name: 'disk', readOnly: false, device }],
    listen: { socket: path },
    clock: systemClock,
  })
  return { server, client: await RawNbdClient.go(path, 'disk', mode) }
}

for (const mode of ['simple', 'structured', 'extended'] as const)
  for (const ready of [true, false])
    test(`writes of one turn are ${ready ? 'one call of the device' : 'kept until the device has them'} (${mode})`, async () => {
      const contents = Buffer.alloc(BLOCKS * BLOCK)
      const { device, seen } = turnDevice(contents)
      seen.ready = ready
      const { server, client } = await connected(device, mode)
      await using _ = server
      await using __ = client
      client.socket.cork()
      for (let n = 0; n < BLOCKS; n++)
        client.request(C.NBD_CMD_WRITE, n * BLOCK, BLOCK, 0, n, Buffer.alloc(BLOCK, n + 1))
      client.socket.uncork()
      const cookies = new Set<number>()
      for (let n = 0; n < BLOCKS; n++) {
        const reply = await client.reply()
        assert.equal(errorOf(reply), 0)
        cookies.add(reply.cookieLo)
      }
      assert.equal(cookies.size, BLOCKS)
      for (let n = 0; n < BLOCKS; n++)
        assert.ok(contents.subarray(n * BLOCK, (n + 1) * BLOCK).every(byte => byte === n + 1))
      assert.equal(
        seen.batches.reduce((sum, length) => sum + length, 0),
        BLOCKS,
      )
      assert.equal(seen.single, ready ? 0 : BLOCKS)
      assert.ok(seen.batches.some(length => length > 1))
    })

test('a write that is cut off by the end of what was read is gathered when the rest has come', async () => {
  const contents = Buffer.alloc(BLOCKS * BLOCK)
  const { device, seen } = turnDevice(contents)
  const { server, client } = await connected(device, 'simple')
  await using _ = server
  await using __ = client
  client.request(C.NBD_CMD_WRITE, 0, 2 * BLOCK, 0, 1, Buffer.alloc(BLOCK, 1))
  await new Promise(resolve => setTimeout(resolve, 20))
  client.write(Buffer.alloc(BLOCK, 2))
  assert.equal((await client.reply()).error, 0)
  assert.equal(contents[BLOCK - 1], 1)
  assert.equal(contents[BLOCK], 2)
  assert.deepEqual(seen, { ready: true, batches: [1], single: 0 })
})

test('a write that wants durability, is large, or is refused, goes its own way', async () => {
  const contents = Buffer.alloc(BLOCKS * BLOCK)
  const { device, seen } = turnDevice(contents)
  const { server, client } = await connected(device, 'simple')
  await using _ = server
  await using __ = client
  client.request(C.NBD_CMD_WRITE, 0, BLOCK, C.NBD_CMD_FLAG_FUA, 1, Buffer.alloc(BLOCK, 1))
  assert.equal((await client.reply()).error, 0)
  client.request(C.NBD_CMD_WRITE, 0, 16 * BLOCK, 0, 2, Buffer.alloc(16 * BLOCK, 2))
  assert.equal((await client.reply()).error, 0)
  client.request(C.NBD_CMD_WRITE, (BLOCKS - 1) * BLOCK, 2 * BLOCK, 0, 3, Buffer.alloc(2 * BLOCK, 3))
  assert.equal((await client.reply()).error, C.NBD_ENOSPC)
  assert.deepEqual(seen, { ready: true, batches: [], single: 2 })
  assert.equal(contents[0], 2)
})
