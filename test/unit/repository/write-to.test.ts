/** Chunks that go from the store into a file, past all memory but one chunk a thread. */
import assert from 'node:assert/strict'
import { mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { systemClock } from '../../../src/core/clock.ts'
import { LifeboatError } from '../../../src/core/errors.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { loadPipeline } from '../../../src/native/native.ts'
import { openRepository } from '../../../src/repository/open.ts'
import type { RecordCache, RecordName } from '../../../src/repository/record-cache.ts'
import type { ChunkRef } from '../../../src/repository/repository.ts'
import type { ObjectStore } from '../../../src/storage/object-store.ts'
import { intercepted } from '../../doubles/intercepted-store.ts'
import { fixtureSecret, repositoryFixture } from '../../doubles/repository-fixture.ts'

const CHUNK = 4096
const CHUNKS = 600
const SIZE = CHUNKS * CHUNK - 100
const FILLER = 0xee
const folder = await mkdtemp(path.join(tmpdir(), 'lifeboat-write-to-'))
after(() => rm(folder, { recursive: true, force: true }))
const fixture = await repositoryFixture({ chunkSize: CHUNK })
const disk = seededRandom('disk')(SIZE)
const summary = await fixture.writePoint({ disks: [{ name: 'vda', size: SIZE, writes: [[0, disk]] }] })

async function source(store: ObjectStore = fixture.store, cache?: RecordCache) {
  const credential = { kind: 'file', secret: fixtureSecret } as const
  const { random } = fixture
  const pipeline = loadPipeline()
  const repository = await openRepository({
    store,
    credential,
    clock: systemClock,
    random,
    host: 'h',
    pipeline,
    recordCache: cache,
  })
  const point = await repository.openPoint(summary, { pin: 'none' })
  const chunks = point.disk('vda')
  const refs = (await chunks.locate(0, CHUNKS)).filter(ref => ref !== undefined)
  const places = new Map<ChunkRef, readonly number[]>(refs.map((ref, i) => [ref, [i * CHUNK]]))
  return { chunks, refs, places }
}

async function filledFile(name: string) {
  const at = path.join(folder, name)
  const file = await open(at, 'w+')
  await file.write(Buffer.alloc(SIZE, FILLER))
  return { file, read: () => readFile(at) }
}

test('a disk goes into a file, and each answer of the store is freed when it has been written', async () => {
  const answers: Uint8Array[] = []
  const store: ObjectStore = {
    ...fixture.store,
    async get(key, range, options) {
      const bytes = await fixture.store.get(key, range, options)
      if (key.startsWith('packs/')) answers.push(bytes)
      return bytes
    },
  }
  const { chunks, places } = await source(store)
  const { file, read } = await filledFile('whole')
  await chunks.writeTo!(file, places)
  assert.ok((await read()).equals(disk))
  assert.ok(answers.length > 0 && answers.every(({ length }) => length === 0))
  await file.close()
})

test('what a cache of this host keeps is not freed, and goes into the next file', async () => {
  const kept = new Map<string, Uint8Array>()
  const nameOf = ({ pack, slot }: RecordName) => `${pack} ${slot}`
  const cache: RecordCache = {
    has: name => kept.has(nameOf(name)),
    read: async names => names.map(name => kept.get(nameOf(name))),
    keep: (name, stored) => void kept.set(nameOf(name), stored),
    refuse: name => void kept.delete(nameOf(name)),
  }
  let gets = 0
  const before = ({ key }: { key: string }) => {
    if (key.startsWith('packs/')) gets++
  }
  const { chunks, places } = await source(intercepted(fixture.store, { before }), cache)
  for (const name of ['cold', 'warm']) {
    const { file, read } = await filledFile(name)
    await chunks.writeTo!(file, places)
    assert.ok((await read()).equals(disk), name)
    await file.close()
    assert.ok(name === 'cold' ? gets > 0 : gets === 0, `${gets} GETs for the ${name} file`)
    gets = 0
  }
})

test('of a damaged chunk nothing is written, all others are, and the error says what it harms', async () => {
  const { chunks, refs, places } = await source()
  const bad = refs[17]!
  const [key] = [...fixture.store.snapshot().keys()].filter(
    name => name.startsWith('packs/') && name.includes(bad.pack),
  )
  const good = fixture.store.snapshot().get(key!)!.bytes
  const broken = good.slice()
  broken[bad.offset + 9]! ^= 4
  fixture.store.tamper(key!, broken)
  try {
    const { file, read } = await filledFile('damaged')
    await assert.rejects(chunks.writeTo!(file, places), (error: unknown) => {
      assert.ok(error instanceof LifeboatError && error.code === 'corrupt-object')
      assert.deepEqual([error.details.slot, error.details.disk, error.details.point], [bad.slot, 'vda', summary.id])
      return true
    })
    const expected = Buffer.from(disk)
    expected.fill(FILLER, 17 * CHUNK, 18 * CHUNK)
    assert.ok((await read()).equals(expected))
    await file.close()
  } finally {
    fixture.store.tamper(key!, good)
  }
})

test('when it has settled nothing is written any longer, also after an interruption', async () => {
  for (let round = 0; round < 20; round++) {
    const { chunks, places } = await source()
    const { file, read } = await filledFile('interrupted')
    const interruption = new AbortController()
    const done = chunks.writeTo!(file, places, { signal: interruption.signal }).catch(error => error)
    for (let turn = 0; turn < round; turn++) await new Promise(setImmediate)
    interruption.abort(new LifeboatError('interrupted', 'Ctrl-C'))
    await done
    await file.write(Buffer.alloc(SIZE, FILLER), 0, SIZE, 0)
    await new Promise(resolve => setTimeout(resolve, 5))
    assert.ok((await read()).every(byte => byte === FILLER))
    await file.close()
  }
})

test('a full disk is said as the system says it, and is no damage of the repository', async () => {
  const { chunks, places } = await source()
  await using full = await open('/dev/full', 'r+')
  await assert.rejects(chunks.writeTo!(full, places), { code: 'ENOSPC' })
})
