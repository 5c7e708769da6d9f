/** The audit of clean chunks: a dirty bitmap is believed, and checked. */
import { limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import { alignRanges, type Range, totalLength } from '../core/range.ts'
import type { CapturedDisk } from '../hypervisor/hypervisor.ts'
import type { DiskWriter, Repository } from '../repository/repository.ts'

interface Audit {
  readonly repository: Pick<Repository, 'chunkSize'>
  readonly disk: CapturedDisk
  readonly random: Random
  readonly signal: AbortSignal
}

/**
 * Re-reads chunks at random that the bitmap calls clean, at most 1 % of the changed bytes and at least one chunk, and
 * compares their ids with the base's. False: the bitmap lies.
 */
export async function bitmapIsTrue(audit: Audit, changed: readonly Range[], target: DiskWriter): Promise<boolean> {
  const { disk, signal } = audit
  const { chunkSize } = audit.repository
  const { size } = disk.description
  const buffer = new Uint8Array(chunkSize)
  for (const index of cleanChunks(audit, alignRanges(changed, chunkSize, size))) {
    const offset = index * chunkSize
    const data = buffer.subarray(0, Math.min(chunkSize, size - offset))
    await disk.image.readInto(data, offset, { signal })
    if (!(await target.matchesBase(offset, data, { signal }))) return false
  }
  return true
}

/** Distinct clean chunk indexes in rising order. `dirty` is aligned to chunks and merged. */
export function cleanChunks({ disk, random, repository }: Audit, dirty: readonly Range[]): number[] {
  const { chunkSize } = repository
  const chunks = Math.ceil(disk.description.size / chunkSize)
  const dirtyChunks = Math.ceil(totalLength(dirty) / chunkSize)
  const clean = chunks - dirtyChunks
  const wanted = Math.min(clean, Math.max(1, Math.floor(dirtyChunks * limits.auditFraction)))
  const ranks = new Set<number>()
  while (ranks.size < wanted) ranks.add(below(random, clean))
  return [...ranks].sort((a, b) => a - b).map(rank => nthClean(rank, dirty, chunkSize))
}

/** The chunk that has exactly `rank` clean chunks before it. */
function nthClean(rank: number, dirty: readonly Range[], chunkSize: number): number {
  let index = rank
  for (const range of dirty) {
    if (range.offset > index * chunkSize) break
    index += Math.ceil(range.length / chunkSize)
  }
  return index
}

/** Six bytes are far more than any chunk count, so the modulo's bias does not matter for a sample. */
function below(random: Random, bound: number): number {
  const bytes = random(6)
  return Buffer.from(bytes.buffer, bytes.byteOffset, 6).readUIntBE(0, 6) % bound
}
