import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { isIntegrityError, isLifeboatError } from '../../../src/core/errors.ts'
import { domainId, hex, leaseId, packId, pointId } from '../../../src/core/ids.ts'
import { MiB } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import * as keys from '../../../src/repository/object-keys.ts'
import {
  buildTrailer,
  encodeChecksums,
  encodeRows,
  encodeTrailer,
  findRot,
  footerLength,
  type PackTrailer,
  parseRows,
  parseTrailer,
  recordOverhead,
} from '../../../src/repository/pack-codec.ts'

const pack = packId('07'.padEnd(32, 'ab'))
const domain = domainId('1122334455667788')

function sample(rowCount: number, rewritten: boolean, seed = 'rows') {
  const random = seededRandom(seed)
  const lengths = Uint32Array.from({ length: rowCount }, (_, row) => recordOverhead + 1 + ((row * 37) % 70_000))
  const bodyLength = lengths.reduce((sum, length) => sum + length, 0)
  const origins = rewritten
    ? { packs: random(rowCount * 16), slots: Uint16Array.from({ length: rowCount }, (_, row) => (row * 7) % 65_535) }
    : undefined
  const rows = { count: rowCount, idPrefixes: random(rowCount * 20), lengths, ...(origins ? { origins } : {}) }
  const footer = footerLength(rowCount, rewritten)
  const checksums = new Uint8Array(Math.ceil((bodyLength + footer) / MiB) * 32)
  const trailer = buildTrailer(pack, 'data', { rowCount, rewritten, bodyLength, footerLength: footer, checksums })
  return { rows, trailer, size: bodyLength + footer + checksums.length + 64 }
}

const refused = (work: () => unknown) => assert.throws(work, error => isIntegrityError(error))

test('a pack footer and trailer come back as they were written, as first written and rewritten', () => {
  for (const rewritten of [false, true])
    for (const count of [1, 2, 700, 65_535]) {
      const { rows, trailer, size } = sample(Math.min(count, rewritten ? 3000 : 3900), rewritten)
      const parsed = parseTrailer(trailer, size, 'p')
      assert.equal(parsed.pack, pack)
      assert.equal(parsed.epoch, 7)
      assert.equal(parsed.rewritten, rewritten)
      const again = parseRows(encodeRows(rows), parsed, 'p')
      assert.deepEqual(again.lengths, rows.lengths)
      assert.deepEqual(again.idPrefixes, rows.idPrefixes)
      assert.deepEqual(again.origins, rows.origins)
      assert.equal(again.offsets[0], 0)
      assert.equal(again.offsets.at(-1)! + again.lengths.at(-1)!, parsed.bodyLength)
    }
})

test('a trailer with absurd numbers is refused though its checksum is right', () => {
  const { trailer, size } = sample(10, false)
  const good = parseTrailer(trailer, size, 'p')
  const absurd: Partial<PackTrailer>[] = [
    { rowCount: 0 },
    { rowCount: 65_536 },
    { rowCount: 0xffff_ffff },
    { bodyLength: 0 },
    { bodyLength: 2 ** 52 },
    { bodyLength: good.bodyLength + 1 },
    { footerLength: 0 },
    { footerLength: 0xffff_ffff },
    { footerLength: good.footerLength + 41 },
    { checksumsLength: 0 },
    { checksumsLength: 0xffff_ffe0 },
    { epoch: 8 },
    { rewritten: true },
  ]
  for (const change of absurd) refused(() => parseTrailer(encodeTrailer({ ...good, ...change }), size, 'p'))
  for (const wrongSize of [0, 63, 64, size - 1, size + 1, 2 ** 40]) refused(() => parseTrailer(trailer, wrongSize, 'p'))
  for (let length = 0; length < 64; length++) refused(() => parseTrailer(trailer.subarray(0, length), size, 'p'))
})

test('any flipped bit of a trailer is noticed', () => {
  const { trailer, size } = sample(5, true)
  for (let bit = 0; bit < 64 * 8; bit++) {
    const bytes = trailer.slice()
    bytes[bit >> 3]! ^= 1 << (bit & 7)
    refused(() => parseTrailer(bytes, size, 'p'))
  }
})

