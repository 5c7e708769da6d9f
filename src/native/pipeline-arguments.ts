/** Checks of a batch's shape. A caller that breaks one of these is wrong itself, so they throw RangeError, not LifeboatError. */
import { limits } from '../core/limits.ts'
import type { ChunkFile, OpenNode, OpenRecord, SealBatch, WriteRecord } from './pipeline.ts'
import { AAD_PREFIX_BYTES, RECORD_CONTENT_MAX, RECORD_OVERHEAD } from './record.ts'

const ID_BYTES = 32
const KEY_BYTES = 32

function must(condition: boolean, message: string): asserts condition {
  if (!condition) throw new RangeError(message)
}

/** Memory that another thread or a resize can take away is refused: a batch is read and written off the main thread. */
function mustOwn(bytes: Uint8Array | Uint32Array, name: string): void {
  const { buffer } = bytes
  must(
    buffer instanceof ArrayBuffer && !buffer.detached && !buffer.resizable,
    `${name} is shared, detached or resizable`,
  )
}

function mustBeChunkSize(chunkSize: number): void {
  const known =
    chunkSize >= limits.chunkSizeMin && chunkSize <= limits.chunkSizeMax && Number.isInteger(Math.log2(chunkSize))
  must(known, `${chunkSize} is not a chunk size`)
}

export function checkDigest(source: Uint8Array, chunkSize: number, idKey: Uint8Array): void {
  mustBeChunkSize(chunkSize)
  mustOwn(source, 'source')
  must(source.length % chunkSize === 0, 'The source is not a multiple of the chunk size')
  must(idKey.length === KEY_BYTES, 'The id key has not 32 bytes')
}

export function checkUnits(source: Uint8Array, unit: number): void {
  mustBeChunkSize(unit)
  mustOwn(source, 'source')
  must(source.length % unit === 0, 'The source is not whole units')
}

export function checkCompress(
  source: Uint8Array,
  chunkSize: number,
  indexes: Uint32Array,
  target: Uint8Array,
  targetOffset: number,
): void {
  mustBeChunkSize(chunkSize)
  mustOwn(source, 'source')
  mustOwn(target, 'target')
  must(source.length % chunkSize === 0, 'The source is not a multiple of the chunk size')
  const chunks = source.length / chunkSize
  must(
    indexes.every(index => index < chunks),
    'A chunk index lies past the source',
  )
  must(Number.isSafeInteger(targetOffset) && targetOffset >= 0, 'The target offset is not a position')
  const needed = targetOffset + indexes.length * (chunkSize + RECORD_OVERHEAD)
  must(needed <= target.length, 'The target is too small for chunks that do not shrink')
}

export function checkSeal({ body, lengths, firstSlot, ids, key, aadPrefix }: SealBatch): void {
  mustOwn(body, 'body')
  let total = 0
  for (const length of lengths) {
    must(length >= RECORD_OVERHEAD && length <= RECORD_CONTENT_MAX + RECORD_OVERHEAD, 'A record has an absurd length')
    total += length
  }
  must(total === body.length, 'The records do not fill the body')
  must(firstSlot >= 0 && firstSlot + lengths.length <= limits.packSlotsMax, 'A slot lies past the last one of a pack')
  must(ids.length === lengths.length * ID_BYTES, 'There is not one id for each record')
  checkPlace(key, aadPrefix)
}

export function checkOpen(records: readonly (OpenNode | OpenRecord)[]): void {
  for (const record of records) {
    const { stored, slot, id, key, aadPrefix } = record
    mustOwn(stored, 'stored')
    must(slot >= 0 && slot < limits.packSlotsMax, 'A slot lies past the last one of a pack')
    must(id.length === ID_BYTES, 'An id has not 32 bytes')
    checkPlace(key, aadPrefix)
    if (!('target' in record)) continue
    mustOwn(record.target, 'target')
    must(record.target.length <= limits.chunkSizeMax, 'A target is larger than the largest chunk')
  }
}

export function checkWrite(records: readonly WriteRecord[], { chunkSize, end, idKey }: ChunkFile): void {
  checkOpen(records)
  mustBeChunkSize(chunkSize)
  must(Number.isSafeInteger(end) && end >= 0, 'The end is not a position')
  must(idKey.length === KEY_BYTES, 'The id key has not 32 bytes')
  for (const { offsets } of records)
    for (const offset of offsets)
      must(Number.isSafeInteger(offset) && offset >= 0 && offset < end, 'An offset lies past the end')
}

function checkPlace(key: Uint8Array, aadPrefix: Uint8Array): void {
  must(key.length === KEY_BYTES, 'The slot key has not 32 bytes')
  must(aadPrefix.length === AAD_PREFIX_BYTES, 'The AAD prefix has not 52 bytes')
}
