import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { test } from 'node:test'
import { constants, zstdCompressSync } from 'node:zlib'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { KiB, MiB } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { loadAddon, loadPipeline } from '../../../src/native/native.ts'
import type { OpenRecord, Pipeline } from '../../../src/native/pipeline.ts'
import { isZero } from '../../../src/native/zero.ts'
import { CONTENTS, chunkOf, pipelines, plaintextOf, repeatingFrame, sealPlaintext, sealSource } from './batches.ts'

const seed = String(process.pid)
const random = seededRandom(seed)

const sourceOf = (chunkSize: number, count: number): Uint8Array =>
  Buffer.concat(Array.from({ length: count }, (_, at) => chunkOf(CONTENTS[at % CONTENTS.length]!, chunkSize, random)))

/** Words of four bytes out of sixty-four, with a byte of noise after each: no match is longer, and bytes are evenly spread. */
function shortMatches(size: number): Uint8Array {
  const words = Array.from({ length: 64 }, () => random(4))
  return Buffer.concat(
    Array.from({ length: Math.ceil(size / 5) }, () => [words[random(1)[0]! % 64]!, random(1)]).flat(),
  ).subarray(0, size)
}

/** From coreutils' sha256sum. */
const SHA256_OF_A = [
  [4096, 'c93eee2d0db02f10acc7460d9576e122dcf8cd53c4bf8dfcae1b3e74ebcfff5a'],
  [65536, 'bf718b6f653bebc184e1479f1935b8da974d701b893afcf49e701f3e2f9f9c5a'],
  [1048576, '9bc1b2a288b26af7257a36277ae3816a7d4f16e89c1e7e77d0a5c48bad62b360'],
] as const

const faultOf = async (pipeline: Pipeline, records: readonly OpenRecord[]): Promise<string> => {
  const error: unknown = await pipeline.openChunks(records).then(
    () => 'opened',
    reason => reason,
  )
  if (!isLifeboatError(error, 'corrupt-object')) return String(error)
  return `${error.details.reason} at ${error.details.position}`
}

const [, [, addon]] = pipelines as [unknown, readonly [string, Pipeline]]

test(`twin and addon give the same ids and open each other's records, seed ${seed}`, async () => {
  for (const [chunkSize, count] of [
    [4 * KiB, 100],
    [64 * KiB, 37],
    [4 * MiB, 6],
    [64 * KiB, 1],
  ] as const) {
    const source = sourceOf(chunkSize, count)
    const sealed = []
    for (const [name, pipeline] of pipelines)
      sealed.push({ name, ...(await sealSource(pipeline, source, chunkSize, seededRandom('same'))) })
    assert.deepEqual(sealed[0]!.ids, sealed[1]!.ids)
    assert.deepEqual(sealed[0]!.indexes, sealed[1]!.indexes)
    for (const { name, records, indexes } of sealed)
      for (const [reader, pipeline] of pipelines) {
        for (const record of records) record.target.fill(0xee)
        await pipeline.openChunks(records)
        records.forEach((record, position) => {
          const start = indexes[position]! * chunkSize
          const same = Buffer.compare(record.target, source.subarray(start, start + chunkSize)) === 0
          assert.ok(same, `${chunkSize}: ${reader} read record ${position} of ${name} wrongly`)
        })
        const nodes = chunkSize <= MiB ? await pipeline.openNodes(records) : []
        for (const [position, node] of nodes.entries()) assert.deepEqual(node, Buffer.from(records[position]!.target))
      }
  }
})

test('an id is HMAC-SHA-256 of the chunk, and only a chunk of zeros counts as zero', async () => {
  const key = random(32)
  const source = sourceOf(64 * KiB, 12)
  for (const [, pipeline] of pipelines) {
    const { ids, zero } = await pipeline.digestChunks(source, 64 * KiB, key)
    for (let index = 0; index < 12; index++) {
      const chunk = source.subarray(index * 64 * KiB, (index + 1) * 64 * KiB)
      assert.equal(zero[index], index % CONTENTS.length === 0 ? 1 : 0)
      assert.equal(isZero(chunk), zero[index] === 1)
      if (zero[index] === 1) continue
      assert.deepEqual(
        Buffer.from(ids.subarray(index * 32, index * 32 + 32)),
        createHmac('sha256', key).update(chunk).digest(),
      )
    }
  }
  assert.ok(isZero(new Uint8Array(0)))
})