test('fuzzed rows are parsed or refused, never anything else', () => {
  const { rows, trailer, size } = sample(20, true)
  const parsed = parseTrailer(trailer, size, 'p')
  const good = encodeRows(rows)
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 4 }),
      fc.nat(50),
      (edits, cut) => {
        const bytes = good.slice(0, good.length - (cut > 40 ? cut - 40 : 0))
        for (const [at, value] of edits) bytes[at % bytes.length] = value
        try {
          const found = parseRows(bytes, parsed, 'p')
          assert.equal(found.offsets.at(-1)! + found.lengths.at(-1)!, parsed.bodyLength)
        } catch (error) {
          assert.ok(isIntegrityError(error), String(error))
        }
      },
    ),
    { seed: 11, numRuns: 500 },
  )
})

test('checksums cover each MiB of the concatenation and find rot by its place', () => {
  const random = seededRandom('sums')
  const body = random(2 * MiB + 12_345)
  const footer = random(50_000)
  const checksums = encodeChecksums([body.subarray(0, 70_000), body.subarray(70_000), footer])
  const whole = Buffer.concat([body, footer])
  const expected = [0, 1, 2].map(unit =>
    createHash('sha256')
      .update(whole.subarray(unit * MiB, (unit + 1) * MiB))
      .digest('hex'),
  )
  assert.equal(hex(checksums), expected.join(''))
  assert.equal(encodeChecksums([body.subarray(0, 2 * MiB)]).length, 64)
  const trailer = buildTrailer(pack, 'data', {
    rowCount: 1,
    rewritten: false,
    bodyLength: body.length,
    footerLength: footer.length,
    checksums,
  })
  const parsed = { checksumsLength: checksums.length, checksumsCrc: new DataView(trailer.buffer).getUint32(48) }
  const full = { ...parseTrailer(sample(1, false).trailer, sample(1, false).size, 'p'), ...parsed }
  assert.deepEqual(findRot([body, footer], checksums, full, 'p'), [])
  body[MiB + 5]! ^= 1
  assert.deepEqual(findRot([body, footer], checksums, full, 'p'), [1])
  checksums[3]! ^= 1
  refused(() => findRot([body, footer], checksums, full, 'p'))
})

test('point keys carry any VM name and come back; other spellings are nobody’s points', () => {
  const point = pointId('0011223344556677')
  const time = new Date('2026-02-28T23:59:58.987Z')
  assert.equal(keys.pointKey('a.b/c ü', time, point), 'points/a%2Eb%2Fc%20%C3%BC/20260228T235958Z-0011223344556677')
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 20 }), vm => {
      const parsed = keys.parsePointKey(keys.pointKey(vm, time, point))
      assert.deepEqual(parsed, { vm, takenAt: new Date('2026-02-28T23:59:58Z'), point })
    }),
    { seed: 5, numRuns: 300 },
  )
  const strange = [
    'points/a%2e/20260228T235958Z-0011223344556677',
    'points/%61/20260228T235958Z-0011223344556677',
    'points/%FF/20260228T235958Z-0011223344556677',
    'points/a/20260230T235958Z-0011223344556677',
    'points/a/20260228T235958Z-001122334455667',
    'points/a/b/20260228T235958Z-0011223344556677',
    'points/a/20260228T235958Z-0011223344556677.tmp',
  ]
  for (const key of strange) assert.equal(keys.parsePointKey(key), undefined, key)
  for (const vm of ['', '\ud800', 'ü'.repeat(43)])
    assert.throws(
      () => keys.encodeVmName(vm),
      error => isLifeboatError(error, 'usage'),
    )
})

test('pack, lease and fence keys come back', () => {
  assert.equal(keys.packKey('data', domain, pack), `packs/${domain}/ab/${pack}`)
  assert.deepEqual(keys.parsePackKey(keys.packKey('meta', domain, pack)), { kind: 'meta', domain, pack })
  const run = 'ffeeddccbbaa0099'
  assert.deepEqual(keys.parsePackKey(keys.packKey('data', domain, pack, run)), { kind: 'data', domain, pack, run })
  assert.equal(keys.parsePackKey(`packs/${domain}/00/${pack}`), undefined)
  const lease = leaseId('0123456789abcdef')
  assert.deepEqual(keys.parseFenceKey(keys.fenceKey(lease, 'self')), { lease, by: 'self' })
  assert.equal(keys.parseLeaseKey(keys.leaseKey(lease)), lease)
})
