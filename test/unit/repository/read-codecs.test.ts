import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isIntegrityError, isLifeboatError } from '../../../src/core/errors.ts'
import { domainId, hex, leaseId, packId, pointId } from '../../../src/core/ids.ts'
import { limits, MiB } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { nodeId } from '../../../src/crypto/ids.ts'
import { ByteCursor, pushVarint } from '../../../src/repository/byte-cursor.ts'
import { encodeManifest, parseManifest } from '../../../src/repository/manifest-codec.ts'
import { contentOf, encodeNode, parseNode, topRoot } from '../../../src/repository/node-codec.ts'
import { planRuns } from '../../../src/repository/record-runs.ts'
import type { ChunkRef, Manifest } from '../../../src/repository/repository.ts'
import { treeGeometry, usedAt, widthAt } from '../../../src/repository/tree-geometry.ts'

const seed = 20261121
const TiB = 2 ** 40
const refused = (work: () => unknown) => assert.throws(work, error => isIntegrityError(error))

const refs = (width: number, chunkSize: number): fc.Arbitrary<(ChunkRef | undefined)[]> =>
  fc.array(
    fc.option(
      fc.record({
        id: fc.uint8Array({ minLength: 32, maxLength: 32 }),
        pack: fc.integer({ min: 0, max: 5 }).map(n => packId(n.toString(16).padStart(32, '0'))),
        slot: fc.integer({ min: 0, max: limits.packSlotsMax - 1 }),
        offset: fc.integer({ min: 0, max: limits.packObjectMax - chunkSize - 20 }),
        length: fc.integer({ min: 21, max: chunkSize + 20 }),
      }),
      { nil: undefined },
    ),
    { minLength: width, maxLength: width },
  )

test('the shape of a tree follows from the size of the disk alone', () => {
  assert.deepEqual(treeGeometry(0, 65_536).nodes, [0])
  assert.deepEqual(treeGeometry(1, 65_536), {
    size: 1,
    chunkSize: 65_536,
    chunks: 1,
    nodes: [1],
    topLevel: 0,
    topWidth: 1,
  })
  assert.deepEqual(treeGeometry(16 * 2 ** 30, 65_536).nodes, [4096])
  assert.deepEqual(treeGeometry(16 * 2 ** 30 + 1, 65_536).nodes, [4097, 17])
  assert.deepEqual(treeGeometry(10 * TiB, 65_536).nodes, [2_621_440, 10_240, 40])
  assert.equal(treeGeometry(64 * TiB, 65_536).topLevel, 2)
  const tree = treeGeometry(16 * 2 ** 30 + 1, 65_536)
  assert.deepEqual(
    [0, 1, 2].map(level => widthAt(tree, level)),
    [64, 256, 17],
  )
  assert.equal(usedAt(tree, 0, 4096), 1)
  assert.equal(usedAt(tree, 1, 16), 1)
  for (const size of [-1, 0.5, 2 ** 53, Number.NaN]) refused(() => treeGeometry(size, 65_536))
  for (const chunkSize of [0, 2048, 65_537, 8 * MiB, Number.NaN]) refused(() => treeGeometry(1, chunkSize))
})

test('nodes come back as they were written', () => {
  const tree = treeGeometry(64 * 65_536, 65_536)
  fc.assert(
    fc.property(refs(64, 65_536), entries => {
      const node = parseNode(encodeNode(0, entries), tree, 0, 0)
      assert.deepEqual(
        node.refs().map(ref => ref && { ...ref, id: hex(ref.id) }),
        entries.map(ref => ref && { ...ref, id: hex(ref.id) }),
      )
      const content = contentOf(0, 65_536, entries)
      const key = new Uint8Array(32)
      assert.deepEqual(nodeId(key, node), nodeId(key, content))
      assert.equal(node.ref(64), undefined)
      assert.equal(node.has(-1), false)
    }),
    { seed, numRuns: 100 },
  )
})

