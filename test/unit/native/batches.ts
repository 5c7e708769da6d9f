/** Material for the pipeline's tests: contents of every kind, and records made by hand. */
import type { Random } from '../../../src/core/random.ts'
import { loadPipeline } from '../../../src/native/native.ts'
import type { OpenRecord, Pipeline } from '../../../src/native/pipeline.ts'
import { twinPipeline } from '../../../src/native/twin.ts'

export const pipelines: readonly (readonly [name: string, pipeline: Pipeline])[] = [
  ['twin', twinPipeline],
  ['addon', loadPipeline()],
]

export const CONTENTS = ['zero', 'random', 'text', 'half', 'last-byte', 'first-byte'] as const

export function chunkOf(kind: (typeof CONTENTS)[number], size: number, random: Random): Uint8Array {
  const chunk = new Uint8Array(size)
  if (kind === 'random') chunk.set(random(size))
  if (kind === 'half') chunk.set(random(size / 2), size / 4)
  if (kind === 'text') Buffer.from(chunk.buffer).fill(`${random(8).join(' ')} lines of a log file\n`)
  if (kind === 'last-byte') chunk[size - 1] = 1
  if (kind === 'first-byte') chunk[0] = 1
  return chunk
}

export interface Sealed {
  readonly source: Uint8Array
  readonly indexes: Uint32Array
  readonly lengths: Uint32Array
  readonly ids: Uint8Array
  readonly records: readonly OpenRecord[]
}

/** Through all of a pipeline's calls: the non-zero chunks of `source` as records that can be opened. */
export async function sealSource(
  pipeline: Pipeline,
  source: Uint8Array,
  chunkSize: number,
  random: Random,
): Promise<Sealed> {
  const { ids: all, zero } = await pipeline.digestChunks(source, chunkSize, random(32))
  const indexes = Uint32Array.from(zero.keys()).filter(index => zero[index] === 0)
  const target = new Uint8Array(7 + indexes.length * (chunkSize + 20))
  const lengths = await pipeline.compressChunks(source, chunkSize, indexes, target, 7)
  const body = target.subarray(7, 7 + lengths.reduce((sum, length) => sum + length, 0))
  const ids = new Uint8Array(indexes.length * 32)
  for (const [position, index] of indexes.entries()) ids.set(all.subarray(index * 32, index * 32 + 32), position * 32)
  const place = { firstSlot: 60_000, key: random(32), aadPrefix: random(52) }
  await pipeline.sealChunks({ body, lengths, ids, ...place })
  let at = 0
  const records = Array.from(lengths, (length, position) => {
    const stored = body.subarray(at, at + length)
    at += length
    const id = ids.subarray(position * 32, position * 32 + 32)
    return { ...place, stored, slot: place.firstSlot + position, id, target: new Uint8Array(chunkSize) }
  })
  return { source, indexes, lengths, ids, records }
}

/** One record with this plaintext, properly sealed: what only a holder of the keys could make. */
export async function sealPlaintext(plaintext: Uint8Array, targetLength: number, random: Random): Promise<OpenRecord> {
  const stored = new Uint8Array(plaintext.length + 16)
  stored.set(plaintext)
  const place = { id: random(32), key: random(32), aadPrefix: random(52) }
  await twinPipeline.sealChunks({
    body: stored,
    lengths: Uint32Array.of(stored.length),
    firstSlot: 3,
    ids: place.id,
    ...place,
  })
  return { ...place, stored, slot: 3, target: new Uint8Array(targetLength) }
}

export const plaintextOf = (codec: number, length: number, payload: Uint8Array): Uint8Array =>
  Uint8Array.of(codec, length >> 16, length >> 8, length, ...payload)

/** A frame of `blocks` blocks that each repeat one byte `blockSize` times: four bytes a block. */
export function repeatingFrame(head: readonly number[], blocks: number, blockSize: number): Uint8Array {
  const frame = [0x28, 0xb5, 0x2f, 0xfd, ...head]
  for (let block = 1; block <= blocks; block++) {
    const bits = (blockSize << 3) | 2 | (block === blocks ? 1 : 0)
    frame.push(bits & 0xff, (bits >> 8) & 0xff, bits >> 16, 0x41)
  }
  return Uint8Array.from(frame)
}
