/** One point's guest, opened for reading files: its disks through the caches, pinned, and who parses what is on them. */

import type { ChosenFilesystems } from '../guest/open-guest.ts'
import { openDisks } from '../recovery/export.ts'
import type { PointSummary } from '../repository/repository.ts'
import { type FoundPlace, findPlace } from './files-volume.ts'
import type { OpenChosenGuest } from './guests.ts'
import type { Invocation } from './invocation.ts'
import type { LiveRepository } from './live-reads.ts'

/** Dispose ends the parsers, then the disks, then the pin. */
export interface OpenedFiles extends AsyncDisposable {
  readonly point: PointSummary
  readonly guest: ChosenFilesystems
  /** The place of a path; `words` as in POINT/DISK/p2. */
  find(words: string | undefined, path: string): Promise<FoundPlace>
}

export async function openFiles(
  { output, signal }: Invocation,
  { repository, cache }: LiveRepository,
  point: PointSummary,
  guests: OpenChosenGuest,
): Promise<OpenedFiles> {
  await using stack = new AsyncDisposableStack()
  const opened = stack.use(await openDisks({ repository, point, cache, pin: 'restore', signal }))
  if (!opened.point.pinned)
    output.warning('this host cannot write to the repository: the point is safe for the grace of a running gc only')
  const disks = opened.disks.map(({ name, base }) => ({ name, image: base }))
  const guest = stack.use(await guests(disks))
  const owned = stack.move()
  return {
    point,
    guest,
    find(words, path) {
      const onSkipped = (_volume: string, why: string) => output.warning(`not looked into: ${why}`)
      return findPlace({ guest, disks: disks.map(({ name }) => name), words, onSkipped, signal }, path)
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}
