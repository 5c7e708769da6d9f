import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isLifeboatError } from '../../src/core/errors.ts'
import { domainId, repositoryId } from '../../src/core/ids.ts'
import { KiB } from '../../src/core/limits.ts'
import { seededRandom } from '../../src/core/random.ts'
import { encodeConfig, parseConfig, verifyConfig } from '../../src/crypto/config-mac.ts'
import { repositoryKeys } from '../../src/crypto/derive.ts'
import { encodeKeySlot, keySlotObject, parseKeySlot, wrapForKeyFile } from '../../src/crypto/key-slot.ts'
import { CONTENTS, chunkOf, pipelines, sealSource } from '../unit/native/batches.ts'

const kinds = fc.constantFrom(...CONTENTS)
const chunkSizes = fc.constantFrom(4 * KiB, 8 * KiB, 64 * KiB, 256 * KiB)

test('whatever one pipeline seals, the other opens, for any batch', async () => {
  const batches = fc.record({
    chunkSize: chunkSizes,
    contents: fc.array(kinds, { maxLength: 24 }),
    seed: fc.string({ maxLength: 8 }),
    writer: fc.nat({ max: 1 }),
  })
  const property = fc.asyncProperty(batches, async ({ chunkSize, contents, seed, writer }) => {
    const random = seededRandom(seed)
    const chunks = contents.map(kind => chunkOf(kind, chunkSize, random))
    const { records, indexes } = await sealSource(pipelines[writer]![1], Buffer.concat(chunks), chunkSize, random)
    const expected = chunks.filter((_, index) => contents[index] !== 'zero')
    assert.equal(indexes.length, expected.length)
    await pipelines[1 - writer]![1].openChunks(records)
    for (const [at, { target }] of records.entries()) assert.equal(Buffer.compare(target, expected[at]!), 0)
  })
  await fc.assert(property, { numRuns: 60 })
})

/** One byte replaced, or the end cut off, or bytes put in. */
const damage = (bytes: Uint8Array): fc.Arbitrary<Uint8Array> =>
  fc
    .record({ at: fc.nat({ max: bytes.length - 1 }), cut: fc.nat({ max: 2 }), put: fc.uint8Array({ maxLength: 3 }) })
    .map(({ at, cut, put }) => Buffer.concat([bytes.subarray(0, at), put, bytes.subarray(at + cut)]))

test('a damaged clear document is refused by a code, or says what it said', () => {
  const random = seededRandom('documents')
  const repository = repositoryId('000102030405060708090a0b0c0d0e0f')
  const created = new Date(0)
  const keys = repositoryKeys(random(32), repository)
  const domain = domainId('d0d1d2d3d4d5d6d7')
  const config = { repository, created, chunkSize: 65536, encryption: 'aes-256-gcm', domain, store: { a: 1 } } as const
  const bytes = encodeConfig(config, keys)
  const slot = wrapForKeyFile(random(32), { repository, repositoryKey: random(32), created, random })
  const slotBytes = encodeKeySlot(slot)
  const codes = ['corrupt-object', 'newer-format', 'absurd-object', 'key-wrong'] as const
  const refusedOr = (read: () => unknown, expected?: unknown): void => {
    try {
      const value = read()
      if (expected !== undefined) assert.deepEqual(value, expected)
    } catch (error) {
      if (!codes.some(code => isLifeboatError(error, code))) throw error
    }
  }
  fc.assert(
    fc.property(damage(bytes), damaged => refusedOr(() => verifyConfig(parseConfig(damaged), keys), config)),
    { numRuns: 1000 },
  )
  fc.assert(
    fc.property(damage(slotBytes), damaged => refusedOr(() => parseKeySlot(damaged, keySlotObject(slot.slot)))),
    { numRuns: 1000 },
  )
  fc.assert(fc.property(fc.uint8Array(), garbage => refusedOr(() => parseConfig(garbage))))
})