test('every width of vectors gives the ids and digests of the twin, for groups that are full, short or single', async () => {
  const key = random(32)
  const [[, twin]] = pipelines as [readonly [string, Pipeline]]
  const widest = loadAddon().limitLanes(16)
  const seen = new Set<number>()
  try {
    for (const most of [0, 8, 16]) {
      seen.add(loadAddon().limitLanes(most))
      for (const chunkSize of [4 * KiB, 64 * KiB])
        for (const count of [1, 2, 3, 7, 8, 9, 15, 16, 17, 33]) {
          const source = random(chunkSize * count)
          source.fill(0, 0, count > 3 ? chunkSize : 0)
          const what = `${most} lanes, ${count} chunks of ${chunkSize}`
          assert.deepEqual(
            await addon.digestChunks(source, chunkSize, key),
            await twin.digestChunks(source, chunkSize, key),
            what,
          )
          assert.deepEqual(await addon.digestUnits(source, chunkSize), await twin.digestUnits(source, chunkSize), what)
        }
    }
    for (const [length, digest] of SHA256_OF_A) {
      const found = await addon.digestUnits(new Uint8Array(length).fill(0x61), length)
      assert.equal(Buffer.from(found).toString('hex'), digest)
    }
  } finally {
    loadAddon().limitLanes(16)
  }
  assert.ok(seen.has(0) && seen.has(widest), `widths tested: ${[...seen]}`)
})

test('chunks that do not shrink are stored as they are, in exactly the space that the contract names', async () => {
  const source = random(256 * KiB)
  for (const [, pipeline] of pipelines) {
    const target = new Uint8Array(4 * (64 * KiB + 20))
    const lengths = await pipeline.compressChunks(source, 64 * KiB, Uint32Array.of(3, 0, 0, 1), target, 0)
    assert.deepEqual([...lengths], [65556, 65556, 65556, 65556])
    assert.deepEqual([...target.subarray(0, 4)], [0, 1, 0, 0])
    assert.equal(Buffer.compare(target.subarray(4, 4 + 64 * KiB), source.subarray(192 * KiB)), 0)
    await assert.rejects(
      pipeline.compressChunks(source, 64 * KiB, Uint32Array.of(0), target.subarray(0, 64 * KiB + 19), 0),
      RangeError,
    )
  }
})

test('a chunk that shrinks by a thirtieth or more is not stored as it is', async () => {
  const chunkSize = 64 * KiB
  const chunks = {
    'half of it zeros': chunkOf('half', chunkSize, random),
    'noise with one run of zeros': random(chunkSize).fill(0, 40_000, 43_000),
    'noise that repeats after 32 KiB': Buffer.concat([random(32 * KiB)].flatMap(half => [half, half])),
    'noise of seven bits a byte': random(chunkSize).map(byte => byte & 0x7f),
    'short matches in noise': shortMatches(chunkSize),
  }
  const source = Buffer.concat(Object.values(chunks))
  for (const [name, pipeline] of pipelines) {
    const indexes = Uint32Array.from(Object.keys(chunks).keys())
    const target = new Uint8Array(indexes.length * (chunkSize + 20))
    const lengths = await pipeline.compressChunks(source, chunkSize, indexes, target, 0)
    let at = 0
    for (const [position, what] of Object.keys(chunks).entries()) {
      assert.equal(target[at], 1, `${name}: ${what} is stored as it is`)
      assert.ok(lengths[position]! < chunkSize, `${name}: ${what} takes ${lengths[position]} bytes`)
      at += lengths[position]!
    }
  }
})

test('twin and addon compress as much, and find matches of four bytes', async () => {
  const chunkSize = 64 * KiB
  const source = shortMatches(chunkSize)
  const sizes: number[] = []
  for (const [, pipeline] of pipelines) {
    const target = new Uint8Array(chunkSize + 20)
    const [length] = await pipeline.compressChunks(source, chunkSize, Uint32Array.of(0), target, 0)
    sizes.push(length!)
  }
  const plain = zstdCompressSync(source, { params: { [constants.ZSTD_c_compressionLevel]: 3 } }).length + 20
  const [twin, native] = sizes as [number, number]
  assert.ok(Math.abs(twin - native) < chunkSize / 100, `twin ${twin}, addon ${native}`)
  assert.ok(Math.max(twin, native) < plain * 0.9, `twin ${twin}, addon ${native}, level 3 alone ${plain}`)
})

