/** What a restore to a new file would fetch and write, from the disk's tree alone: for --dry-run. */
import { chunkKey } from '../cache/chunk-cache.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ReadPlan } from '../repository/read-plan.ts'
import type { ChunkRef, ChunkSource } from '../repository/repository.ts'
import { chunksAtOnce, presentBatches } from './restore.ts'

/** Adds to `plan` what `restoreDisk` would ask for; gives the bytes that it would write. */
export async function planRestore(source: ChunkSource, plan: ReadPlan, options: AbortOptions = {}): Promise<number> {
  const { size, chunkSize } = source
  let bytesWritten = 0
  for await (const { first, count } of presentBatches(
    source,
    Math.ceil(size / chunkSize),
    chunksAtOnce(chunkSize),
    options,
  )) {
    const wanted = new Map<string, ChunkRef>()
    for (const [i, ref] of (await source.locate(first, count, options)).entries()) {
      if (!ref) continue
      wanted.set(chunkKey(ref.id), wanted.get(chunkKey(ref.id)) ?? ref)
      bytesWritten += Math.min(chunkSize, size - (first + i) * chunkSize)
    }
    plan.add([...wanted.values()], chunkSize)
  }
  return bytesWritten
}
