/** The structures of linux/fuse.h, by their offsets there. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LifeboatError } from '../../../src/core/errors.ts'
import type { Attributes } from '../../../src/files/file-tree.ts'
import * as C from '../../../src/fuse/constants.ts'
import { errnoOf } from '../../../src/fuse/errno.ts'
import * as wire from '../../../src/fuse/wire.ts'

const attributes: Attributes = {
  kind: 'block-device',
  inode: 7n,
  size: 2 ** 52 + 1,
  allocated: 513,
  permissions: 0o4755,
  links: 3,
  uid: 4_000_000_000,
  gid: 5,
  device: { major: 259, minor: 70_000 },
  modifiedNs: 1_234_567_890_123_456_789n,
  changedNs: -1n,
  accessedNs: 0n,
  bornNs: -1_500_000_000n,
}

const dirty = () => Buffer.alloc(512, 0xee)
const viewOf = (bytes: Buffer) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length)

test('attributes lie where the kernel looks for them, also sizes above 4 GiB, high ids and times before 1970', () => {
  const out = dirty()
  assert.equal(wire.encodeAttrOut(viewOf(out), 0, 2 ** 40 + 3, attributes, 9), 104)
  assert.equal(out.readBigUInt64LE(0), 9n)
  assert.equal(out.readUInt32LE(8), 0)
  const at = 16
  assert.equal(out.readBigUInt64LE(at), 2n ** 40n + 3n)
  assert.equal(out.readBigUInt64LE(at + 8), 2n ** 52n + 1n)
  assert.equal(out.readBigUInt64LE(at + 16), 2n)
  assert.deepEqual([out.readBigInt64LE(at + 24), out.readUInt32LE(at + 48)], [0n, 0])
  assert.deepEqual([out.readBigInt64LE(at + 32), out.readUInt32LE(at + 52)], [1_234_567_890n, 123_456_789])
  assert.deepEqual([out.readBigInt64LE(at + 40), out.readUInt32LE(at + 56)], [-1n, 999_999_999])
  assert.equal(out.readUInt32LE(at + 60), 0o064755)
  assert.deepEqual(
    [out.readUInt32LE(at + 64), out.readUInt32LE(at + 68), out.readUInt32LE(at + 72)],
    [3, 4_000_000_000, 5],
  )
  // new_encode_dev(259, 70000): minor in the bits 0-7 and 20-31, major in 8-19.
  assert.equal(out.readUInt32LE(at + 76), (70_000 & 0xff) | (259 << 8) | ((70_000 & ~0xff) << 12))
  assert.equal(out.readUInt32LE(at + 80), 4096)
  assert.equal(out[104], 0xee)
})

test('an entry is its id, its validity, and the same attributes', () => {
  const out = dirty()
  const length = wire.encodeEntry(viewOf(out), 0, 11, 12, attributes, { entry: 3600, attributes: 60 })
  assert.equal(length, C.ENTRY_OUT_BYTES)
  assert.deepEqual(
    [0, 8, 16, 24, 32, 40].map(at => Number(out.readBigUInt64LE(at))),
    [11, 0, 3600, 60, 0, 12],
  )
  assert.equal(out.readUInt32LE(40 + 60), 0o064755)
})

test('STATX tells when the file was born, and says so only of files of which that is known', () => {
  const out = dirty()
  assert.equal(wire.encodeStatx(viewOf(out), 0, 12, attributes, 60), 288)
  const stat = 32
  assert.equal(out.readUInt32LE(stat), 0xfff)
  assert.equal(out.readUInt16LE(stat + 28), 0o064755)
  assert.equal(out.readBigUInt64LE(stat + 32), 12n)
  assert.deepEqual([out.readBigInt64LE(stat + 80), out.readUInt32LE(stat + 88)], [-2n, 500_000_000])
  assert.deepEqual([out.readUInt32LE(stat + 128), out.readUInt32LE(stat + 132)], [259, 70_000])
  const { bornNs, ...unborn } = attributes
  wire.encodeStatx(viewOf(out), 0, 12, unborn, 60)
  assert.equal(out.readUInt32LE(stat), 0x7ff)
})

test('names in a listing are padded to eight bytes with zeros, and say where to go on', () => {
  const out = dirty()
  const name = Buffer.from('ninechars')
  const length = wire.encodeDirent(out, viewOf(out), 0, { name, inode: 5, kind: 'symlink', next: 77 })
  assert.equal(length, 40)
  assert.equal(wire.direntBytes(name), 40)
  assert.deepEqual([Number(out.readBigUInt64LE(0)), Number(out.readBigUInt64LE(8))], [5, 77])
  assert.deepEqual([out.readUInt32LE(16), out.readUInt32LE(20)], [9, 10])
  assert.equal(out.toString('latin1', 24, 40), `ninechars${'\0'.repeat(7)}`)
  assert.equal(out[40], 0xee)
})

test('a message whose length is not its own is no request, and a name without an end stops with the message', () => {
  const bytes = Buffer.alloc(48)
  bytes.writeUInt32LE(48, 0)
  bytes.write('name', 40)
  const header = { opcode: 0, unique: 0, nodeId: 0 }
  assert.equal(wire.parseHeader(viewOf(bytes), 47, header), false)
  assert.equal(wire.parseHeader(viewOf(bytes), 48, header), true)
  assert.equal(`${Buffer.from(wire.nameAt(bytes, 40, 44))}`, 'name')
  assert.equal(`${Buffer.from(wire.nameAt(Buffer.alloc(48, 'x'), 40, 43))}`, 'xxx')
})

test('what a tree fails with becomes an errno, and what is not known is EIO', () => {
  const system = (code: string) => Object.assign(new Error(code), { code })
  const cases: readonly (readonly [unknown, number])[] = [
    [new LifeboatError('store-unreachable', 'x', { retry: 'transient' }), 5],
    [new LifeboatError('corrupt-object', 'x'), 5],
    [new LifeboatError('no-such-point', 'x'), 2],
    [new LifeboatError('point-forgotten', 'x'), 116],
    [new RangeError('x'), 22],
    [new DOMException('x', 'AbortError'), 4],
    [system('ENOENT'), 2],
    [system('ECONNRESET'), 5],
    [new TypeError('x'), 5],
    ['text', 5],
  ]
  for (const [error, errno] of cases) assert.equal(errnoOf(error), errno, `${error}`)
})
