/**
 * A repository by somebody who holds the keys and means harm: each object is refused by name, no memory is taken for what it
 * claims, and the points of others still read.
 */
import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { constants, zstdCompressSync } from 'node:zlib'
import { isIntegrityError } from '../../../src/core/errors.ts'
import { hex, packId } from '../../../src/core/ids.ts'
import { MiB } from '../../../src/core/limits.ts'
import { listDamage } from '../../../src/repository/damage-marks.ts'
import { encodeNode } from '../../../src/repository/node-codec.ts'
import * as names from '../../../src/repository/object-keys.ts'
import type { PointSummary } from '../../../src/repository/repository.ts'
import { verifyPoints } from '../../../src/repository/verify.ts'
import { verifyObjects } from '../../../src/repository/verify-objects.ts'
import { type Json, type Malice, maliciousPoint, plaintextOf } from '../../doubles/malicious-point.ts'
import { keysOf, noise, type RepositoryFixture, repositoryFixture } from '../../doubles/repository-fixture.ts'

const chunkSize = 4096
let fixture: RepositoryFixture
let good: PointSummary
let goodPack: string
before(async () => {
  fixture = await repositoryFixture()
  good = await fixture.writePoint({
    vm: 'good',
    disks: [{ name: 'vda', size: 8 * chunkSize, writes: [[0, noise('a', 8 * chunkSize)]] }],
  })
  goodPack = keysOf(fixture.store, 'packs/')[0] ?? ''
})

/** Made piece by piece: the bomb itself takes little memory, too. */
const bomb = zstdCompressSync(new Uint8Array(64 * MiB), { params: { [constants.ZSTD_c_contentSizeFlag]: 0 } })
const stating = zstdCompressSync(new Uint8Array(64 * MiB))
const u32 = (bytes: Uint8Array, at: number, value: number) => {
  const copy = Uint8Array.from(bytes)
  new DataView(copy.buffer).setUint32(at, value)
  return copy
}
const disks = (change: Json) => (json: Json) => ({ ...json, disks: [{ ...(json.disks as Json[])[0], ...change }] })
/** Numbers that JSON.stringify would not write. */
const raw = (name: string, text: string) => (json: Json) =>
  JSON.stringify(json).replace(new RegExp(`"${name}":[^,}]+`), `"${name}":${text}`)

