/** One disk of a capture into one disk of a point: what to read, the audit, and the copy itself. */
import type { ChangeSet, FullReason } from '../cbt/change-tracker.ts'
import type { PointId } from '../core/ids.ts'
import type { Random } from '../core/random.ts'
import { alignRanges, mergeRanges, type Range, totalLength } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { CapturedDisk } from '../hypervisor/hypervisor.ts'
import type { DiskStats, DiskWriter, PointWriter, Repository } from '../repository/repository.ts'
import { bitmapIsTrue } from './audit.ts'
import { readSegments } from './read-segments.ts'

/** Ranges in which a disk differs between two points of one VM, from their trees. */
export type ChangedSince = (older: PointId, newer: PointId, disk: string, options?: AbortOptions) => Promise<Range[]>

export interface DiskProgress {
  readonly disk: string
  /** 'scan': it is read whole in order to find out what changed. */
  readonly doing: 'scan' | 'copy'
  readonly bytesDone: number
  readonly bytesTotal: number
}

export interface CopyDisk {
  readonly repository: Pick<Repository, 'chunkSize'>
  readonly writer: PointWriter
  readonly disk: CapturedDisk
  readonly kind: 'incremental' | 'full' | { readonly differentialTo: PointId; readonly changedSince: ChangedSince }
  readonly random: Random
  readonly signal: AbortSignal
  readonly progress?: (progress: DiskProgress) => void
  readonly alarm?: (message: string) => void
}

/** What to read of a disk, and on which point its unread chunks rest. */
interface Plan {
  readonly changes: ChangeSet
  readonly base?: PointId
}

export async function copyDisk(copy: CopyDisk): Promise<{ stats: DiskStats; reason?: FullReason }> {
  const { writer, disk } = copy
  const { description } = disk
  let plan = await planOf(copy)
  const request = { name: description.name, size: description.size, description: { ...description } }
  const { base } = plan
  const target = await writer.disk({ ...request, base })

  if (plan.changes.kind === 'incremental' && !(await bitmapIsTrue(copy, plan.changes.ranges, target))) {
    copy.alarm?.(
      `disk ${description.name}: a chunk that the dirty bitmap calls clean has changed; the whole disk is compared instead. ` +
        'Something wrote to the disk behind its hypervisor, or the bitmap is damaged.',
    )
    plan = { changes: { kind: 'full', reason: 'bitmap-untrue' }, base }
  }
  const { changes } = plan
  const bytesRead = (disk.bytesScanned ?? 0) + (await copyRanges(copy, changes, target))
  const reason = changes.kind === 'full' ? changes.reason : undefined
  return { stats: await target.finish({ bytesRead, reason }, { signal: copy.signal }), reason }
}

async function planOf({ writer, disk, kind, signal }: CopyDisk): Promise<Plan> {
  const { name } = disk.description
  const newest = [...writer.bases].find(([, manifest]) => manifest.disks.some(held => held.name === name))?.[0]
  if (disk.changes.kind === 'full') return { changes: disk.changes, base: newest }
  // The capture was offered the writer's bases only, so another one means that its contract was broken: read all.
  if (!disk.base || !writer.bases.has(disk.base))
    return { changes: { kind: 'full', reason: 'base-gone' }, base: newest }
  if (typeof kind !== 'object' || kind.differentialTo === disk.base) return { changes: disk.changes, base: disk.base }
  if (!writer.bases.has(kind.differentialTo)) return { changes: { kind: 'full', reason: 'base-gone' }, base: newest }
  const older = await kind.changedSince(kind.differentialTo, disk.base, name, { signal })
  return {
    changes: { kind: 'incremental', ranges: mergeRanges([...disk.changes.ranges, ...older]) },
    base: kind.differentialTo,
  }
}

/** Copies what changed, in rising order, and gives the bytes that were read. A full read says of every hole that it is one. */
async function copyRanges(copy: CopyDisk, changes: ChangeSet, target: DiskWriter): Promise<number> {
  const { disk, repository, signal } = copy
  const { name, size } = disk.description
  const ranges =
    changes.kind === 'full' ? [{ offset: 0, length: size }] : alignRanges(changes.ranges, repository.chunkSize, size)
  const bytesTotal = totalLength(ranges)
  let bytesRead = 0
  let bytesDone = 0
  for await (const segment of readSegments(disk.image, ranges, repository.chunkSize, { signal })) {
    if (segment.kind === 'zero') await target.zero(segment, { signal })
    else {
      await target.write(segment.offset, segment.data, { signal })
      bytesRead += segment.length
    }
    bytesDone += segment.length
    copy.progress?.({ disk: name, doing: 'copy', bytesDone, bytesTotal })
  }
  return bytesRead
}
