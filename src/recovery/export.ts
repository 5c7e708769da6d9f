/** Serves a point's disks: pinned, cached, and given to an exporter; taken down in order. */

import { type CachedImageStats, cachedImage } from '../cache/cached-image.ts'
import type { ChunkCache } from '../cache/chunk-cache.ts'
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { PointSummary, RecoveryPoint, Repository } from '../repository/repository.ts'
import { diskContexts, type OlderPoints } from './disk-contexts.ts'
import type { Exporter, ListenAddress } from './exporter.ts'
import { observedReads } from './observed-reads.ts'

export interface ExportRequest extends AbortOptions {
  readonly repository: Repository
  readonly point: PointSummary
  /** All disks of the point where none are named. */
  readonly disks?: readonly string[]
  readonly listen: ListenAddress
  readonly exporter: Exporter
  /** Shared by all exports of the process. */
  readonly cache: ChunkCache
  /** 'session' pins never expire. `pinId` is that of a session that resumes. */
  readonly pin?: 'export' | 'session'
  readonly pinId?: string
  /** Points that clients may ask differences to. */
  readonly older?: OlderPoints
  /** Told of each read after its bytes were there. */
  readonly onRead?: (disk: string, bytes: number) => void
}

/** Dispose stops in order: the server finishes what is in flight, then the images go, then the pin. */
export interface RunningExport extends AsyncDisposable {
  readonly uris: readonly string[]
  readonly point: RecoveryPoint
  readonly disks: readonly { readonly name: string; readonly size: number; readonly stats: () => CachedImageStats }[]
}

/** Throws 'no-such-disk' and what opening a point throws. */
export async function exportPoint(request: ExportRequest): Promise<RunningExport> {
  const { repository, exporter, cache, listen, pin = 'export', pinId, older, signal, onRead } = request
  await using stack = new AsyncDisposableStack()
  const point = stack.use(await repository.openPoint(request.point, { pin, pinId, signal }))
  const names = request.disks ?? point.manifest.disks.map(disk => disk.name)
  if (names.length === 0)
    throw new LifeboatError('no-such-disk', `point ${point.id} has no disks`, { details: { object: point.key } })
  const disks = names.map(name => ({ name, image: stack.use(cachedImage(point.disk(name), { cache })) }))
  const exports = disks.map(({ name, image }) => ({
    name,
    description: `${point.manifest.vm} at ${point.manifest.takenAt.toISOString()}`,
    device: onRead ? observedReads(image, bytes => onRead(name, bytes)) : image,
    readOnly: true,
    contexts: diskContexts({ disk: name, point: () => point.id, older }, { signal }),
  }))
  const server = stack.use(await exporter({ exports, listen, signal }))
  const owned = stack.move()
  return {
    uris: server.uris,
    point,
    disks: disks.map(({ name, image }) => ({ name, size: image.size, stats: () => image.stats() })),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}
