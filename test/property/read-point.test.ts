/** Random points, resized and compacted, read at random: every byte, extent and difference as a plain array says. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { diffDisks } from '../../src/repository/diff.ts'
import { pointImage } from '../../src/repository/image.ts'
import { openTree } from '../../src/repository/recovery-point.ts'
import type { PointSummary } from '../../src/repository/repository.ts'
import { verifyPoints } from '../../src/repository/verify.ts'
import { keysOf, noise, repositoryFixture } from '../doubles/repository-fixture.ts'
import { rewritePack } from '../doubles/rewritten-pack.ts'

const chunk = 4096
const seed = Number(process.env.SEED ?? 20_261_121)
process.stdout.write(`seed ${seed}\n`)

const step = fc.record({
  chunks: fc.integer({ min: 1, max: 400 }),
  tail: fc.integer({ min: 0, max: chunk - 1 }),
  writes: fc.uniqueArray(fc.record({ at: fc.nat(399), count: fc.integer({ min: 1, max: 60 }), content: fc.nat(5) }), {
    maxLength: 5,
    selector: write => write.at,
  }),
})
const read = fc.record({
  from: fc.double({ min: 0, max: 1, noNaN: true }),
  length: fc.integer({ min: 0, max: 90_000 }),
})

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

/** Writes in ascending order that do not overlap and lie within the disk; content 0 is zeros. */
function writesOf({ chunks, tail, writes }: Step): [number, Uint8Array][] {
  const size = sizeOf({ chunks, tail })
  const result: [number, Uint8Array][] = []
  let end = 0
  for (const { at, count, content } of writes.toSorted((a, b) => a.at - b.at)) {
    const from = Math.max(end, at) * chunk
    const length = Math.min(count * chunk, size - from)
    if (length <= 0) continue
    result.push([from, content === 0 ? new Uint8Array(length) : noise(`${content}`, length)])
    end = Math.ceil((from + length) / chunk)
  }
  return result
}

const sizeOf = ({ chunks, tail }: { chunks: number; tail: number }) => (chunks - 1) * chunk + (tail || chunk)

function differing(a: Uint8Array, b: Uint8Array): number[] {
  const size = Math.max(a.length, b.length)
  const at = (image: Uint8Array, n: number) => {
    const bytes = new Uint8Array(chunk)
    bytes.set(image.subarray(n * chunk, (n + 1) * chunk))
    return bytes
  }
  return Array.from({ length: Math.ceil(size / chunk) }, (_, n) => n).filter(
    n => Buffer.compare(at(a, n), at(b, n)) !== 0,
  )
}

test('points read as a plain array does', { timeout: 120_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 1, maxLength: 4 }),
      fc.array(read, { maxLength: 12 }),
      fc.nat(3),
      async (steps, reads, compacted) => {
        const fixture = await repositoryFixture()
        const points: { summary: PointSummary; image: Uint8Array }[] = []
        for (const one of steps) {
          const last = points.at(-1)
          const image = new Uint8Array(sizeOf(one))
          image.set((last?.image ?? new Uint8Array(0)).subarray(0, image.length))
          const writes = writesOf(one)
          for (const [offset, bytes] of writes) image.set(bytes, offset)
          const disks = [{ name: 'vda', size: image.length, writes }]
          points.push({ summary: await fixture.writePoint({ base: last?.summary.id, disks }), image })
        }
        const packs = [...keysOf(fixture.store, 'packs/'), ...keysOf(fixture.store, 'meta/')]
        for (const [n, pack] of packs.entries())
          if (n % 4 < compacted) {
            await rewritePack(fixture, pack, '00000000000000aa')
            fixture.store.tamper(pack, undefined)
          }
        const repository = await fixture.open()
        for (const { summary, image } of points) {
          await using point = await repository.openPoint(summary, { pin: 'restore' })
          const reader = pointImage(point.disk('vda'))
          assert.equal(reader.size, image.length)
          await Promise.all(
            reads.map(async ({ from, length }) => {
              const offset = Math.floor(from * image.length)
              const target = new Uint8Array(Math.min(length, image.length - offset)).fill(0xee)
              await reader.readInto(target, offset)
              assert.equal(Buffer.compare(target, image.subarray(offset, offset + target.length)), 0)
            }),
          )
          let at = 0
          for await (const { offset, length, kind } of reader.extents({ offset: 0, length: image.length })) {
            assert.equal(offset, at)
            at += length
            if (kind === 'zero') assert.ok(image.subarray(offset, at).every(byte => byte === 0))
          }
          assert.equal(at, image.length)
        }
        assert.deepEqual(
          (await verifyPoints(repository, { points: points.map(({ summary }) => summary) })).problems,
          [],
        )
        await sameDifferences(repository, points)
      },
    ),
    { seed, numRuns: 25 },
  )
})

async function sameDifferences(
  repository: Awaited<ReturnType<typeof repositoryFixture>>['repository'],
  points: readonly { summary: PointSummary; image: Uint8Array }[],
): Promise<void> {
  const [first, last] = [points[0]!, points.at(-1)!]
  const trees = await Promise.all(
    [first, last].map(async ({ summary }) => {
      const manifest = await repository.manifest(summary)
      return openTree(repository.reading, manifest, manifest.disks[0]!)
    }),
  )
  const { extents } = await diffDisks(trees[0]!, trees[1]!)
  const chunks = extents.flatMap(({ offset, length }) =>
    Array.from({ length: Math.ceil(length / chunk) }, (_, n) => offset / chunk + n),
  )
  assert.deepEqual(chunks, differing(first.image, last.image))
}
