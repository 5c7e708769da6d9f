/** An image whose changes are found by reading it and comparing digests. */
import { stat } from 'node:fs/promises'
import { fileDevice } from '../block/file.ts'
import type { ChangeSet, FullReason } from '../cbt/change-tracker.ts'
import { type KnownScan, openScanState, SECRET_BYTES, writeScanState } from '../cbt/scan-state.ts'
import { changedBlocks, ScanningReader } from '../cbt/scan-tracker.ts'
import type { PointId } from '../core/ids.ts'
import type { CaptureRequest } from './hypervisor.ts'
import type { Image, ImageCapture, ImageSettings } from './images.ts'
import { openWithQemuNbd } from './qemu-nbd.ts'

export async function captureByScan(
  { clock, random, log }: ImageSettings,
  image: Image,
  stateFile: string,
  request: CaptureRequest,
): Promise<ImageCapture> {
  const inner =
    image.format === 'raw'
      ? await fileDevice(image.path, { readOnly: true })
      : await openWithQemuNbd({ file: image.path, format: image.format, clock, signal: request.signal })
  try {
    await using before = await openScanState(stateFile)
    const unusable = whyFull(image.name, inner.size, before, request)
    const reader = new ScanningReader(inner, before?.secret ?? random(SECRET_BYTES))
    const version = await versionOf(image.path)

    let changes: ChangeSet = { kind: 'full', reason: unusable ?? 'requested' }
    let base: PointId | undefined
    if (before && !unusable) {
      const { scanned, signal } = request
      await reader.scan({ signal, progress: (done, total) => scanned?.(image.name, done, total) })
      changes = { kind: 'incremental', ranges: await changedBlocks(before.digests(), reader.digests, inner.size) }
      base = before.point
    }
    return {
      disk: {
        description: { name: image.name, size: inner.size, format: image.format },
        image: reader,
        changes,
        ...(base && { base }),
        bytesScanned: reader.bytesRead,
      },
      async keep() {
        await reader.scan()
        // A writer that QEMU's locks do not know: what was read cannot be told from what is there now.
        if ((await versionOf(image.path)) !== version)
          return log?.(`${image.path} was written to during the backup: the next one reads all of it`)
        await writeScanState(stateFile, {
          point: request.point,
          size: inner.size,
          secret: reader.secret,
          digests: reader.digests,
        })
      },
      release: async () => inner[Symbol.asyncDispose](),
    }
  } catch (error) {
    await inner[Symbol.asyncDispose]()
    throw error
  }
}

function whyFull(
  name: string,
  size: number,
  before: KnownScan | undefined,
  { kind, bases }: CaptureRequest,
): FullReason | undefined {
  if (kind === 'full') return 'requested'
  if (bases.length === 0) return 'first-backup'
  const ofDisk = bases.find(({ disks }) => disks.some(disk => disk.name === name))
  if (!ofDisk) return 'disk-added'
  if (!before || !bases.some(({ id }) => id === before.point)) return 'bitmap-missing'
  return before.size === size ? undefined : 'disk-resized'
}

async function versionOf(file: string): Promise<string> {
  const { mtimeNs, size, ino } = await stat(file, { bigint: true })
  return `${ino}/${size}/${mtimeNs}`
}