test('a node`s id covers contents and never places', () => {
  const random = seededRandom('places')
  const entry = (pack: string): ChunkRef => ({
    id: random(32),
    pack: packId(pack.repeat(32)),
    slot: 1,
    offset: 2,
    length: 300,
  })
  const one = [entry('a'), undefined, entry('a')]
  const moved = one.map(ref => ref && { ...ref, pack: packId('b'.repeat(32)), slot: 9, offset: 77 })
  const key = random(32)
  assert.deepEqual(nodeId(key, contentOf(1, 4096, one)), nodeId(key, contentOf(1, 4096, moved)))
  assert.notDeepEqual(nodeId(key, contentOf(1, 4096, one)), nodeId(key, contentOf(2, 4096, one)))
  assert.notDeepEqual(nodeId(key, contentOf(1, 4096, one)), nodeId(key, contentOf(1, 8192, one)))
  const tree = treeGeometry(3 * 64 * 4096, 4096)
  assert.notDeepEqual(
    topRoot(random(16), tree, contentOf(1, 4096, one)),
    topRoot(random(16), tree, contentOf(1, 4096, one)),
  )
})

test('consecutive records of one pack become one run', () => {
  const random = seededRandom('runs')
  const pack = packId('a'.repeat(32))
  const run = Array.from({ length: 64 }, (_, n) => ({ id: random(32), pack, slot: n, offset: n * 1000, length: 1000 }))
  // Header, bitmap, one pack, ids, then count, pack, slot, offset in a byte each and two bytes for each length.
  assert.equal(encodeNode(0, run).length, 12 + 8 + 16 + 64 * 32 + 4 + 64 * 2)
})

test('nodes with absurd numbers are refused', () => {
  const random = seededRandom('absurd')
  const tree = treeGeometry(10 * 4096, 4096)
  const pack = packId('a'.repeat(32))
  const entry = (more: Partial<ChunkRef> = {}): ChunkRef => ({
    id: random(32),
    pack,
    slot: 3,
    offset: 5,
    length: 300,
    ...more,
  })
  const leaf = (entries: (ChunkRef | undefined)[]) => {
    const all = new Array<ChunkRef | undefined>(64).fill(undefined)
    entries.forEach((ref, n) => {
      all[n] = ref
    })
    return encodeNode(0, all)
  }
  const good = leaf([entry(), undefined, entry({ slot: 4, offset: 305 })])
  assert.equal(parseNode(good, tree, 0, 0).present, 2)
  const patched = (at: number, ...bytes: number[]) => {
    const copy = good.slice()
    copy.set(bytes, at)
    return copy
  }
  const parse = (bytes: Uint8Array) => () => parseNode(bytes, tree, 0, 0)
  refused(parse(patched(0, 2)))
  refused(parse(patched(1, 1)))
  refused(parse(patched(2, 0xff, 0xff)))
  refused(parse(patched(4, 0xff, 0xff, 0xff, 0xff)))
  refused(parse(patched(8, 0xff, 0xff, 0xff, 0xff)))
  refused(parse(patched(12, 0b1111)))
  refused(parse(patched(12, 0b1)))
  refused(parse(Buffer.concat([good, new Uint8Array(1)])))
  for (let length = 0; length < good.length; length++) refused(parse(good.slice(0, length)))
  // Past the end of the disk, which has ten chunks.
  refused(parse(leaf([...new Array<undefined>(10).fill(undefined), entry()])))
  refused(parse(leaf([entry({ slot: limits.packSlotsMax })])))
  refused(parse(leaf([entry({ length: 4096 + 21 })])))
  refused(parse(leaf([entry({ length: 20 })])))
  refused(parse(leaf([entry({ offset: limits.packObjectMax })])))
  refused(parse(leaf([entry({ offset: 2 ** 52 })])))
  // Another width than the disk has.
  refused(() => parseNode(good, treeGeometry(10 * 64 * 4096, 4096), 1, 0))
})