test('a flipped bit anywhere in a record, or in its place, key or id, is refused', async () => {
  const { records } = await sealSource(addon, sourceOf(4 * KiB, 6), 4 * KiB, random)
  const record = records.find(({ stored }) => stored.length < 4 * KiB)!
  const flipped = (bytes: Uint8Array, at: number): Uint8Array =>
    bytes.map((byte, index) => (index === at ? byte ^ 0x10 : byte))
  for (const [, pipeline] of pipelines) {
    assert.equal(await faultOf(pipeline, [record]), 'opened')
    for (let at = 0; at < record.stored.length; at++)
      assert.equal(
        await faultOf(pipeline, [{ ...record, stored: flipped(record.stored, at) }]),
        'tag at 0',
        `byte ${at}`,
      )
    for (const other of [
      { slot: record.slot + 1 },
      { id: flipped(record.id, 31) },
      { key: flipped(record.key, 0) },
      { aadPrefix: flipped(record.aadPrefix, 51) },
      { stored: record.stored.subarray(0, -1) },
      { stored: record.stored.subarray(1) },
    ])
      assert.equal(await faultOf(pipeline, [{ ...record, ...other }]), 'tag at 0')
    assert.equal(await faultOf(pipeline, [{ ...record, stored: record.stored.subarray(0, 19) }]), 'short at 0')
    assert.equal(await faultOf(pipeline, [{ ...record, target: new Uint8Array(8 * KiB) }]), 'length at 0')
    assert.equal(await faultOf(pipeline, [{ ...record, target: new Uint8Array(0) }]), 'length at 0')
  }
})

test('the first bad record of a batch is named', async () => {
  const { records } = await sealSource(addon, sourceOf(64 * KiB, 60), 64 * KiB, random)
  for (const [, pipeline] of pipelines)
    for (const bad of [0, 17, records.length - 1]) {
      const damaged = records.map((record, at) =>
        at === bad || at === records.length - 1 ? { ...record, slot: 1 } : record,
      )
      assert.equal(await faultOf(pipeline, damaged), `tag at ${bad}`)
    }
})

test('records of several packs open in one batch, whatever their order', async () => {
  const sources = [sourceOf(4 * KiB, 6), sourceOf(4 * KiB, 6), sourceOf(4 * KiB, 6)]
  const packs = await Promise.all(
    sources.map(source => sealSource(addon, source, 4 * KiB, seededRandom(`key of ${sources.indexOf(source)}`))),
  )
  const mixed = packs[0]!.records.flatMap((_, at) => packs.map(({ records }) => records[at]!))
  for (const [, pipeline] of pipelines) {
    for (const { target } of mixed) target.fill(0xee)
    await pipeline.openChunks(mixed)
    for (const { records, indexes, source } of packs)
      for (const [at, { target }] of records.entries())
        assert.equal(Buffer.compare(target, source.subarray(indexes[at]! * 4 * KiB, (indexes[at]! + 1) * 4 * KiB)), 0)
  }
})

