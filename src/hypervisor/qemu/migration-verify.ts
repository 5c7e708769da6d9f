/** Whether a disk that has moved holds what its source held, and what its dirty bitmaps become. */
import type { Clock } from '../../core/clock.ts'
import { LifeboatError } from '../../core/errors.ts'
import { KiB, limits } from '../../core/limits.ts'
import { intersect, type Range, totalLength } from '../../core/range.ts'
import { bitmapContext, type NbdReader, readDirtyRanges } from '../nbd-reader.ts'
import { type AttachedDisk, OURS } from './block-nodes.ts'
import { differingRanges } from './compare-views.ts'
import { addExport, removeExport } from './exports.ts'
import { exportId } from './freezing-method.ts'
import { openExportsOn } from './frozen-view.ts'
import type { MigrationProgress } from './migrate.ts'
import type { QmpClient } from './qmp.ts'

export interface Pivoted {
  readonly disk: AttachedDisk
  readonly node: string
  readonly path: string
  readonly format: string
}

/** Followed by the source's node: counts what is written to the target from just before the pivot on, until it was compared. */
const WATCH = 'migrate-watch.'
/** A copy of it that stands still, since QEMU exports no other. */
const SEEN = 'migrate-seen'
/** A write whose bytes are there and whose bit is not yet set is given this often, and so long, to end. */
const LOOKS = 3
const LOOK_AGAIN_MS = 1000

export const watchTarget = (qmp: QmpClient, node: string, source: string): Promise<unknown> =>
  addBitmap(qmp, node, WATCH + source, {})

/** The source of a disk that has moved and was not compared, because that run was killed. */
export const unverifiedSource = ({ bitmaps }: AttachedDisk): string | undefined =>
  bitmaps.find(({ name }) => name.startsWith(WATCH))?.name.slice(WATCH.length)

const addBitmap = (qmp: QmpClient, node: string, name: string, more: { persistent?: boolean; disabled?: boolean }) =>
  qmp.execute('block-dirty-bitmap-add', { node, name, granularity: limits.bitmapGranularity, ...more })

const mergeBitmap = (qmp: QmpClient, node: string, target: string, from: { node: string; name: string }) =>
  qmp.execute('block-dirty-bitmap-merge', { node, target, bitmaps: [from] })

/**
 * Bitmaps of ours that record go along, so that the next backup is an increment still: from before the pivot the target's
 * record, and after it they are joined with what the sources' had until then.
 */
export async function copyBitmaps(
  qmp: QmpClient,
  disk: AttachedDisk,
  node: string,
  format: string,
): Promise<{ merge(): Promise<void> }> {
  const moving = disk.bitmaps.filter(
    ({ name, recording, inconsistent }) => name.startsWith(OURS) && recording && !inconsistent,
  )
  for (const { name } of moving) await addBitmap(qmp, node, name, { persistent: format === 'qcow2' })
  return {
    async merge() {
      for (const { name } of moving) await mergeBitmap(qmp, node, name, { node: disk.node, name })
    },
  }
}

/** Throws 'migration-differs' with where; nothing is changed. */
export async function verifyCopy(
  context: {
    readonly qmp: QmpClient
    readonly clock: Clock
    readonly socket: string
    readonly progress?: ((progress: MigrationProgress) => void) | undefined
  },
  { disk, node, path }: Pivoted,
): Promise<void> {
  const { qmp, clock, socket, progress } = context
  const open = openExportsOn(socket, clock)
  const [source, target] = ['source', 'target']
  await addExport(qmp, source, disk.node, [], {})
  await addExport(qmp, target, node, [], {})
  let suspects: readonly Range[]
  {
    await using before = await open(source, [], {})
    await using after = await open(target, [], {})
    let done = 0
    const told = (bytes: number) => {
      done += bytes
      progress?.({ disk: disk.name, phase: 'verify', done, total: disk.size })
    }
    const bounds = { unit: UNIT, countMax: limits.migrationDifferencesMax }
    suspects = await differingRanges(before, after, { ...bounds, progress: told })
  }
  await removeExport(qmp, exportId(source))
  await removeExport(qmp, exportId(target))
  for (let look = 1; suspects.length > 0; look++) {
    suspects = without(suspects, await writtenSince(context, node, disk.node))
    if (suspects.length > 0 && look === LOOKS) throw differs(disk.name, path, suspects)
    if (suspects.length > 0) await clock.sleep(LOOK_AGAIN_MS)
  }
  await qmp.execute('block-dirty-bitmap-remove', { node, name: WATCH + disk.node })
}

/** What one difference is narrowed down to. */
const UNIT = 4 * KiB

async function writtenSince(
  { qmp, clock, socket }: Parameters<typeof verifyCopy>[0],
  node: string,
  source: string,
): Promise<readonly Range[]> {
  await addBitmap(qmp, node, SEEN, { disabled: true })
  try {
    await mergeBitmap(qmp, node, SEEN, { node, name: WATCH + source })
    await addExport(qmp, SEEN, node, [SEEN], {})
    try {
      await using view: NbdReader = await openExportsOn(socket, clock)(SEEN, [bitmapContext(SEEN)], {})
      return await readDirtyRanges(view, SEEN, {})
    } finally {
      await removeExport(qmp, exportId(SEEN))
    }
  } finally {
    await qmp.execute('block-dirty-bitmap-remove', { node, name: SEEN })
  }
}

/** Those that do not lie wholly inside what was written. Differences are units of 4 KiB, dirty areas multiples of them. */
function without(suspects: readonly Range[], written: readonly Range[]): readonly Range[] {
  return suspects.filter(suspect => {
    const covered = totalLength(written.flatMap(range => intersect(range, suspect) ?? []))
    return covered < suspect.length
  })
}

const differs = (disk: string, path: string, ranges: readonly Range[]): LifeboatError =>
  new LifeboatError(
    'migration-differs',
    `disk ${disk} on ${path} does not hold what its source held, at ${ranges[0]?.offset}`,
    {
      details: { object: path, disk, bytes: totalLength(ranges), ranges: ranges.slice(0, 20) },
      hint: 'The storage did not keep what was written to it. The session and its overlay are as they were: stop the VM, and resume the session.',
    },
  )
