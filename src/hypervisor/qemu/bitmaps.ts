/**
 * The life of Lifeboat's dirty bitmaps, and why a kill between any two commands loses nothing.
 *
 * A bitmap B(p) bears in its name the point p at whose instant it was created, and while it records it holds every write
 * since then. Every capture does, each line being one command that QEMU carries out wholly or not at all:
 *
 *   switch   one transaction for all disks, guest paused:   add B(n); disable B(o)
 *   (the repository commits n, or does not)
 *   commit   one transaction:                               remove B(o)
 *   abort    one transaction:                               enable B(o); merge B(n) into B(o); remove B(n)
 *
 * So a disk is only ever in one of these states when a run dies, and the next run settles them before it does anything:
 *
 * - B(o) alone, recording. Before the switch, after the abort, or after the commit (then it is called B(n)). If the
 *   repository holds its point it is the base of an increment, else it is foreign.
 * - B(o) disabled and B(n) recording: killed between switch and commit or abort. Together they hold every write since o,
 *   B(n) alone every write since n. Which one is right depends on whether n was committed, and the repository knows:
 *     n is a base          B(n) is exact, B(o) goes. (Killed after the manifest was written, before the rotation.)
 *     n is no base         the abort that was missed is made up for: the union under the name B(o) is exact.
 *   If the answer is out of date (n is committed while we look), the union since o is still a superset: never too little.
 *   If neither is a base the union under o's name is kept too: both are foreign here, and only one place is taken.
 * - Nothing: the first backup, or the machine was off and the disk's format cannot keep bitmaps: a full read.
 *
 * In a transaction the order "enable before merge, merge before remove", "add before disable" means that even a write that
 * came in between would be in at least one bitmap that stays.
 *
 * QEMU that is killed (or a host that loses power) leaves persistent bitmaps marked in use: they come back `inconsistent`
 * and can only be removed. B(n), not yet written to the file, is then gone altogether, so B(o) must never be used alone when
 * it is found disabled without a partner: something else happened, and it counts as inconsistent as well.
 *
 * `qemu-img` cannot do several bitmaps in one step (see qcow2-bitmaps.ts): two that both record are each exact for their own
 * name, so the newest whose point is a base is kept.
 */
import type { FullReason } from '../../cbt/change-tracker.ts'
import type { PointId, RepositoryId } from '../../core/ids.ts'
import { limits } from '../../core/limits.ts'
import { pointOfBitmap } from '../bitmap-name.ts'
import type { CaptureRequest } from '../hypervisor.ts'
import type { DirtyBitmap } from './block-nodes.ts'
import type { JsonObject } from './json.ts'

export type BitmapStep =
  | { readonly do: 'add' | 'remove' | 'enable' | 'disable'; readonly name: string }
  | { readonly do: 'merge'; readonly name: string; readonly from: string }

export interface OwnBitmap {
  readonly name: string
  readonly point: PointId
}

export interface Settlement {
  /** To be carried out before anything else, in this order. */
  readonly steps: readonly BitmapStep[]
  /** The one that remains, recording. */
  readonly survivor?: OwnBitmap
  /** One of ours could not be used. */
  readonly lost: boolean
}

/** What an earlier run of this repository left on one disk becomes at most one recording bitmap. Others' are not looked at. */
export function settle(
  bitmaps: readonly Pick<DirtyBitmap, 'name' | 'recording' | 'inconsistent'>[],
  repository: RepositoryId,
  bases: readonly PointId[],
): Settlement {
  const ours = bitmaps.flatMap(bitmap => {
    const point = pointOfBitmap(bitmap.name, repository)
    return point === undefined ? [] : [{ ...bitmap, point }]
  })
  const recording = ours.filter(bitmap => bitmap.recording && !bitmap.inconsistent)
  const disabled = ours.filter(bitmap => !bitmap.recording && !bitmap.inconsistent)
  const age = ({ point }: OwnBitmap) => (bases.includes(point) ? bases.indexOf(point) : bases.length)
  const newer = recording.toSorted((a, b) => age(a) - age(b))[0]

  const interrupted = recording.length === 1 && disabled.length === 1 && newer && !bases.includes(newer.point)
  const survivor = interrupted ? disabled[0] : newer
  const steps: BitmapStep[] = interrupted && survivor && newer ? foldSteps(survivor.name, newer.name) : []
  const folded = interrupted ? newer : undefined
  for (const bitmap of ours)
    if (bitmap !== survivor && bitmap !== folded) steps.push({ do: 'remove', name: bitmap.name })
  return {
    steps,
    ...(survivor && { survivor: { name: survivor.name, point: survivor.point } }),
    lost: !survivor && ours.length > 0,
  }
}

/** The abort: all writes since the older one's point, under its name. */
export const foldSteps = (older: string, newer: string): BitmapStep[] => [
  { do: 'enable', name: older },
  { do: 'merge', name: older, from: newer },
  { do: 'remove', name: newer },
]

export const switchSteps = (older: string | undefined, newer: string): BitmapStep[] => [
  { do: 'add', name: newer },
  ...(older === undefined ? [] : [{ do: 'disable' as const, name: older }]),
]

export type ChangeBase =
  | { readonly kind: 'incremental'; readonly base: PointId; readonly bitmap: string }
  | { readonly kind: 'full'; readonly reason: FullReason }

/** Since which point, if any, the surviving bitmap tells what changed on a disk. */
export function changeBase(
  disk: { readonly name: string; readonly size: number },
  { survivor, lost }: Settlement,
  { kind, bases }: Pick<CaptureRequest, 'kind' | 'bases'>,
): ChangeBase {
  if (kind === 'full') return { kind: 'full', reason: 'requested' }
  if (lost) return { kind: 'full', reason: 'bitmap-inconsistent' }
  if (!survivor) return { kind: 'full', reason: withoutBitmap(disk.name, bases) }
  const base = bases.find(({ id }) => id === survivor.point)
  if (!base) return { kind: 'full', reason: 'bitmap-foreign' }
  const before = base.disks.find(({ name }) => name === disk.name)
  if (!before) return { kind: 'full', reason: 'disk-added' }
  if (before.size !== disk.size) return { kind: 'full', reason: 'disk-resized' }
  return { kind: 'incremental', base: base.id, bitmap: survivor.name }
}

function withoutBitmap(name: string, bases: CaptureRequest['bases']): FullReason {
  if (bases.length === 0) return 'first-backup'
  return bases.some(({ disks }) => disks.some(disk => disk.name === name)) ? 'bitmap-missing' : 'disk-added'
}

/** The steps as actions of one QMP transaction. */
export function transactionActions(node: string, persistent: boolean, steps: readonly BitmapStep[]): JsonObject[] {
  return steps.map(step => {
    const type = `block-dirty-bitmap-${step.do}`
    if (step.do === 'merge') return { type, data: { node, target: step.name, bitmaps: [step.from] } }
    if (step.do === 'add')
      return { type, data: { node, name: step.name, persistent, granularity: limits.bitmapGranularity } }
    return { type, data: { node, name: step.name } }
  })
}
