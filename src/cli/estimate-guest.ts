/** backup --dry-run of a running guest: from its bitmaps' counts, without a capture. */

import { hex, type PointId } from '../core/ids.ts'
import { limits, MiB } from '../core/limits.ts'
import type { DiskForecast } from '../hypervisor/qemu/forecast.ts'
import type { Manifest } from '../repository/repository.ts'
import { showEstimate, withMore } from './estimate.ts'
import type { Invocation, OpenedRepository } from './invocation.ts'
import { formatBytes } from './units.ts'

interface Flags {
  readonly qmp: string
  readonly full?: boolean
  readonly disk?: readonly string[]
}

/** Node records: 64 entries of about 36 bytes with their header, seal and footer row. */
const LEAF_BYTES = 2450
/** Of a first backup, nothing is known of how well it compresses. */
const STORED_UNKNOWN = 1

export async function estimateGuest(
  invocation: Invocation,
  { repository, meter, bytesKept }: OpenedRepository,
  vm: string,
  { qmp, full = false, disk }: Flags,
): Promise<undefined> {
  const { surroundings, output, signal } = invocation
  const { clock, random } = surroundings
  const { forecastCapture } = await import('../hypervisor/qemu/forecast.ts')
  const earlier = await repository.points({ vm, signal })
  // The lease, the checks of bases and the end are really gone through, on a store that takes nothing.
  await using writer = await repository.beginPoint({
    vm,
    point: hex(random(8)) as PointId,
    takenAt: clock.now(),
    kind: 'backup',
    bases: earlier
      .slice(-4)
      .map(({ id }) => id)
      .reverse(),
    signal,
  })
  const bases = [...writer.bases].map(([id, { disks }]) => ({ id, disks }))
  const kind = full ? 'full' : 'incremental'
  const request = { repository: repository.id, bases, kind, disks: disk, signal } as const
  const { disks, omitted } = await forecastCapture({ qmp, clock, random }, request)

  const [newest] = writer.bases.values()
  const storedShare = storedShareOf(newest)
  const parts = disks.map(forecast => partOf(forecast, repository.chunkSize, storedShare))
  const sum = (pick: (part: Part) => number) => parts.reduce((total, part) => total + pick(part), 0)
  const packs = (bytes: number) => Math.ceil(bytes / limits.packTargetBytes)
  const [data, nodes] = [sum(part => part.stored), sum(part => part.nodes)]
  const puts = packs(data) + packs(nodes) + (data > 0 ? 1 : 0) + 1 // and index, manifest
  const more = data + nodes
  // Its lease goes as it does after a commit; the questions before the manifest are one look at it and one listing.
  const requests = withMore(meter.figures(), {
    put: { requests: puts, bytes: more },
    head: { requests: 1, bytes: 0 },
    list: { requests: 1, bytes: 0 },
    get: { requests: sum(part => part.leafGets), bytes: sum(part => part.leafBytes) },
    delete: { requests: 1, bytes: 0 },
  })
  const isUpperBound = disks.some(({ bytesChanged }) => bytesChanged === undefined)
  const document = {
    vm,
    kind: disks.every(({ reason }) => reason !== undefined) ? 'full' : 'incremental',
    storedShare,
    disks: disks.map(({ name, size, reason, bytesChanged = null }) => ({
      name,
      size,
      reason,
      bytesRead: bytesChanged,
      bytesChanged,
      known: bytesChanged !== null,
    })),
    omitted,
  }
  showEstimate(invocation, { requests, bytesKept: bytesKept() + more, isUpperBound }, document, () => {
    for (const { name, size, bytesChanged, reason } of disks)
      output.line(
        bytesChanged === undefined
          ? `${name} (${formatBytes(size)}): what changed is unknown without reading all of it${reason ? ` (${reason})` : ''}`
          : `${name} (${formatBytes(size)}): ${formatBytes(bytesChanged)} changed, by its dirty bitmap`,
      )
  })
  return undefined
}

/** How much of what was new the newest point took in the store. */
function storedShareOf(newest: Manifest | undefined): number {
  const disks = newest?.disks ?? []
  const [fresh, stored] = [sumOf(disks.map(disk => disk.bytesNew)), sumOf(disks.map(disk => disk.bytesStored))]
  // A small increment is mostly nodes, and says nothing of how its data compresses.
  return fresh >= MiB ? Math.min(STORED_UNKNOWN, stored / fresh) : STORED_UNKNOWN
}

interface Part {
  readonly stored: number
  readonly nodes: number
  readonly leafGets: number
  readonly leafBytes: number
}

/** Changes are taken to lie at random, which touches the most leaves. */
function partOf({ size, bytesChanged }: DiskForecast, chunkSize: number, storedShare: number): Part {
  const changed = Math.ceil((bytesChanged ?? size) / chunkSize)
  const leaves = Math.max(1, Math.ceil(size / chunkSize / limits.leafWidth))
  const touched = leaves * (1 - (1 - 1 / leaves) ** changed)
  const density = touched / leaves
  // Leaves whose gap to the next one is small enough come with one GET; each window of chunks asks anew.
  const gap = Math.floor(limits.coalesceGapBytes / LEAF_BYTES)
  const windows = Math.ceil((changed * chunkSize) / limits.writeWindowBytes)
  const leafGets = bytesChanged === undefined ? windows : Math.ceil(Math.max(windows, touched * (1 - density) ** gap))
  return {
    stored: changed * chunkSize * storedShare,
    nodes: changed === 0 ? 0 : Math.ceil(touched) * LEAF_BYTES,
    leafGets: changed === 0 ? 0 : leafGets,
    leafBytes: Math.ceil(Math.min(leaves, touched * limits.leavesPerGet)) * LEAF_BYTES,
  }
}

const sumOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0)
