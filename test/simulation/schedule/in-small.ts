/**
 * The same program in small. A walk makes some hundred steps with a few chunks; buffers of 17 MiB and segments of 1,024 chunks
 * would take a hundred times longer than the steps themselves. To be called once in a process that does nothing but walks.
 */
import { createHash, createHmac } from 'node:crypto'
import { KiB, limits } from '../../../src/core/limits.ts'
import type { Pipeline } from '../../../src/native/pipeline.ts'
import { twinPipeline } from '../../../src/native/twin.ts'
import { isZero } from '../../../src/native/zero.ts'

export function runInSmall(): void {
  // And every pack that is worth it is compacted, not only as many as keep garbage at a tenth.
  const small = { packTargetBytes: 64 * KiB, writeWindowBytes: 64 * KiB, dedupSegmentChunks: 1, garbageShare: 0 }
  Object.assign(limits, small)
  // The platform's own works on another thread, whose timing would be a choice that no seed repeats.
  Object.defineProperty(crypto.subtle, 'digest', {
    value: async (_: string, bytes: Uint8Array) => new Uint8Array(createHash('sha256').update(bytes).digest()).buffer,
  })
}

const known = new Map<string, Uint8Array>()

/** The plain pipeline, which computes each id once: contents are random and few, so that their first bytes tell them apart. */
export const pipelineInSmall: Pipeline = {
  ...twinPipeline,
  async digestChunks(source, chunkSize, idKey) {
    const count = source.length / chunkSize
    const ids = new Uint8Array(count * 32)
    const zero = new Uint8Array(count)
    const domain = Buffer.from(idKey.buffer, idKey.byteOffset, idKey.length).toString('latin1')
    for (let n = 0; n < count; n++) {
      const chunk = source.subarray(n * chunkSize, (n + 1) * chunkSize)
      if (isZero(chunk)) {
        zero[n] = 1
        continue
      }
      const name = domain + Buffer.from(chunk.buffer, chunk.byteOffset, 32).toString('latin1')
      const id = known.get(name) ?? createHmac('sha256', idKey).update(chunk).digest()
      known.set(name, id)
      ids.set(id, n * 32)
    }
    return { ids, zero }
  },
}
