/** Random sequences of backups against plain arrays: whatever was written, grown, shrunk or zeroed reads back, in every point. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { PointId } from '../../src/core/ids.ts'
import { seededRandom } from '../../src/core/random.ts'
import type { Range } from '../../src/core/range.ts'
import { pointImage } from '../../src/repository/image.ts'
import { parseNode } from '../../src/repository/node-codec.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import { treeGeometry } from '../../src/repository/tree-geometry.ts'
import {
  backup,
  beginBackup,
  commitBackup,
  newMemoryRepository,
  openMemoryRepository,
  pointNumber,
  readBack,
  summaryOf,
} from '../doubles/memory-repository.ts'

const C = 4096
const seed = Number(process.env.SEED ?? 20_260_102)
process.stdout.write(`seed ${seed}\n`)

interface Step {
  readonly size: number
  readonly edits: readonly { readonly at: number; readonly chunks: number; readonly content: number }[]
  readonly isFull: boolean
  readonly olderBase: boolean
}

const stepOf: fc.Arbitrary<Step> = fc.record({
  size: fc.oneof(fc.nat(700 * C), fc.constantFrom(0, 1, C, 64 * C, 64 * C + 1, 128 * C - 1, 300 * C, 600 * C + 77)),
  edits: fc.array(fc.record({ at: fc.nat(1000), chunks: fc.integer({ min: 1, max: 130 }), content: fc.nat(9) }), {
    maxLength: 5,
  }),
  isFull: fc.boolean(),
  olderBase: fc.boolean(),
})

function contentBytes(content: number, variant: number): Uint8Array {
  const bytes = new Uint8Array(C)
  if (content === 0) return bytes
  const part = seededRandom(`${content}/${variant}`)(64)
  for (let at = 0; at < C; at += part.length) bytes.set(part, at)
  return bytes
}

/** Content 0 is zeros; the others repeat, so that there is something to deduplicate. */
function apply(image: Uint8Array, step: Step): { image: Uint8Array; changed: Range[] } {
  const next = new Uint8Array(step.size)
  next.set(image.subarray(0, step.size))
  const changed: Range[] = []
  const chunks = Math.ceil(step.size / C)
  for (const { at, chunks: count, content } of step.edits) {
    if (chunks === 0) break
    const first = at % chunks
    const offset = first * C
    const end = Math.min(step.size, (first + count) * C)
    for (let chunk = first; chunk * C < end; chunk++) {
      const bytes = contentBytes(content, content > 5 ? chunk : chunk % 7)
      next.set(bytes.subarray(0, Math.min(C, end - chunk * C)), chunk * C)
    }
    changed.push({ offset, length: end - offset })
  }
  return { image: next, changed }
}

test('every point of a random history reads back as its image was', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(stepOf, { minLength: 2, maxLength: 5 }), async steps => {
      const store = await newMemoryRepository()
      const repository = await openMemoryRepository(store, { seed: 'history' })
      const history: { point: PointId; image: Uint8Array }[] = []
      for (const [n, step] of steps.entries()) {
        const base = step.olderBase ? history.at(-2) : history.at(-1)
        const { image, changed } = apply(base?.image ?? new Uint8Array(0), step)
        const point = pointNumber(n + 1)
        const upon =
          step.isFull || !base ? { base: step.isFull ? base?.point : undefined } : { base: base.point, changed }
        const manifest = await backup(repository, { number: n + 1, disks: [{ name: 'vda', image, ...upon }] })
        assert.equal(manifest.sequence, n + 1)
        history.push({ point, image })
      }
      for (const { point, image } of history)
        assert.ok(Buffer.compare(await readBack(repository, point, 'vda'), image) === 0, `point ${point} differs`)
    }),
    { seed, numRuns: 12 },
  )
})

test('the same image gives the same root ids, whichever way it came about', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(stepOf, { minLength: 1, maxLength: 4 }), async steps => {
      const store = await newMemoryRepository()
      const repository = await openMemoryRepository(store, { seed: 'roots' })
      let image: Uint8Array = new Uint8Array(0)
      let ids: string | undefined
      for (const [n, step] of steps.entries()) {
        const next = apply(image, step)
        image = next.image
        const upon = n === 0 ? {} : { base: pointNumber(n), changed: next.changed }
        const manifest = await backup(repository, { number: n + 1, disks: [{ name: 'vda', image, ...upon }] })
        ids = topIds(manifest.disks[0]!)
      }
      const direct = await backup(repository, { vm: 'other', number: 99, disks: [{ name: 'vda', image }] })
      assert.equal(topIds(direct.disks[0]!), ids)
    }),
    { seed, numRuns: 10 },
  )
})

function topIds({ top, size, chunkSize, level }: { top: Uint8Array; size: number; chunkSize: number; level: number }) {
  const node = parseNode(top, treeGeometry(size, chunkSize), level + 1, 0)
  return Buffer.from(node.ids).toString('hex')
}

