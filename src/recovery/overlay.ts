/**
 * The overlay of a booted disk: QEMU's qcow2 over our export. Clusters of 128 KiB in 4 KiB subclusters, so that the guest's
 * 4 KiB writes fetch nothing from the repository (whole clusters would be completed from the backing image first), while the
 * tables stay at 16 bytes per 128 KiB.
 */
import { mkdir, statfs } from 'node:fs/promises'
import path from 'node:path'
import { LifeboatError } from '../core/errors.ts'
import { MiB } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { nbdUri } from './exporter.ts'
import { mustRun } from './external-tool.ts'

export interface OverlayRequest extends AbortOptions {
  /** Must not exist. */
  readonly file: string
  readonly nbdSocket: string
  readonly exportName: string
  readonly size: number
  /** Counts every write from the first one on. */
  readonly bitmap: string
}

const BITMAP_GRANULARITY = 65_536
const SECTOR = 512

export async function createOverlay({
  file,
  nbdSocket,
  exportName,
  size,
  bitmap,
  signal,
}: OverlayRequest): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true, mode: 0o700 })
  const sectors = Math.ceil(size / SECTOR) * SECTOR
  // -u: the backing image is named and not opened. It is right by construction, and QEMU opens it by its own node anyway.
  const format = 'cluster_size=128k,extended_l2=on'
  const backing = nbdUri(nbdSocket, exportName)
  await mustRun(
    'qemu-img',
    ['create', '-q', '-u', '-f', 'qcow2', '-F', 'raw', '-b', backing, '-o', format, file, `${sectors}`],
    { signal },
  )
  const image = `json:${JSON.stringify({ driver: 'qcow2', file: { driver: 'file', filename: file }, backing: null })}`
  await mustRun('qemu-img', ['bitmap', '--add', '-g', `${BITMAP_GRANULARITY}`, image, bitmap], { signal })
}

/** Below this a guest that merely boots may fill it. */
const FREE_MIN = 256 * MiB

/** Throws 'disk-full' where there is hardly room; otherwise the warnings. */
export async function checkOverlayRoom(folder: string, diskBytes: number): Promise<readonly string[]> {
  const { bavail, bsize } = await statfs(folder)
  const free = bavail * bsize
  const freeText = `${Math.floor(free / MiB)} MiB`
  if (free < Math.min(FREE_MIN, diskBytes))
    throw new LifeboatError('disk-full', `only ${freeText} are free for the writes of the guest in ${folder}`, {
      details: { object: folder, free },
      hint: 'Free space there, or set LIFEBOAT_STATE_DIR to a larger filesystem.',
    })
  if (free >= diskBytes) return []
  return [
    `${freeText} are free for overlays in ${folder}, the disks have ${Math.ceil(diskBytes / MiB)} MiB: a guest that writes more is paused`,
  ]
}
