/** The pipeline in the addon: on libuv's pool, over all processors, with contexts that are kept. */
import { getSystemErrorMessage, getSystemErrorName } from 'node:util'
import type { Addon } from './addon.ts'
import type { OpenNode, Pipeline } from './pipeline.ts'
import { checkCompress, checkDigest, checkOpen, checkSeal, checkUnits, checkWrite } from './pipeline-arguments.ts'
import { AAD_PREFIX_BYTES, badRecord, RECORD_FAULTS } from './record.ts'
import { openNodes } from './twin.ts'

const PLACE_BYTES = 4 + 32 + 32 + AAD_PREFIX_BYTES

export const addonPipeline = (addon: Addon): Pipeline => ({
  openNodes,

  async digestChunks(source, chunkSize, idKey) {
    checkDigest(source, chunkSize, idKey)
    const count = source.length / chunkSize
    const result = { ids: new Uint8Array(count * 32), zero: new Uint8Array(count) }
    await addon.digestChunks(source, chunkSize, idKey, result.ids, result.zero)
    return result
  },

  async digestUnits(source, unit) {
    checkUnits(source, unit)
    const digests = new Uint8Array((source.length / unit) * 32)
    await addon.digestUnits(source, unit, digests)
    return digests
  },

  async compressChunks(source, chunkSize, indexes, target, targetOffset) {
    checkCompress(source, chunkSize, indexes, target, targetOffset)
    const lengths = new Uint32Array(indexes.length)
    await addon.compressChunks(source, chunkSize, indexes, target, targetOffset, lengths)
    return lengths
  },

  async sealChunks(batch) {
    checkSeal(batch)
    const { body, lengths, firstSlot, ids, key, aadPrefix } = batch
    await addon.sealChunks(body, lengths, firstSlot, ids, key, aadPrefix)
  },

  async openChunks(records) {
    checkOpen(records)
    const buffers: Uint8Array[] = []
    for (const { stored, target } of records) buffers.push(stored, target)
    throwFault(await addon.openChunks(buffers, placesOf(records)))
  },

  async writeChunks(records, target) {
    checkWrite(records, target)
    const { file, chunkSize, end, idKey } = target
    const outcome = await addon.writeChunks(
      file.fd,
      chunkSize,
      end,
      idKey,
      records.map(({ stored }) => stored),
      placesOf(records),
      Uint32Array.from(records, ({ offsets }) => offsets.length),
      Uint8Array.from(records, ({ checkId }) => (checkId ? 1 : 0)),
      Float64Array.from(records.flatMap(({ offsets }) => offsets)),
    )
    if (outcome < -1) throw writeError(-1 - outcome)
    throwFault(outcome)
  },
})

function throwFault(outcome: number): void {
  const fault = outcome < 0 ? undefined : RECORD_FAULTS[outcome % 8]
  if (fault) throw badRecord(Math.floor(outcome / 8), fault)
}

/** As Node's own calls say it. */
function writeError(errno: number): Error {
  const code = getSystemErrorName(-errno)
  return Object.assign(new Error(`${code}: ${getSystemErrorMessage(-errno)}, write`), { code, errno: -errno })
}

/** One array instead of five objects a record: reading those in C++ would take longer than opening small records. */
function placesOf(records: readonly OpenNode[]): Uint8Array {
  const places = new Uint8Array(records.length * PLACE_BYTES)
  const view = new DataView(places.buffer)
  records.forEach(({ slot, id, key, aadPrefix }, index) => {
    const at = index * PLACE_BYTES
    view.setUint32(at, slot)
    places.set(id, at + 4)
    places.set(key, at + 36)
    places.set(aadPrefix, at + 68)
  })
  return places
}
