import assert from 'node:assert/strict'
import { test } from 'node:test'
import { limits } from '../../../src/core/limits.ts'
import { BytesInFlight, ConnectionBytes } from '../../../src/nbd/bytes-in-flight.ts'
import { BufferPool, ReplyWriter } from '../../../src/nbd/reply-writer.ts'

/** A socket whose client takes what was written when it is told to, and the memory that its replies lie in. */
function slowClient() {
  const written: { readonly bytes: Uint8Array; readonly taken: () => void }[] = []
  const socket = {
    write: (bytes: Uint8Array, taken: () => void) => void written.push({ bytes, taken }),
    cork() {},
    uncork() {},
  }
  const bytes = new ConnectionBytes(new BytesInFlight())
  const writer = new ReplyWriter(socket, new BufferPool(), bytes, () => {})
  const turn = (value: number) => {
    const length = 1024
    writer.reserve(length).fill(value, writer.position(length), writer.position(length) + length)
    writer.flush()
  }
  const buffers = () => new Set(written.map(one => one.bytes.buffer)).size
  return { written, turn, buffers }
}

test('replies of many turns that a slow client has not taken lie in one buffer, one after the other', () => {
  const { written, turn, buffers } = slowClient()
  for (let i = 0; i < 200; i++) turn(i)
  assert.equal(buffers(), 1)
  assert.deepEqual(
    written.map(({ bytes }) => bytes[0]),
    Array.from({ length: 200 }, (_, i) => i),
  )
  assert.ok(written.every(({ bytes }) => bytes.every(byte => byte === bytes[0])))
})

test('a buffer is used again when the client has everything in it, and not before', () => {
  const { written, turn, buffers } = slowClient()
  const inOneBuffer = limits.nbdOutputBytes / 1024
  for (let i = 0; i < 3 * inOneBuffer; i++) turn(i % 256)
  assert.equal(buffers(), 3)
  assert.ok(written.every(({ bytes }, i) => bytes.every(byte => byte === i % 256)))
  for (const { taken } of written.splice(0, inOneBuffer)) taken()
  const held = new Set(written.map(one => one.bytes.buffer))
  turn(1)
  assert.ok(!held.has(written.at(-1)!.bytes.buffer))
  for (const { taken } of written.splice(0)) taken()
  turn(2)
  assert.ok(written.every(({ bytes }) => bytes.every(byte => byte === 2)))
})