test('lying lengths, unknown codecs and zstd bombs are refused, and take no memory', async () => {
  const size = 64 * KiB
  const text = chunkOf('text', size, random)
  const frame = zstdCompressSync(text)
  const window = [0x00, 0x38] // no content size; a window of 128 KiB
  const cases: [name: string, plaintext: Uint8Array, fault: string][] = [
    ['a good frame without content size', plaintextOf(1, size, repeatingFrame(window, 1, size)), 'opened'],
    ['unknown codec', plaintextOf(2, size, frame), 'codec at 0'],
    ['stored, too short', plaintextOf(0, size, text.subarray(1)), 'length at 0'],
    ['stored, too long', plaintextOf(0, size, Buffer.concat([text, text.subarray(0, 1)])), 'length at 0'],
    ['another stated length', plaintextOf(1, size - 1, frame), 'length at 0'],
    ['a chunk of nothing', plaintextOf(1, size, new Uint8Array(0)), 'zstd at 0'],
    ['a frame that gives less', plaintextOf(1, size, repeatingFrame(window, 1, size - 1)), 'zstd at 0'],
    ['a bomb without content size', plaintextOf(1, size, repeatingFrame(window, 8192, 128 * KiB)), 'zstd at 0'],
    [
      'a bomb that states 4 GiB',
      plaintextOf(1, size, repeatingFrame([0xa0, 0, 0, 0, 0xff], 8192, 128 * KiB)),
      'zstd at 0',
    ],
    [
      'a bomb that states 2^64 - 1',
      plaintextOf(1, size, repeatingFrame([0xe0, ...Array(8).fill(0xff)], 9, 128 * KiB)),
      'zstd at 0',
    ],
    [
      'a bomb that states the right size',
      plaintextOf(1, size, repeatingFrame([0x60, 0, 0xff], 8192, 64 * KiB)),
      'zstd at 0',
    ],
    ['a window of 2 GiB', plaintextOf(1, size, repeatingFrame([0x00, 0xa8], 1, size)), 'zstd at 0'],
    ['a dictionary', plaintextOf(1, size, repeatingFrame([0x01, 0x38, 7], 1, size)), 'zstd at 0'],
    [
      'a skippable frame first',
      plaintextOf(1, size, Uint8Array.of(0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0, ...frame)),
      'zstd at 0',
    ],
    ['an empty frame after it', plaintextOf(1, size, Buffer.concat([frame, zstdCompressSync('')])), 'zstd at 0'],
    ['a byte after it', plaintextOf(1, size, Buffer.concat([frame, Uint8Array.of(0)])), 'zstd at 0'],
    ['a cut frame', plaintextOf(1, size, frame.subarray(0, -1)), 'zstd at 0'],
    ['only a head', plaintextOf(1, size, frame.subarray(0, 6)), 'zstd at 0'],
  ]
  for (const [name, plaintext, fault] of cases) {
    const record = await sealPlaintext(plaintext, size, random)
    for (const [pipelineName, pipeline] of pipelines) {
      const before = process.memoryUsage().rss
      assert.equal(await faultOf(pipeline, [record]), fault, `${pipelineName}: ${name}`)
      assert.ok(process.memoryUsage().rss - before < 64 * MiB, `${pipelineName}: ${name}`)
    }
  }
})

test('garbage in place of a frame never escapes its target', async () => {
  const frame = zstdCompressSync(Buffer.concat([chunkOf('text', 32 * KiB, random), random(32 * KiB)]))
  const answers = new Set<string>()
  for (let round = 0; round < 300; round++) {
    const broken = frame.slice()
    const [a, b, value] = random(3) as unknown as [number, number, number]
    broken[(a * 256 + b) % (round % 3 === 0 ? 40 : broken.length)] = value
    const record = await sealPlaintext(plaintextOf(1, 64 * KiB, broken), 64 * KiB, random)
    const [twin, native] = [await faultOf(pipelines[0]![1], [record]), await faultOf(addon, [record])]
    assert.equal(native, twin, `seed ${seed}, round ${round}`)
    answers.add(native)
  }
  assert.ok(answers.has('zstd at 0'))
})

test('nodes have any length up to 1 MiB', async () => {
  for (const [, pipeline] of pipelines) {
    const small = await sealPlaintext(plaintextOf(0, 3, Uint8Array.of(1, 2, 3)), 0, random)
    const empty = await sealPlaintext(plaintextOf(0, 0, new Uint8Array(0)), 0, random)
    const zeros = zstdCompressSync(new Uint8Array(MiB))
    const largest = await sealPlaintext(plaintextOf(1, MiB, zeros), 0, random)
    const [a, b, c] = await pipeline.openNodes([small, empty, largest])
    assert.deepEqual([...a!], [1, 2, 3])
    assert.equal(b!.length, 0)
    assert.equal(c!.length, MiB)
    const larger = await sealPlaintext(plaintextOf(1, MiB + 1, zstdCompressSync(new Uint8Array(MiB + 1))), 0, random)
    await assert.rejects(pipeline.openNodes([small, larger]), { code: 'corrupt-object' })
  }
})