test('random bytes and random changes never give anything but a refusal or a node within its bounds', () => {
  const tree = treeGeometry(64 * 4096, 4096)
  const check = (bytes: Uint8Array) => {
    try {
      const node = parseNode(bytes, tree, 0, 0)
      for (const ref of node.refs())
        if (ref)
          assert.ok(
            ref.slot < limits.packSlotsMax && ref.offset + ref.length <= limits.packObjectMax && ref.length <= 4116,
          )
    } catch (error) {
      assert.ok(isIntegrityError(error), String(error))
    }
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 3000 }), check), { seed, numRuns: 300 })
  const change = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 8 })
  fc.assert(
    fc.property(refs(64, 4096), change, (entries, changes) => {
      const bytes = encodeNode(0, entries)
      for (const [at, value] of changes) bytes[at % bytes.length] = value
      check(bytes)
    }),
    { seed, numRuns: 300 },
  )
})

test('numbers are below 2^53, in their shortest form, and end within the bytes', () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), value => {
      const bytes: number[] = []
      pushVarint(bytes, value)
      assert.ok(bytes.length <= 8)
      assert.equal(new ByteCursor(Uint8Array.from(bytes), 'x').varint(), value)
    }),
    { seed },
  )
  for (const bytes of [[], [0x80], [0x80, 0], new Array(8).fill(0xff), [...new Array(7).fill(0xff), 0x10]])
    refused(() => new ByteCursor(Uint8Array.from(bytes), 'x').varint())
})

const manifest = (): Manifest => ({
  point: pointId('0011223344556677'),
  vm: 'web1',
  takenAt: new Date('2026-11-21T10:00:00.123Z'),
  sequence: 2,
  previous: { point: pointId('0011223344556676'), digest: 'ab'.repeat(32) },
  kind: 'incremental',
  consistency: 'crash',
  lease: leaseId('aa11223344556677'),
  domain: domainId('bb11223344556677'),
  host: 'h',
  description: { memory: 512, nested: { list: [1] } },
  firmwareVariables: Uint8Array.of(1, 2, 3),
  disks: ['vda', 'vdb'].map(name => ({
    name,
    size: 1 << 20,
    chunkSize: 65_536,
    level: 0,
    salt: 'cd'.repeat(16),
    root: 'ef'.repeat(32),
    top: new TextEncoder().encode(`top of ${name}`),
    base: pointId('0011223344556676'),
    reason: 'disk-resized',
    bytesRead: 1,
    bytesChanged: 2,
    bytesNew: 3,
    bytesStored: 4,
    bytesAudited: 5,
    description: { bus: 'virtio' },
  })),
  omitted: [{ name: 'cd0', reason: 'removable' }],
})

test('a manifest comes back as it was written, with what a later version may add ignored', () => {
  const parsed = parseManifest(encodeManifest(manifest()), 'm')
  const plain = (value: Manifest) => ({
    ...value,
    firmwareVariables: [...(value.firmwareVariables ?? [])],
    disks: value.disks.map(disk => ({ ...disk, top: [...disk.top] })),
  })
  assert.deepEqual(plain(parsed), plain(manifest()))
  const bare = parseManifest(
    edited(json => ({ ...json, previous: undefined, firmwareVariables: undefined, later: 1 })),
    'm',
  )
  assert.equal('previous' in bare || 'firmwareVariables' in bare, false)
})

type Json = Record<string, unknown>

function edited(edit: (json: Json) => unknown, jsonLength?: number): Uint8Array {
  const bytes = encodeManifest(manifest())
  const length = new DataView(bytes.buffer).getUint32(0)
  const json = edit(JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length))))
  const text = new TextEncoder().encode(JSON.stringify(json))
  const out = Buffer.concat([new Uint8Array(4), text, bytes.subarray(4 + length)])
  out.writeUInt32BE(jsonLength ?? text.length)
  return out
}

