/** Serves a point's disks: pinned, cached, under overlays where clients may write, given to an exporter; taken down in order. */

import { type CachedImageStats, cachedImage } from '../cache/cached-image.ts'
import type { ChunkCache } from '../cache/chunk-cache.ts'
import { LifeboatError } from '../core/errors.ts'
import type { Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { PointSummary, RecoveryPoint, Repository } from '../repository/repository.ts'
import { diskContexts, type OlderPoints } from './disk-contexts.ts'
import type { ExportedDevice, Exporter, ListenAddress } from './exporter.ts'
import { type GatedOverlays, gatedOverlays } from './gated-overlays.ts'
import type { Hydration } from './hydration.ts'
import type { Overlays } from './overlays.ts'
import { ReplaceableImage } from './replaceable-image.ts'

export interface ExportRequest extends AbortOptions {
  readonly repository: Repository
  readonly point: PointSummary
  /** All disks of the point where none are named. */
  readonly disks?: readonly string[]
  readonly listen: ListenAddress
  readonly exporter: Exporter
  /** Shared by all exports of the process. */
  readonly cache: ChunkCache
  /** 'session' pins never expire. `pinId` is that of a session that resumes, `newPinId` the id of one that is put. */
  readonly pin?: 'export' | 'session' | 'mount' | 'restore'
  readonly pinId?: string
  readonly newPinId?: string
  /** Points that clients may ask differences to. */
  readonly older?: OlderPoints
  /** Told of each read of the point after its bytes were there. */
  readonly onRead?: (disk: string, bytes: number, offset: number) => void
  /** A read of the point that memory alone could not answer has begun (1) or ended (-1). */
  readonly onWait?: (change: 1 | -1) => void
  /** Where the disks are copied to, and read when they are there. This export's from now on; the caller begins it. */
  readonly hydration?: Hydration
  /** Opens what takes the writes of clients; without it all is read-only. */
  readonly overlays?: (disks: readonly ExportedDisk[]) => Promise<Overlays>
}

export interface ExportedDisk {
  readonly name: string
  readonly size: number
  /** The point's disk, below the overlay. */
  readonly base: ReplaceableImage
  readonly stats: () => CachedImageStats
}

/** Dispose stops in order: the server finishes what is in flight, then overlays and images go, then the pin. */
export interface RunningExport extends AsyncDisposable {
  readonly uris: readonly string[]
  readonly point: RecoveryPoint
  readonly disks: readonly ExportedDisk[]
  readonly overlays: GatedOverlays | undefined
  /** Throws 'usage' or 'no-such-disk' where the disks of `next` are others. */
  checkPoint(next: RecoveryPoint): void
  /** From now on the disks are those of `next`, which belongs to this export; the old point is closed, and its pin stays where it was kept. */
  replacePoint(next: RecoveryPoint): Promise<void>
}

/** Throws 'no-such-disk' and what opening a point throws. */
export async function exportPoint(request: ExportRequest): Promise<RunningExport> {
  const { exporter, listen, older, signal } = request
  await using stack = new AsyncDisposableStack()
  const opened = stack.use(await openDisks(request))
  const { disks, overlays } = opened
  const { manifest } = opened.point
  const exports = disks.map(({ name, base }): ExportedDevice => {
    const description = `${manifest.vm} at ${manifest.takenAt.toISOString()}`
    const overlay = overlays?.disk(name)
    const written = overlay && ((range: Range) => overlay.written(range))
    const contexts = diskContexts({ disk: name, point: () => opened.point.id, older, written }, { signal })
    const path = `${manifest.vm}/${name}`
    // An overlay notes zeroes in its tables.
    const writable = overlay !== undefined
    return { name, description, path, device: overlay ?? base, readOnly: !writable, fastZero: writable, contexts }
  })
  const server = stack.use(await exporter({ exports, listen, signal }))
  const owned = stack.move()
  return {
    uris: server.uris,
    get point() {
      return opened.point
    },
    disks,
    overlays,
    checkPoint: next => opened.checkPoint(next),
    replacePoint: next => opened.replacePoint(next),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

export type OpenDisksRequest = Omit<ExportRequest, 'exporter' | 'listen'>
export type OpenedDisks = Omit<RunningExport, 'uris'>

/** The same without a server: what a stopped session reads. */
export async function openDisks(request: OpenDisksRequest): Promise<OpenedDisks> {
  const { repository, cache, pin = 'export', pinId, newPinId, signal, onRead, onWait, hydration } = request
  await using stack = new AsyncDisposableStack()
  let point = await repository.openPoint(request.point, { pin, pinId, newPinId, signal })
  stack.defer(() => point[Symbol.asyncDispose]())
  const names = request.disks ?? point.manifest.disks.map(disk => disk.name)
  if (names.length === 0)
    throw new LifeboatError('no-such-disk', `point ${point.id} has no disks`, { details: { object: point.key } })
  if (hydration) await stack.use(hydration).turnTo(point, names)
  const imageOf = (name: string) => cachedImage(hydration?.source(name) ?? point.disk(name), { cache })
  const disks = names.map((name): ExportedDisk => {
    const image = imageOf(name)
    const watch = { onRead: onRead && ((bytes: number, offset: number) => onRead(name, bytes, offset)), onWait }
    const base = stack.use(new ReplaceableImage(image, watch))
    return { name, size: base.size, base, stats: () => base.stats() }
  })
  const opened = await request.overlays?.(disks)
  const overlays = opened && stack.use(gatedOverlays(opened, names))
  const owned = stack.move()
  return {
    get point() {
      return point
    },
    disks,
    overlays,
    checkPoint(next) {
      for (const { name, size } of disks)
        if (next.disk(name).size !== size)
          throw new LifeboatError('usage', `disk ${name} of point ${next.id} has another size`, {
            hint: 'A session goes on with points of the same disks only.',
          })
    },
    async replacePoint(next) {
      await hydration?.turnTo(next, names)
      const old = point
      point = next
      const images = disks.map(({ name }) => imageOf(name))
      await Promise.all(disks.map(({ base }, i) => base.replace(images[i]!)))
      await old[Symbol.asyncDispose]()
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}