test('what a caller does wrong is a RangeError and touches nothing', async () => {
  const bytes = new Uint8Array(128 * KiB)
  const shared = new Uint8Array(new SharedArrayBuffer(64 * KiB))
  const detached = new Uint8Array(64 * KiB)
  structuredClone(detached, { transfer: [detached.buffer] })
  const resizable = new Uint8Array(new ArrayBuffer(64 * KiB, { maxByteLength: 128 * KiB }))
  const [key, id, aadPrefix] = [random(32), random(32), random(52)]
  const seal = {
    body: bytes.subarray(0, 40),
    lengths: Uint32Array.of(20, 20),
    firstSlot: 0,
    ids: random(64),
    key,
    aadPrefix,
  }
  const open = { stored: bytes, slot: 0, id, key, aadPrefix, target: bytes.subarray(0, 4096) }
  for (const [, pipeline] of pipelines) {
    for (const bad of [shared, detached, resizable]) {
      if (bad !== detached) await assert.rejects(pipeline.digestChunks(bad, 4096, key), RangeError)
      await assert.rejects(pipeline.openChunks([{ ...open, target: bad }]), RangeError)
      await assert.rejects(pipeline.openChunks([{ ...open, stored: bad }]), RangeError)
    }
    for (const chunkSize of [0, 1, 4095, 2048, 8 * MiB, 65537, Number.NaN])
      await assert.rejects(pipeline.digestChunks(bytes, chunkSize, key), RangeError)
    await assert.rejects(pipeline.digestChunks(bytes.subarray(1), 4096, key), RangeError)
    await assert.rejects(pipeline.digestChunks(bytes, 4096, key.subarray(1)), RangeError)
    await assert.rejects(pipeline.compressChunks(bytes, 4096, Uint32Array.of(32), new Uint8Array(9999), 0), RangeError)
    await assert.rejects(pipeline.compressChunks(bytes, 4096, Uint32Array.of(0), new Uint8Array(9999), -1), RangeError)
    for (const bad of [
      { lengths: Uint32Array.of(19, 21) },
      { lengths: Uint32Array.of(20, 21) },
      { firstSlot: 65_534 },
      { ids: id },
      { key: aadPrefix },
      { aadPrefix: key },
    ])
      await assert.rejects(pipeline.sealChunks({ ...seal, ...bad }), RangeError)
    for (const bad of [
      { slot: -1 },
      { slot: 65_535 },
      { id: key.subarray(1) },
      { key: aadPrefix },
      { aadPrefix: key },
      { target: new Uint8Array(4 * MiB + 1) },
    ])
      await assert.rejects(pipeline.openChunks([{ ...open, ...bad }]), RangeError)
    await pipeline.openChunks([])
    await pipeline.sealChunks({ ...seal, body: new Uint8Array(0), lengths: new Uint32Array(0), ids: new Uint8Array(0) })
  }
})

