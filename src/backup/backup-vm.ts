/**
 * Backup: the capture path as one readable story.
 *
 * What it is: `backupVm()` takes one instant of a VM's disks from a hypervisor and makes a recovery point of it.
 * What it guarantees: nothing is asked of the guest before the repository has answered; the bitmaps move on only after the
 * point is committed; whatever fails, the views are dropped first (the guest is free), then the point is given up.
 * What it does not know: QMP, packs, stores, credentials. It works with interfaces only.
 */
import type { FullReason } from '../cbt/change-tracker.ts'
import type { Clock } from '../core/clock.ts'
import type { PointId } from '../core/ids.ts'
import { hex } from '../core/ids.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { Capture, CapturedDisk, CaptureRequest, Hypervisor, VmDescription } from '../hypervisor/hypervisor.ts'
import type {
  Consistency,
  DiskStats,
  HealResult,
  Manifest,
  PointKind,
  PointSummary,
  PointWriter,
  Repository,
} from '../repository/repository.ts'
import { type ChangedSince, copyDisk, type DiskProgress } from './copy-disk.ts'

export interface BackupRequest extends AbortOptions {
  readonly vm: string
  readonly hypervisor: Hypervisor
  readonly repository: Repository
  readonly clock: Clock
  /** Chooses the point's id and the audited chunks. */
  readonly random: Random
  readonly kind: 'incremental' | 'full' | { readonly differentialTo: PointId; readonly changedSince: ChangedSince }
  /**
   * Builds upon no earlier point, for this reason, with `kind` 'full': whoever shares the trees and chunks of a point shares
   * their damage. Contents are still looked for in other packs than those that are known to be damaged.
   */
  readonly alone?: FullReason
  /** See `BeginPoint.ownDomain`. */
  readonly ownDomain?: boolean
  readonly disks?: readonly string[]
  /** A point that a bitmap may name although it is not among the newest: that of a recovered machine. */
  readonly basedOn?: PointId
  readonly fleecingDir: string
  readonly progress?: (progress: DiskProgress) => void
  /** Something that a person must hear of although the backup goes on: a lying bitmap, for one. */
  readonly alarm?: (message: string) => void
}

export interface DiskResult extends DiskStats {
  readonly name: string
  readonly size: number
  readonly reason?: FullReason
}

export interface BackupResult {
  readonly point: PointId
  readonly vm: string
  readonly kind: PointKind
  readonly base?: PointId
  readonly consistency: Consistency
  readonly seconds: number
  readonly disks: readonly DiskResult[]
  readonly omitted: Capture['omitted']
  /** Damage to earlier points that this backup could heal. */
  readonly healed: HealResult
}

/** A bitmap names its base, and at most two are kept; older points cannot be the base of one. A few more are offered so that a forgotten newest point does not cost a full read. */
const BASES_OFFERED = 4

export async function backupVm(request: BackupRequest): Promise<BackupResult> {
  const { repository, hypervisor, clock, vm } = request
  const startedMs = clock.monotonicMs()
  const point = hex(request.random(8)) as PointId
  const earlier = await repository.points({ vm, signal: request.signal })

  await using writer = await repository.beginPoint({
    vm,
    point,
    takenAt: after(earlier.at(-1), clock.now()),
    kind: 'backup',
    bases: offeredBases(request, earlier),
    ownDomain: request.ownDomain,
    signal: request.signal,
  })
  await using capture = await hypervisor.capture(captureRequest(request, point, writer))
  const watch = watched(capture, request.signal)

  const disks: DiskResult[] = []
  for (const disk of capture.disks) disks.push(await backupDisk(request, writer, disk, watch))

  watch.throwIfAborted()
  const kind = kindOf(request, disks)
  await writer.commit(
    { kind, consistency: capture.consistency, ...described(capture.vm), omitted: capture.omitted },
    { signal: request.signal },
  )
  // From here on the point exists, so Ctrl-C must no longer merge the bitmaps back: no signal is passed.
  await capture.committed()

  const base = kind === 'full' ? undefined : baseOf(request, capture)
  const seconds = (clock.monotonicMs() - startedMs) / 1000
  const { consistency, omitted } = capture
  return { point, vm, kind, base, consistency, seconds, disks, omitted, healed: writer.healed }
}

function offeredBases({ kind, alone, basedOn }: BackupRequest, earlier: readonly PointSummary[]): PointId[] {
  if (alone) return []
  const bases = earlier
    .slice(-BASES_OFFERED)
    .reverse()
    .map(point => point.id)
  for (const point of [typeof kind === 'object' ? kind.differentialTo : undefined, basedOn])
    if (point !== undefined && !bases.includes(point)) bases.push(point)
  return bases
}

/** Points are named by whole seconds: a new one sorts after the one before it, even where the clock was put back. */
function after(newest: PointSummary | undefined, now: Date): Date {
  const ms = Math.max(now.getTime(), newest ? newest.takenAt.getTime() + 1000 : 0)
  return new Date(ms - (ms % 1000))
}

function captureRequest(request: BackupRequest, point: PointId, writer: PointWriter): CaptureRequest {
  return {
    repository: request.repository.id,
    point,
    bases: [...writer.bases].map(([id, { disks }]) => ({ id, disks })),
    kind: request.kind === 'full' ? 'full' : 'incremental',
    disks: request.disks,
    fleecingDir: request.fleecingDir,
    scanned: (disk, bytesDone, bytesTotal) => request.progress?.({ disk, doing: 'scan', bytesDone, bytesTotal }),
    signal: request.signal,
  }
}

/** A signal that falls when the frozen view breaks, so that a read never waits for a guest that is gone. */
function watched(capture: Capture, signal: AbortSignal | undefined): AbortSignal {
  const broken = new AbortController()
  capture.broken.catch(error => broken.abort(error))
  return signal ? AbortSignal.any([signal, broken.signal]) : broken.signal
}

async function backupDisk(
  request: BackupRequest,
  writer: PointWriter,
  disk: CapturedDisk,
  signal: AbortSignal,
): Promise<DiskResult> {
  const { description } = disk
  try {
    const read = request.alone ? { ...disk, changes: { kind: 'full', reason: request.alone } as const } : disk
    const { stats, reason } = await copyDisk({ ...request, writer, disk: read, signal })
    return { name: description.name, size: description.size, ...stats, ...(reason && { reason }) }
  } catch (error) {
    // The read that failed because the view broke says "EINVAL"; the reason of the break says why.
    throw signal.aborted ? signal.reason : error
  }
}

/** By what was done, not by what was wanted: where every disk was read whole, for whatever reasons, the point is a full one. */
function kindOf({ kind }: BackupRequest, disks: readonly DiskResult[]): PointKind {
  if (kind === 'full' || disks.every(({ reason }) => reason !== undefined)) return 'full'
  return kind === 'incremental' ? 'incremental' : 'differential'
}

const baseOf = ({ kind }: BackupRequest, { disks }: Capture): PointId | undefined =>
  typeof kind === 'object' ? kind.differentialTo : disks.find(disk => disk.changes.kind === 'incremental')?.base

function described(vm: VmDescription): { description: Manifest['description']; firmwareVariables?: Uint8Array } {
  const { firmware, ...rest } = vm
  if (!firmware) return { description: { ...rest } }
  const { variables, ...clear } = firmware
  return { description: { ...rest, firmware: clear }, firmwareVariables: variables }
}
