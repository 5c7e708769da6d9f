/** Differences between two points of one VM, from their trees. */
import type { ChangedSince } from '../backup/copy-disk.ts'
import { LifeboatError } from '../core/errors.ts'
import type { PointId } from '../core/ids.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { OlderPoints } from '../recovery/disk-contexts.ts'
import { type DiskDiff, diffDisks } from '../repository/diff.ts'
import type { OpenedRepository } from '../repository/open.ts'
import { openTree } from '../repository/recovery-point.ts'
import type { Manifest, PointSummary, RecoveryPoint } from '../repository/repository.ts'

/** Both points are pinned while they are compared. Throws what opening a point throws where one of them goes. */
export const changedSince =
  (repository: OpenedRepository, vm: string): ChangedSince =>
  async (older, newer, disk, options) => {
    const points = await repository.points({ vm, ...options })
    await using before = await openNamed(repository, points, older, options)
    await using after = await openNamed(repository, points, newer, options)
    return [...(await diffOfDisk(repository, before.manifest, after.manifest, disk, options)).extents]
  }

/** What the clients of an export may ask about. */
export const olderPoints = (
  repository: OpenedRepository,
  vm: string,
  points: readonly PointSummary[],
): OlderPoints => ({ points: points.map(({ id }) => id), changedSince: changedSince(repository, vm) })

/** A disk that only one of the two has differs in all that it holds. */
export async function diffOfDisk(
  { reading }: OpenedRepository,
  before: Manifest,
  after: Manifest,
  disk: string,
  options: AbortOptions = {},
): Promise<DiskDiff> {
  const [old, young] = [before, after].map(manifest => manifest.disks.find(({ name }) => name === disk))
  const known = old ?? young
  if (!known) throw new LifeboatError('no-such-disk', `neither point has a disk '${disk}'`)
  const empty = { ...known, size: 0, level: 0, top: EMPTY_TOP }
  await using left = openTree(reading, before, old ?? empty)
  await using right = openTree(reading, after, young ?? empty)
  return await diffDisks(left, right, options)
}

/** The top list of a disk of no bytes (docs/repository-format.md, section 5). */
const EMPTY_TOP = Uint8Array.of(1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

async function openNamed(
  repository: OpenedRepository,
  points: readonly PointSummary[],
  id: PointId,
  options: AbortOptions = {},
): Promise<RecoveryPoint> {
  const point = points.find(candidate => candidate.id === id)
  if (point) return await repository.openPoint(point, { pin: 'export', ...options })
  throw new LifeboatError('no-such-point', `point ${id} is not there any more`, {
    details: { point: id },
    hint: 'It was forgotten or removed: `lifeboat points` lists those that are left.',
  })
}
