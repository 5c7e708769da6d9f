/**
 * Mount: every VM, point, disk and guest file as one tree.
 *
 *     by-vm/<vm>/<time>/disks/<name>.raw       the disk as it was, read as it is needed
 *                       manifest.json          what the point says of itself, with its holds
 *                       files/<volume>/...     the guest's own files, where somebody opens guests
 *     by-vm/<vm>/latest                        a link to the newest point
 *     by-time/<day>/<vm>-<time>                links to all points of a day
 *
 * What it is: a `FileTree` over a repository. A listing of points is all that it needs to show them; a manifest is read when
 * somebody looks into its point, and a point is opened and pinned when something of it is read, until a while after it was closed.
 * What it guarantees: a name stands for one point for ever, and is safe for shells and terminals; a point that is new or
 * forgotten comes or goes within the time of `limits.mountListMs`, one that is open stays readable; how many points are open, and
 * what is kept of others, has a bound. While the store is away what was known stays, and nothing is said to be absent that could not be looked for.
 * What it does not know: the kernel, who asks, and how a guest's filesystem is parsed.
 */
import type { ChunkCache } from '../cache/chunk-cache.ts'
import type { Clock } from '../core/clock.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { Entry, FileTree } from '../files/file-tree.ts'
import { virtualDirectory } from '../files/virtual-node.ts'
import type { OpenGuest } from '../guest/guest-filesystems.ts'
import type { OpenedRepository } from '../repository/open.ts'
import type { PointSummary } from '../repository/repository.ts'
import { dayFolders } from './day-folders.ts'
import { DescribedPoints } from './described-points.ts'
import { guestFolder } from './guest-folder.ts'
import { KeptOpen } from './kept-open.ts'
import { PointListing } from './listing.ts'
import { FOLDER, type Owner, ours, type Place } from './nodes.ts'
import { OpenGuestFiles } from './open-guest-files.ts'
import { OpenPoint } from './open-points.ts'
import type { PointFolderContext } from './point-folder.ts'
import { vmFolders } from './vm-folders.ts'

export interface PointsTreeOptions {
  readonly repository: Pick<OpenedRepository, 'points' | 'manifest' | 'openPoint' | 'reading'>
  /** Shared by all images of the process. */
  readonly cache: ChunkCache
  readonly clock: Clock
  /** Of everything but the guests' files. */
  readonly owner: Owner
  /** Without it there is no `files/`. */
  readonly openGuest?: OpenGuest
  readonly onTrouble: (message: string, error?: unknown) => void
}

/** The points are listed before it is given. Dispose closes what is open, whoever reads it. */
export async function pointsTree(options: PointsTreeOptions, late: AbortOptions = {}): Promise<FileTree> {
  await using stack = new AsyncDisposableStack()
  const { clock, owner } = options
  const listing = stack.use(new PointListing(options))
  await listing.current(late)
  const described = stack.use(
    new DescribedPoints({ ...options, following: (point, count) => listing.following(point, count) }),
  )
  const context = { ...openOnes(options, stack), described, owner }
  const place: Place = { tree: 'mount', modified: clock.now(), owner }
  const entries: readonly Entry[] = [
    { name: 'by-vm', node: vmFolders(listing, place, context) },
    { name: 'by-time', node: dayFolders(listing, place) },
  ]
  const root = virtualDirectory({ ...ours(place, 1n, FOLDER), entries: async () => entries })
  const owned = stack.move()
  return { root, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}

/** Guests are closed before the points whose disks they read. */
function openOnes(
  options: PointsTreeOptions,
  stack: AsyncDisposableStack,
): Pick<PointFolderContext, 'usePoint' | 'guestFolder'> {
  const { clock, openGuest, onTrouble } = options
  let isUnpinnedTold = false
  const points = stack.use(
    new KeptOpen({
      noun: 'points',
      clock,
      max: limits.mountPointsOpen,
      idleMs: limits.mountPointIdleMs,
      onTrouble,
      async open(point: PointSummary, late) {
        const opened = await OpenPoint.open(point, options, late)
        if (!opened.isPinned && !isUnpinnedTold) {
          isUnpinnedTold = true
          onTrouble(UNPINNED)
        }
        return opened
      },
    }),
  )
  const usePoint = (point: PointSummary, late?: AbortOptions) => points.use(point, late)
  if (!openGuest) return { usePoint }
  const guests = stack.use(
    new KeptOpen({
      noun: 'guests',
      clock,
      max: limits.mountGuestsOpen,
      idleMs: limits.mountGuestIdleMs,
      onTrouble,
      open: async (point: PointSummary, late) => OpenGuestFiles.open(await points.use(point, late), openGuest, late),
    }),
  )
  const folderOf: PointFolderContext['guestFolder'] = (point, place, inode) =>
    guestFolder({ point, place, inode, useGuest: late => guests.use(point, late) })
  return { usePoint, guestFolder: folderOf }
}

const UNPINNED =
  'this host cannot write to the repository: points that are read are safe for the grace of a running gc only'
