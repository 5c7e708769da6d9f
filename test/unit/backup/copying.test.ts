import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { cleanChunks } from '../../../src/backup/audit.ts'
import { readSegments } from '../../../src/backup/read-segments.ts'
import type { BlockReader } from '../../../src/block/block-device.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { alignRanges, type Extent, mergeRanges, type Range, rangeEnd } from '../../../src/core/range.ts'

const UNIT = 4096

/** An image whose extents are told truly, in pieces that ignore the unit; reads finish in a shuffled order. */
function imageOf(bytes: Uint8Array, grain: number): BlockReader & { inFlight: number; mostInFlight: number } {
  return {
    size: bytes.length,
    blockSize: 512,
    inFlight: 0,
    mostInFlight: 0,
    async readInto(target, offset) {
      assert.ok(offset + target.length <= bytes.length, 'a read stays inside the image')
      this.inFlight++
      this.mostInFlight = Math.max(this.mostInFlight, this.inFlight)
      await new Promise(resolve => setTimeout(resolve, (offset / UNIT) % 3))
      target.set(bytes.subarray(offset, offset + target.length))
      this.inFlight--
    },
    async *extents(range: Range): AsyncIterable<Extent> {
      for (let offset = range.offset; offset < rangeEnd(range); ) {
        const length = Math.min(grain, rangeEnd(range) - offset)
        const zero = bytes.subarray(offset, offset + length).every(byte => byte === 0)
        yield { offset, length, kind: zero ? 'zero' : 'data' }
        offset += length
      }
    },
    async [Symbol.asyncDispose]() {},
  }
}

const scenario = fc.record({
  size: fc.integer({ min: 1, max: 40 * UNIT }),
  grain: fc.constantFrom(512, 1000, UNIT, 3 * UNIT),
  written: fc.array(fc.record({ offset: fc.nat(40 * UNIT), length: fc.integer({ min: 1, max: 3 * UNIT }) }), {
    maxLength: 8,
  }),
  changed: fc.array(fc.record({ offset: fc.nat(40 * UNIT), length: fc.integer({ min: 1, max: 9 * UNIT }) }), {
    maxLength: 5,
  }),
})

test('segments cover the ranges exactly, in rising order, with the bytes of the image, and holes are whole units', async () => {
  await fc.assert(
    fc.asyncProperty(scenario, async ({ size, grain, written, changed }) => {
      const bytes = new Uint8Array(size)
      for (const { offset, length } of written) bytes.fill(7, Math.min(size, offset), Math.min(size, offset + length))
      const ranges = alignRanges(
        changed.filter(range => range.offset < size),
        UNIT,
        size,
      )
      const image = imageOf(bytes, grain)
      let at = -1
      const seen: Range[] = []
      for await (const segment of readSegments(image, ranges, UNIT, {})) {
        assert.ok(segment.offset > at, 'offsets rise')
        assert.equal(segment.offset % UNIT, 0)
        assert.ok(segment.length % UNIT === 0 || rangeEnd(segment) === size)
        const expected = bytes.subarray(segment.offset, rangeEnd(segment))
        if (segment.kind === 'data') assert.deepEqual(Buffer.from(segment.data), Buffer.from(expected))
        else assert.ok(expected.every(byte => byte === 0))
        at = segment.offset
        seen.push({ offset: segment.offset, length: segment.length })
      }
      assert.deepEqual(mergeRanges(seen), mergeRanges(ranges))
      assert.ok(image.mostInFlight <= 8, 'reads ahead are bounded')
    }),
    { numRuns: 200 },
  )
})

test('a consumer that stops early leaves no read behind', async () => {
  const bytes = new Uint8Array(64 * 1024 * 1024).fill(1)
  const image = imageOf(bytes, bytes.length)
  for await (const _ of readSegments(image, [{ offset: 0, length: bytes.length }], UNIT, {})) break
  assert.equal(image.inFlight, 0)
})

test('a read that fails is thrown in its turn, and none is left behind', async () => {
  const image = imageOf(new Uint8Array(16 * 1024 * 1024).fill(1), 1 << 20)
  const broken: BlockReader = {
    ...image,
    readInto: async (target, offset) => {
      if (offset >= 4 << 20) throw new Error('EINVAL')
      return image.readInto(target, offset)
    },
  }
  let delivered = 0
  await assert.rejects(async () => {
    for await (const segment of readSegments(broken, [{ offset: 0, length: broken.size }], UNIT, {}))
      delivered += segment.length
  }, /EINVAL/)
  assert.equal(delivered, 4 << 20)
})

test('the audit samples clean chunks only: distinct, rising, at most 1 % of the changed ones and at least one', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 3000 }),
      fc.array(fc.record({ first: fc.nat(3000), count: fc.integer({ min: 1, max: 900 }) }), { maxLength: 6 }),
      fc.nat(),
      (chunks, marks, seed) => {
        const size = chunks * UNIT - (seed % UNIT)
        const dirty = alignRanges(
          marks
            .filter(mark => mark.first * UNIT < size)
            .map(mark => ({ offset: mark.first * UNIT, length: mark.count * UNIT })),
          UNIT,
          size,
        ).map(range => ({ offset: range.offset, length: Math.min(range.length, size - range.offset) }))
        const isDirty = (index: number) =>
          dirty.some(range => index * UNIT >= range.offset && index * UNIT < rangeEnd(range))
        const dirtyChunks = Array.from({ length: chunks }, (_, index) => index).filter(isDirty).length
        const sample = cleanChunks(
          {
            repository: { chunkSize: UNIT },
            disk: {
              description: { name: 'vda', size },
              image: imageOf(new Uint8Array(0), 1),
              changes: { kind: 'incremental', ranges: dirty },
            },
            random: seededRandom(String(seed)),
            signal: new AbortController().signal,
          },
          dirty,
        )
        const clean = chunks - dirtyChunks
        assert.equal(sample.length, Math.min(clean, Math.max(1, Math.floor(dirtyChunks / 100))))
        for (const [at, index] of sample.entries()) {
          assert.ok(index < chunks && !isDirty(index), `chunk ${index} is clean`)
          if (at > 0) assert.ok(index > (sample[at - 1] ?? -1))
        }
      },
    ),
    { numRuns: 300 },
  )
})