test('the addon checks every length again by itself', () => {
  const raw = loadAddon()
  const [bytes, key] = [new Uint8Array(64 * KiB), random(32)]
  const ids = new Uint8Array(16 * 32)
  const one = { places: new Uint8Array(120), counts: Uint32Array.of(1), checks: new Uint8Array(1) }
  const write = { chunkSize: 4096, idKey: key, ...one, offsets: new Float64Array([0]) }
  const writeRaw = (other: Partial<typeof write>) => {
    const { chunkSize, idKey, places, counts, checks, offsets } = { ...write, ...other }
    return raw.writeChunks(999, chunkSize, 4096, idKey, [bytes], places, counts, checks, offsets)
  }
  const bad = [
    () => raw.digestChunks(bytes, 4096, key, ids, new Uint8Array(15)),
    () => raw.digestChunks(bytes, 4096, key, ids.subarray(1), new Uint8Array(16)),
    () => raw.digestChunks(bytes, 3, key, ids, new Uint8Array(16)),
    () => raw.digestChunks(bytes, 0.5, key, ids, new Uint8Array(16)),
    () =>
      raw.digestChunks(new Uint8Array(new SharedArrayBuffer(4096)), 4096, key, ids.subarray(0, 32), new Uint8Array(1)),
    () => raw.compressChunks(bytes, 4096, Uint32Array.of(16), new Uint8Array(9999), 0, new Uint32Array(1)),
    () => raw.compressChunks(bytes, 4096, Uint32Array.of(0), new Uint8Array(4115), 0, new Uint32Array(1)),
    () => raw.compressChunks(bytes, 4096, Uint32Array.of(0), new Uint8Array(9999), 2 ** 52, new Uint32Array(1)),
    () => raw.compressChunks(bytes, 4096, Uint32Array.of(0), new Uint8Array(9999), 0, new Uint32Array(0)),
    () => raw.sealChunks(bytes, Uint32Array.of(20, 0xffffffff), 0, ids.subarray(0, 64), key, new Uint8Array(52)),
    () =>
      raw.sealChunks(bytes.subarray(0, 20), Uint32Array.of(20), 65_535, ids.subarray(0, 32), key, new Uint8Array(52)),
    () => raw.openChunks([bytes], new Uint8Array(120)),
    () => raw.openChunks([bytes, bytes], new Uint8Array(119)),
    () => writeRaw({ chunkSize: 4095 }),
    () => writeRaw({ idKey: key.subarray(1) }),
    () => writeRaw({ places: new Uint8Array(119) }),
    () => writeRaw({ counts: new Uint32Array(2) }),
    () => writeRaw({ counts: Uint32Array.of(2) }),
    () => writeRaw({ checks: new Uint8Array(0) }),
    () => writeRaw({ offsets: new Float64Array([0, 0]) }),
    () => writeRaw({ offsets: new Float64Array([4096]) }),
    () => writeRaw({ offsets: new Float64Array([-1]) }),
    () => writeRaw({ offsets: new Float64Array([Number.NaN]) }),
  ]
  for (const call of bad) assert.throws(call, RangeError, String(call))
})

test('the addon works off the main thread: JavaScript goes on while a batch is digested, compressed, sealed and opened', async () => {
  const pipeline = loadPipeline()
  const random = seededRandom('off the main thread')
  const source = Buffer.alloc(256 * 65_536, random(70_000))
  const turnsDuring = async <T>(work: Promise<T>): Promise<number> => {
    let turns = 0
    let isDone = false
    const done = work.finally(() => {
      isDone = true
    })
    while (!isDone) {
      await new Promise(resolve => setImmediate(resolve))
      turns++
    }
    await done
    return turns
  }
  const place = { firstSlot: 0, key: random(32), aadPrefix: random(52) }
  const indexes = Uint32Array.from({ length: 256 }, (_, n) => n)
  const target = new Uint8Array(256 * (65_536 + 20))
  const ids = new Uint8Array(256 * 32)
  const lengths = new Uint32Array(256).fill(65_536)
  const body = new Uint8Array(256 * 65_536)
  const works: Readonly<Record<string, () => Promise<unknown>>> = {
    digest: () => pipeline.digestChunks(source, 65_536, random(32)),
    compress: () => pipeline.compressChunks(source, 65_536, indexes, target, 0),
    seal: () => pipeline.sealChunks({ body, lengths, ids, ...place }),
  }
  for (const [name, work] of Object.entries(works)) {
    let turns = 0
    for (let time = 0; time < 3; time++) turns = Math.max(turns, await turnsDuring(work()))
    // 16 MiB take milliseconds; a turn takes microseconds.
    assert.ok(turns >= 10, `${name}: ${turns} turns`)
  }
})

test('fifty batches at once do not disturb each other', async () => {
  const chunkSize = 64 * KiB
  const rounds = Array.from({ length: 50 }, async (_, round) => {
    const own = seededRandom(`${seed}/${round}`)
    const source = Buffer.concat([
      chunkOf('text', chunkSize, own),
      chunkOf('random', chunkSize, own),
      chunkOf('half', chunkSize, own),
    ])
    const { records } = await sealSource(addon, source, chunkSize, own)
    await addon.openChunks(records)
    for (const [at, record] of records.entries())
      assert.equal(Buffer.compare(record.target, source.subarray(at * chunkSize, (at + 1) * chunkSize)), 0)
  })
  await Promise.all(rounds)
})