test('a manifest with absurd sizes, counts, offsets or members is refused before anything is allocated for it', () => {
  const disk = (change: Json) => edited(json => ({ ...json, disks: [{ ...(json.disks as Json[])[0], ...change }] }))
  const parse = (bytes: Uint8Array) => () => parseManifest(bytes, 'points/m')
  assert.equal(parseManifest(disk({}), 'm').disks.length, 1)
  const changes: Json[] = [
    { size: 2 ** 56 },
    { size: -1 },
    { size: 1.5 },
    { size: '1' },
    { size: 2 ** 52 },
    { chunkSize: 1000 },
    { chunkSize: 8 * MiB },
    { level: 1 },
    { level: 99 },
    { name: '' },
    { name: 'x'.repeat(300) },
    { salt: 'zz' },
    { root: 'ab' },
    { top: [0, 2 ** 40] },
    { top: [2 ** 53 - 1, 2 ** 53 - 1] },
    { top: [-1, 1] },
    { top: [0] },
    { top: [0, 1, 2] },
    { top: undefined },
    { description: [] },
    { bytesRead: -1 },
    { base: 'nonsense' },
  ]
  for (const change of changes) assert.throws(parse(disk(change)), isIntegrityError, JSON.stringify(change))
  for (const change of [
    { disks: {} },
    { disks: new Array(257).fill({}) },
    { disks: [1] },
    { point: '00' },
    { vm: 5 },
    { takenAt: 'yesterday' },
    { kind: 'half' },
    { consistency: '__proto__' },
    { omitted: new Array(2000).fill({ name: 'a', reason: 'b' }) },
    { previous: { point: '0011223344556676', digest: 'ab' } },
    { firmwareVariables: [0, 2 ** 33] },
  ])
    assert.throws(
      parse(edited(json => ({ ...json, ...change }))),
      isIntegrityError,
      JSON.stringify(change).slice(0, 80),
    )
  refused(parse(edited(json => ({ ...json, disks: [(json.disks as Json[])[0], (json.disks as Json[])[0]] }))))
  refused(parse(edited(json => json, 0xffffffff)))
  refused(parse(edited(() => 'text')))
  refused(parse(new Uint8Array(3)))
  assert.throws(parse(edited(json => ({ ...json, format: 2 }))), error => isLifeboatError(error, 'newer-format'))
  const good = encodeManifest(manifest())
  for (let length = 0; length < good.length - 1; length += 7) refused(parse(good.slice(0, length)))
})

test('neighbouring records share a request up to its bounds', () => {
  const bounds = { gapBytes: 100, runBytes: 1000, runRecords: 4 }
  const at = (...places: [number, number][]) => places.map(([offset, length]) => ({ offset, length }))
  const shape = (places: [number, number][]) =>
    planRuns(at(...places), bounds).map(run => [run.offset, run.length, run.records.length])
  assert.deepEqual(
    shape([
      [300, 50],
      [0, 100],
      [150, 50],
    ]),
    [[0, 350, 3]],
  )
  assert.deepEqual(
    shape([
      [0, 100],
      [201, 50],
    ]),
    [
      [0, 100, 1],
      [201, 50, 1],
    ],
  )
  assert.deepEqual(
    shape([
      [0, 600],
      [600, 600],
    ]),
    [
      [0, 600, 1],
      [600, 600, 1],
    ],
  )
  assert.deepEqual(shape([[0, 5000]]), [[0, 5000, 1]])
  assert.deepEqual(
    shape([
      [0, 1],
      [1, 1],
      [2, 1],
      [3, 1],
      [4, 1],
    ]),
    [
      [0, 4, 4],
      [4, 1, 1],
    ],
  )
  assert.deepEqual(
    shape([
      [0, 50],
      [0, 50],
      [10, 10],
    ]),
    [[0, 50, 3]],
  )
})