interface SparseStep {
  readonly chunks: number
  /** Not a whole last chunk. */
  readonly isOdd: boolean
  readonly edits: readonly { readonly at: number; readonly run: number; readonly content: number }[]
}

/** Chunk counts at which the tree gets another level, and some beside them. */
const sizes = [
  1,
  64,
  65,
  4096 * 64,
  4096 * 64 + 1,
  5000 * 64,
  300_000_000,
  4096 * 256 * 64,
  4096 * 256 * 64 + 1,
  2 ** 33,
]

const sparseStep: fc.Arbitrary<SparseStep> = fc.record({
  chunks: fc.oneof(fc.constantFrom(...sizes), fc.integer({ min: 1, max: 2 ** 34 })),
  isOdd: fc.boolean(),
  edits: fc.array(
    fc.record({
      at: fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
      run: fc.constantFrom(1, 1, 2, 70, 2 ** 20, 2 ** 32),
      content: fc.nat(4),
    }),
    { maxLength: 6 },
  ),
})

test('sparse disks of any depth grow, shrink and are cleared like a map from chunk to content', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(sparseStep, { minLength: 2, maxLength: 5 }), async steps => {
      const store = await newMemoryRepository()
      const repository = await openMemoryRepository(store, { seed: 'sparse' })
      let model = new Map<number, Uint8Array>()
      let chunks = 0
      for (const [n, step] of steps.entries()) {
        const size = step.chunks * C - (step.isOdd ? 100 : 0)
        const next = shrunk(model, step.chunks, step.isOdd && step.chunks < chunks ? C - 100 : C)
        await using writer = await beginBackup(repository, {
          number: n + 1,
          disks: [],
          bases: n ? [pointNumber(n)] : [],
        })
        const disk = await writer.disk({ name: 'vda', size, base: n ? pointNumber(n) : undefined, description: {} })
        for (const { first, count, content } of risingEdits(step)) {
          const offset = first * C
          const length = Math.min(size, (first + count) * C) - offset
          for (const chunk of [...next.keys()]) if (chunk >= first && chunk < first + count) next.delete(chunk)
          if (content === 0) await disk.zero({ offset, length })
          else {
            const data = new Uint8Array(count * C)
            for (let chunk = 0; chunk < count; chunk++) data.set(contentBytes(content, first + chunk), chunk * C)
            await disk.write(offset, data.subarray(0, length))
            data.fill(0, length)
            for (let chunk = 0; chunk < count; chunk++) next.set(first + chunk, data.slice(chunk * C, (chunk + 1) * C))
          }
        }
        await disk.finish({ bytesRead: 0 })
        await commitBackup(writer)
        model = next
        chunks = step.chunks
        await assertSparse(repository, pointNumber(n + 1), size, model)
      }
    }),
    { seed, numRuns: 12 },
  )
})

function shrunk(model: ReadonlyMap<number, Uint8Array>, chunks: number, lastBytes: number): Map<number, Uint8Array> {
  const next = new Map([...model].filter(([chunk]) => chunk < chunks))
  const last = next.get(chunks - 1)?.slice()
  last?.fill(0, lastBytes)
  if (last) next.set(chunks - 1, last)
  return next
}

/** Runs of data are kept short: only zeros come in runs of terabytes. */
function risingEdits({ chunks, edits }: SparseStep): { first: number; count: number; content: number }[] {
  const rising: { first: number; count: number; content: number }[] = []
  let end = 0
  for (const { at, run, content } of edits.toSorted((a, b) => a.at - b.at)) {
    const first = Math.max(end, Math.floor(at * chunks))
    const count = Math.min(content === 0 ? run : Math.min(run, 70), chunks - first)
    if (count <= 0) break
    rising.push({ first, count, content })
    end = first + count
  }
  return rising
}

async function assertSparse(
  repository: OpenedRepository,
  point: PointId,
  size: number,
  model: ReadonlyMap<number, Uint8Array>,
): Promise<void> {
  await using opened = await repository.openPoint(await summaryOf(repository, point), { pin: 'none' })
  await using image = pointImage(opened.disk('vda'))
  const present = new Set<number>()
  for await (const { kind, offset, length } of image.extents({ offset: 0, length: size }))
    if (kind === 'data') for (let at = offset; at < offset + length; at += C) present.add(at / C)
  assert.deepEqual(
    [...present].sort((a, b) => a - b),
    [...model.keys()].sort((a, b) => a - b),
  )
  for (const [chunk, content] of model) {
    const bytes = new Uint8Array(Math.min(C, size - chunk * C))
    await image.readInto(bytes, chunk * C)
    assert.ok(Buffer.compare(bytes, content.subarray(0, bytes.length)) === 0, `chunk ${chunk} differs`)
  }
}
