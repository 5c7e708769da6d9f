import assert from 'node:assert/strict'
import { mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { KiB } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import type { Pipeline, WriteRecord } from '../../../src/native/pipeline.ts'
import { CONTENTS, chunkOf, pipelines, sealSource } from './batches.ts'

const CHUNK = 64 * KiB
const FILLER = 0xee
const folder = await mkdtemp(path.join(tmpdir(), 'lifeboat-write-'))
after(() => rm(folder, { recursive: true, force: true }))

const source = Buffer.concat(
  Array.from({ length: 40 }, (_, at) => chunkOf(CONTENTS[at % CONTENTS.length]!, CHUNK, seededRandom(`chunk ${at}`))),
)
const END = source.length - 1000
/** What `sealSource` draws first. */
const idKey = seededRandom('seal')(32)
const sealed = await sealSource(pipelines[0]![1], source, CHUNK, seededRandom('seal'))
const records: readonly WriteRecord[] = sealed.records.map((record, position) => ({
  ...record,
  offsets: [sealed.indexes[position]! * CHUNK],
  checkId: position % 2 === 0,
}))

/** A file full of filler, what the call throws, and what is in the file afterwards. */
async function written(pipeline: Pipeline, batch: readonly WriteRecord[], key = idKey) {
  const name = path.join(folder, 'out')
  const file = await open(name, 'w+')
  try {
    await file.write(Buffer.alloc(END, FILLER))
    const error = await pipeline.writeChunks(batch, { file, chunkSize: CHUNK, end: END, idKey: key }).then(
      () => undefined,
      reason => reason,
    )
    return { error, bytes: await readFile(name) }
  } finally {
    await file.close()
  }
}

const expected = (positions: Iterable<number>): Buffer => {
  const bytes = Buffer.alloc(END, FILLER)
  for (const position of positions) {
    const at = sealed.indexes[position]! * CHUNK
    source.copy(bytes, at, at, at + CHUNK)
  }
  return bytes
}

for (const [name, pipeline] of pipelines) {
  test(`${name}: each content goes to its place, the last one up to the end, and nothing else is touched`, async () => {
    const { error, bytes } = await written(pipeline, records)
    assert.equal(error, undefined)
    assert.equal(bytes.length, END)
    assert.ok(bytes.equals(expected(records.keys())))
    assert.equal((await written(pipeline, [])).error, undefined)
  })

  test(`${name}: a content goes to several places, or to none`, async () => {
    const [first, second] = records as [WriteRecord, WriteRecord]
    const twice = { ...first, offsets: [0, 5 * CHUNK, END - 10] }
    const { error, bytes } = await written(pipeline, [twice, { ...second, offsets: [] }])
    assert.equal(error, undefined)
    const content = source.subarray(sealed.indexes[0]! * CHUNK, (sealed.indexes[0]! + 1) * CHUNK)
    const wanted = Buffer.alloc(END, FILLER)
    for (const at of twice.offsets) content.copy(wanted, at)
    assert.ok(bytes.equals(wanted))
  })

  test(`${name}: of a record that does not authenticate, or whose id is another's, no byte is written`, async () => {
    for (const bad of [3, 4]) {
      const damaged = records.map((record, at) => (at === bad ? { ...record, slot: 1 } : record))
      const { error, bytes } = await written(pipeline, damaged)
      assert.deepEqual([error.code, error.details.reason, error.details.position], ['corrupt-object', 'tag', bad])
      const at = sealed.indexes[bad]! * CHUNK
      assert.ok(bytes.subarray(at, at + CHUNK).every(byte => byte === FILLER))
    }
    const { error, bytes } = await written(pipeline, records, seededRandom('other')(32))
    assert.deepEqual([error.code, error.details.reason], ['corrupt-object', 'id'])
    for (const [position, { checkId }] of records.entries()) {
      const at = sealed.indexes[position]! * CHUNK
      if (checkId)
        assert.ok(
          bytes.subarray(at, at + CHUNK).every(byte => byte === FILLER),
          `record ${position}`,
        )
    }
  })

  test(`${name}: what the system says of a write has its code`, async () => {
    const full = await open('/dev/full', 'r+')
    await using readOnly = await open('/dev/null', 'r')
    const target = { chunkSize: CHUNK, end: END, idKey }
    await assert.rejects(pipeline.writeChunks(records, { ...target, file: full }), { code: 'ENOSPC' })
    await assert.rejects(pipeline.writeChunks(records, { ...target, file: readOnly }), { code: 'EBADF' })
    await full.close()
  })

  test(`${name}: a place past the end is the caller's mistake`, async () => {
    const [record] = records as [WriteRecord]
    for (const offset of [END, -1, 0.5, 2 ** 53])
      assert.ok((await written(pipeline, [{ ...record, offsets: [offset] }])).error instanceof RangeError)
  })
}