type Where = 'data' | 'meta' | 'manifest'
const cases: readonly (readonly [string, Where, Malice])[] = [
  ['a chunk that is a bomb of 1:16,000', 'data', { chunk: plaintextOf(1, chunkSize, bomb.subarray(0, 4000)) }],
  ['a chunk that states 64 MiB', 'data', { chunk: plaintextOf(1, chunkSize, stating.subarray(0, 4000)) }],
  ['a chunk that claims 16 MiB', 'data', { chunk: plaintextOf(1, 0xffffff, stating.subarray(0, 4000)) }],
  ['a chunk of nothing', 'meta', { chunk: plaintextOf(0, 0, new Uint8Array(0)) }],
  ['a chunk of another codec', 'data', { chunk: plaintextOf(7, chunkSize, new Uint8Array(chunkSize)) }],
  ['a chunk of another content', 'data', { chunk: plaintextOf(0, chunkSize, new Uint8Array(chunkSize).fill(1)) }],
  ['a leaf that is a bomb', 'meta', { leafRecord: plaintextOf(1, MiB, bomb) }],
  ['a leaf that claims 16 MiB', 'meta', { leafRecord: plaintextOf(1, 0xffffff, bomb) }],
  ['a leaf of nothing', 'manifest', { leafRecord: plaintextOf(0, 0, new Uint8Array(0)) }],
  ['a leaf with 2^32 - 1 entries', 'meta', { leaf: bytes => u32(bytes, 8, 0xffffffff) }],
  ['a leaf of 2^32 - 1 positions', 'meta', { leaf: bytes => u32(bytes, 4, 0xffffffff) }],
  ['a leaf of level 255', 'meta', { leaf: bytes => Uint8Array.from(bytes, (byte, at) => (at === 1 ? 255 : byte)) }],
  ['a leaf that is followed by more', 'meta', { leaf: bytes => Buffer.concat([bytes, new Uint8Array(100)]) }],
  [
    'a leaf whose chunk is the leaf itself',
    'meta',
    {
      leaf: (_, { pack, slot }) =>
        encodeNode(0, [
          { id: new Uint8Array(32), pack, slot, offset: 0, length: 100 },
          ...new Array<undefined>(63).fill(undefined),
        ]),
    },
  ],
  [
    'an inner node in place of a leaf, which has itself below',
    'meta',
    {
      leaf: (_, { pack, slot }) =>
        encodeNode(
          1,
          Array.from({ length: 256 }, () => ({ id: new Uint8Array(32), pack, slot, offset: 0, length: 100 })),
        ),
    },
  ],
  ['a disk of NaN bytes', 'manifest', { manifest: raw('size', 'null') }],
  ['a disk of 1e400 bytes', 'manifest', { manifest: raw('size', '1e400') }],
  ['a disk of 2^63 bytes', 'manifest', { manifest: raw('size', '9223372036854775808') }],
  ['a disk of 2^53 - 1 bytes', 'manifest', { manifest: disks({ size: Number.MAX_SAFE_INTEGER }) }],
  ['a disk of -1 bytes', 'manifest', { manifest: disks({ size: -1 }) }],
  ['a disk of half a byte', 'manifest', { manifest: disks({ size: 0.5 }) }],
  ['chunks of 2^31 bytes', 'manifest', { manifest: disks({ chunkSize: 2 ** 31 }) }],
  ['a tree of 1,000,000 levels', 'manifest', { manifest: disks({ level: 1_000_000 }) }],
  ['a blob that ends past the end', 'manifest', { manifest: disks({ top: [0, 2 ** 31] }) }],
  ['a name of 10 kB', 'manifest', { manifest: disks({ name: 'x'.repeat(10_000) }) }],
  ['a disk without a name', 'manifest', { manifest: disks({ name: '' }) }],
  [
    'two disks of one name',
    'manifest',
    { manifest: json => ({ ...json, disks: [(json.disks as Json[])[0], (json.disks as Json[])[0]] }) },
  ],
  ['300 disks', 'manifest', { manifest: json => ({ ...json, disks: new Array(300).fill((json.disks as Json[])[0]) }) }],
  ['nested a million deep', 'manifest', { manifest: () => '['.repeat(1_000_000) }],
  [
    'deep below a member',
    'manifest',
    { manifest: () => `{"format":1,"x":${'['.repeat(100_000)}${']'.repeat(100_000)}}` },
  ],
  ['__proto__ as a member', 'manifest', { manifest: json => JSON.stringify(json).replace('"point"', '"__proto__"') }],
  ['the manifest of another VM', 'manifest', { vm: '../../etc/x' }],
  ['a firmware of 2^40 bytes', 'manifest', { manifest: json => ({ ...json, firmwareVariables: [0, 2 ** 40] }) }],
]

async function read(point: PointSummary): Promise<void> {
  const repository = await fixture.open()
  await using opened = await repository.openPoint(point, { pin: 'none' })
  for (const { name, size } of opened.manifest.disks) {
    const disk = opened.disk(name)
    const refs = await disk.locate(0, Math.ceil(size / disk.chunkSize))
    await disk.fetch(
      refs.filter(ref => ref !== undefined),
      () => {},
    )
  }
}

