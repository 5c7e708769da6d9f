/**
 * What a capture of a running guest would read, from its dirty bitmaps' counts: two kinds of questions over QMP, and nothing is
 * put into QEMU. Where no bitmap tells, it is not known, because only reading the disk would.
 */
import type { FullReason } from '../../cbt/change-tracker.ts'
import type { CaptureRequest, OmittedDisk } from '../hypervisor.ts'
import { changeBase, settle } from './bitmaps.ts'
import { parseBlockDevices } from './block-nodes.ts'
import { describeDisk } from './description.ts'
import type { QemuSettings } from './qemu-hypervisor.ts'
import { connectQmp } from './qmp.ts'

export interface DiskForecast {
  readonly name: string
  readonly size: number
  /** Undefined: not known, at most all of the disk. */
  readonly bytesChanged?: number
  readonly reason?: FullReason
}

export async function forecastCapture(
  { qmp: socket, clock, greetingTimeoutMs }: QemuSettings,
  request: Pick<CaptureRequest, 'repository' | 'bases' | 'kind' | 'disks' | 'signal'>,
): Promise<{ readonly disks: readonly DiskForecast[]; readonly omitted: readonly OmittedDisk[] }> {
  await using qmp = await connectQmp({ socket, clock, greetingTimeoutMs, signal: request.signal })
  const devices = parseBlockDevices(await qmp.execute('query-block', undefined, request))
  const omitted: OmittedDisk[] = [...devices.omitted]
  const disks: DiskForecast[] = []
  const bases = request.bases.map(({ id }) => id)
  for (const disk of devices.disks) {
    const { name, size } = disk
    if (request.disks && !request.disks.includes(name)) omitted.push({ name, reason: 'not-selected' })
    else if ((await describeDisk(qmp, disk)).passThrough) omitted.push({ name, reason: 'pass-through' })
    else {
      const settlement = settle(disk.bitmaps, request.repository, bases)
      const change = changeBase(disk, settlement, request)
      if (change.kind === 'full') disks.push({ name, size, reason: change.reason })
      else {
        // What a killed run left would be merged first: the sum counts twice what is in both.
        const counted = [change.bitmap, ...settlement.steps.flatMap(step => (step.do === 'merge' ? step.from : []))]
        const counts = counted.map(bitmap => disk.bitmaps.find(known => known.name === bitmap)?.bytes)
        const sum = counts.reduce(
          (total, bytes) => (total === undefined || bytes === undefined ? undefined : total + bytes),
          0,
        )
        disks.push({ name, size, ...(sum !== undefined && { bytesChanged: Math.min(size, sum) }) })
      }
    }
  }
  return { disks, omitted }
}
