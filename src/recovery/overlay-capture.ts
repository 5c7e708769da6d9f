/** The overlays of an `export --writable` session as something that can be backed up: one instant over all disks, writes go on. */

import { cachedImage } from '../cache/cached-image.ts'
import { ChunkCache } from '../cache/chunk-cache.ts'
import { MiB } from '../core/limits.ts'
import type { Capture, CapturedDisk, CaptureRequest, Hypervisor } from '../hypervisor/hypervisor.ts'
import type { LiveSession } from './live-session.ts'
import type { FrozenOverlays, Overlays } from './overlays.ts'
import { vmFromPoint } from './vm-from-point.ts'

export interface OverlayHypervisor extends Hypervisor {
  /** The disks' bases now hold what the last capture showed: the overlays let go of it. */
  settle(): Promise<void>
}

export function overlayHypervisor(session: LiveSession, overlays: Overlays): OverlayHypervisor {
  let frozen: FrozenOverlays | undefined
  const baseOf = (name: string) => {
    const disk = session.disks.find(candidate => candidate.name === name)
    if (!disk) throw new Error(`no disk ${name}`)
    return disk.base
  }
  return {
    async capture(request) {
      frozen = await overlays.freeze({ signal: request.signal })
      return captureOf(session, frozen, request)
    },
    settle: async () => frozen?.settle(baseOf),
    [Symbol.asyncDispose]: async () => frozen?.[Symbol.asyncDispose](),
  }
}

/** Dispose leaves the frozen views to their owner, who may still settle them. */
function captureOf(session: LiveSession, frozen: FrozenOverlays, request: CaptureRequest): Capture {
  const { manifest, id } = session.point()
  const isBase = request.bases.some(base => base.id === id)
  const served = new Set(session.disks.map(({ name }) => name))
  const disks = manifest.disks.map(({ name, size }): CapturedDisk => {
    const description = { name, size }
    // A disk that this session does not serve is as it was.
    const { image, written } = served.has(name) ? frozen.disk(name) : { image: unchanged(session, name), written: [] }
    if (!isBase) return { description, image, changes: { kind: 'full', reason: 'base-gone' } }
    return { description, image, changes: { kind: 'incremental', ranges: written }, base: id }
  })
  return {
    vm: vmFromPoint(manifest),
    consistency: 'crash',
    takenAt: session.clock.now(),
    disks,
    omitted: [],
    broken: new Promise<never>(() => {}),
    async committed() {},
    async [Symbol.asyncDispose]() {},
  }
}

/** Hardly read: the few chunks of the audit. */
const unchanged = (session: LiveSession, name: string) =>
  cachedImage(session.point().disk(name), { cache: new ChunkCache({ maxBytes: 4 * MiB }) })
