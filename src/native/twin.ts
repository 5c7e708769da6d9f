/** The pipeline in plain TypeScript: the oracle of the addon's tests. It works on the calling thread. */
import { createHash, createHmac } from 'node:crypto'
import { writeSync } from 'node:fs'
import { constants, zstdCompressSync } from 'node:zlib'
import { limits } from '../core/limits.ts'
import type { OpenNode, Pipeline } from './pipeline.ts'
import { checkCompress, checkDigest, checkOpen, checkSeal, checkUnits, checkWrite } from './pipeline-arguments.ts'
import { badRecord, CODEC_STORED, CODEC_ZSTD, openRecord, RECORD_HEAD, RECORD_TAG, sealRecord } from './record.ts'
import { isZero } from './zero.ts'

/** As in native/record.cc; why these is in docs/decisions/0016-compression-level.md. */
const ZSTD = { params: { [constants.ZSTD_c_compressionLevel]: 3, [constants.ZSTD_c_minMatch]: 4 } }

/** Writes head and payload at the start of `target`; the length of both. */
function encodeRecord(chunk: Uint8Array, target: Uint8Array): number {
  const frame = zstdCompressSync(chunk, ZSTD)
  const shrinks = frame.length < chunk.length
  const payload = shrinks ? frame : chunk
  target[0] = shrinks ? CODEC_ZSTD : CODEC_STORED
  target[1] = chunk.length >> 16
  target[2] = chunk.length >> 8
  target[3] = chunk.length
  target.set(payload, RECORD_HEAD)
  return RECORD_HEAD + payload.length
}

const isContentOf = (content: Uint8Array, idKey: Uint8Array, id: Uint8Array): boolean =>
  !isZero(content) && createHmac('sha256', idKey).update(content).digest().equals(id)

/** Nodes are few and small, so both pipelines open them here. */
export async function openNodes(records: readonly OpenNode[]): Promise<Uint8Array[]> {
  checkOpen(records)
  return records.map((record, position) => {
    const content = openRecord(record.stored, record, length => length <= limits.nodeBytesMax)
    if (typeof content === 'string') throw badRecord(position, content)
    return content
  })
}

export const twinPipeline: Pipeline = {
  openNodes,

  async digestChunks(source, chunkSize, idKey) {
    checkDigest(source, chunkSize, idKey)
    const count = source.length / chunkSize
    const ids = new Uint8Array(count * 32)
    const zero = new Uint8Array(count)
    for (let index = 0; index < count; index++) {
      const chunk = source.subarray(index * chunkSize, (index + 1) * chunkSize)
      if (isZero(chunk)) zero[index] = 1
      else ids.set(createHmac('sha256', idKey).update(chunk).digest(), index * 32)
    }
    return { ids, zero }
  },

  async digestUnits(source, unit) {
    checkUnits(source, unit)
    const digests = new Uint8Array((source.length / unit) * 32)
    for (let at = 0; at < source.length; at += unit)
      digests.set(
        createHash('sha256')
          .update(source.subarray(at, at + unit))
          .digest(),
        (at / unit) * 32,
      )
    return digests
  },

  async compressChunks(source, chunkSize, indexes, target, targetOffset) {
    checkCompress(source, chunkSize, indexes, target, targetOffset)
    const lengths = new Uint32Array(indexes.length)
    let at = targetOffset
    indexes.forEach((index, position) => {
      const chunk = source.subarray(index * chunkSize, (index + 1) * chunkSize)
      const length = encodeRecord(chunk, target.subarray(at)) + RECORD_TAG
      lengths[position] = length
      at += length
    })
    return lengths
  },

  async sealChunks(batch) {
    checkSeal(batch)
    let at = 0
    batch.lengths.forEach((length, index) => {
      const id = batch.ids.subarray(index * 32, index * 32 + 32)
      sealRecord(batch.body.subarray(at, at + length), { ...batch, slot: batch.firstSlot + index, id })
      at += length
    })
  },

  async openChunks(records) {
    checkOpen(records)
    records.forEach((record, position) => {
      const { target } = record
      const content = openRecord(record.stored, record, length => length === target.length)
      if (typeof content === 'string') throw badRecord(position, content)
      target.set(content)
    })
  },

  async writeChunks(records, target) {
    checkWrite(records, target)
    const { file, chunkSize, end, idKey } = target
    for (const [position, record] of records.entries()) {
      const content = openRecord(record.stored, record, length => length === chunkSize)
      if (typeof content === 'string') throw badRecord(position, content)
      if (record.checkId && !isContentOf(content, idKey, record.id)) throw badRecord(position, 'id')
      for (const offset of record.offsets) {
        const part = content.subarray(0, end - offset)
        for (let done = 0; done < part.length; )
          done += writeSync(file.fd, part, done, part.length - done, offset + done)
      }
    }
  },
}
