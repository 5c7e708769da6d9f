/** A qcow2 file with bitmaps of its own: the same rotation as in a running QEMU (qemu/bitmaps.ts), by qemu-img. */
import { limits } from '../core/limits.ts'
import { bitmapName } from './bitmap-name.ts'
import type { CaptureRequest } from './hypervisor.ts'
import type { Image, ImageCapture, ImageSettings } from './images.ts'
import { changesByBitmap } from './nbd-reader.ts'
import { changeBase, foldSteps, settle, switchSteps } from './qemu/bitmaps.ts'
import { applyBitmapSteps, type ImageInfo } from './qemu-img.ts'
import { openWithQemuNbd } from './qemu-nbd.ts'

export async function captureByBitmap(
  { clock, dryRun = false }: ImageSettings,
  image: Image,
  { size, bitmaps }: ImageInfo,
  request: CaptureRequest,
): Promise<ImageCapture> {
  const apply = async (steps: Parameters<typeof applyBitmapSteps>[1]) => {
    if (!dryRun) await applyBitmapSteps(image.path, steps, limits.bitmapGranularity)
  }
  const description = { name: image.name, size, format: image.format }
  const settlement = settle(
    bitmaps,
    request.repository,
    request.bases.map(({ id }) => id),
  )
  const change = changeBase(description, settlement, request)
  const older = settlement.survivor?.name
  const newer = bitmapName(request.repository, request.point)

  let committed = false
  let reader: Awaited<ReturnType<typeof openWithQemuNbd>> | undefined
  const release = async () => {
    await reader?.[Symbol.asyncDispose]()
    if (committed) return
    await apply(older === undefined ? [{ do: 'remove', name: newer }] : foldSteps(older, newer))
  }
  await apply([...settlement.steps, ...switchSteps(older, newer)])
  try {
    const bitmap = change.kind === 'incremental' ? change.bitmap : undefined
    reader = await openWithQemuNbd({ file: image.path, format: image.format, bitmap, clock, signal: request.signal })
    const found = change.kind === 'incremental' ? await changesByBitmap(reader, change, request) : { changes: change }
    return {
      disk: { description, image: reader, ...found },
      async keep() {
        committed = true
        // The file is changed only once nobody reads it.
        await reader?.[Symbol.asyncDispose]()
        if (older !== undefined) await apply([{ do: 'remove', name: older }])
      },
      release,
    }
  } catch (error) {
    await release()
    throw error
  }
}