for (const [name, where, malice] of cases)
  test(`refused: ${name}`, async () => {
    const { summary, data, meta } = await maliciousPoint(fixture, malice)
    const object = { data, meta, manifest: summary.key }[where]
    const before = process.memoryUsage().rss
    // Only 1 in 64 reads recomputes an id; verify always does.
    if (name !== 'a chunk of another content')
      await assert.rejects(read(summary), error => {
        assert.ok(isIntegrityError(error), String(error))
        assert.equal(error.details.object, object)
        return true
      })
    const { problems } = await verifyPoints(await fixture.open(), { points: [good, summary] })
    assert.ok(problems.some(problem => problem.object === object && problem.points.includes(summary.id)))
    assert.ok(!problems.some(problem => problem.points.includes(good.id)))
    assert.ok(process.memoryUsage().rss - before < 256 * MiB, 'memory')
    await read(good)
    for (const key of [data, meta, summary.key]) fixture.store.tamper(key, undefined)
  })

test('names that lead elsewhere are strangers: not listed, not opened, not followed', async () => {
  const { store, repository } = fixture
  const strangers = [
    'points/%2E%2E%2F%2e/20260101T000000Z-0000000000000001',
    'points/..%2Fx/20260101T000000Z-0000000000000001',
    `points/${'x'.repeat(500)}/20260101T000000Z-0000000000000001`,
    'points/web/20269999T000000Z-0000000000000001',
    'damaged/....',
    'gc/__proto__',
    `packs/00000000000000aa/00/${'f'.repeat(32)}.x`,
  ]
  for (const key of strangers) store.tamper(key, new Uint8Array(9))
  const points = await repository.points({ all: true })
  assert.deepEqual(
    points.map(({ id }) => id),
    [good.id],
  )
  const { unknown, problems } = await verifyObjects(repository.reading, { points })
  assert.deepEqual(
    unknown,
    strangers
      .filter(key => !key.startsWith('packs/'))
      .concat(strangers.slice(-1))
      .sort(),
  )
  assert.deepEqual(problems, [])
  for (const key of strangers) store.tamper(key, undefined)
})

test('a mark of damage with absurd members is refused: its pack is distrusted, and backups go on', async () => {
  const { repository, store, random, writePoint } = fixture
  const { control } = repository.reading
  const pack = packId(hex(random(16)))
  const key = names.damagedKey(pack)
  const sane = {
    object: names.packKey('data', repository.domain, pack),
    slots: [1],
    contents: '',
    points: [],
    who: 'a',
    when: 'b',
    what: 'c',
  }
  for (const change of [
    { object: '../../x' },
    { object: names.packKey('data', repository.domain, packId('ab'.repeat(16))) },
    { slots: [-1] },
    { slots: [0.5] },
    { slots: Array.from({ length: 70_000 }, (_, n) => n) },
    { contents: 'QUJD' },
    { contents: 7 },
    { points: ['../../x'] },
    { points: new Array(20_000).fill('0'.repeat(16)) },
  ]) {
    await control.put('damaged', key, { ...sane, ...change })
    assert.deepEqual(await listDamage(control), [{ pack }], JSON.stringify(change).slice(0, 60))
  }
  await writePoint({ vm: 'after', disks: [{ name: 'vda', size: chunkSize, writes: [[0, noise('z', chunkSize)]] }] })
  store.tamper(key, new Uint8Array(5 * MiB))
  assert.deepEqual(await listDamage(control), [{ pack }])
  store.tamper(key, undefined)
})

test('more rewritten objects of one pack than anybody makes are refused by name', async () => {
  const { store } = fixture
  const pack = goodPack
  const whole = store.snapshot().get(pack)!.bytes
  for (let n = 0; n < 1100; n++) store.tamper(`${pack}.${n.toString(16).padStart(16, '0')}`, new Uint8Array(10))
  store.tamper(pack, undefined)
  const { problems } = await verifyPoints(await fixture.open(), { points: [good] })
  assert.equal(problems[0]?.kind, 'absurd')
  assert.ok(problems[0]?.object.startsWith(pack), problems[0]?.object)
  for (const key of keysOf(store, `${pack}.`)) store.tamper(key, undefined)
  store.tamper(pack, whole)
})
