/** Where one overlay lies, and files in it that are there whole or not at all. */
import path from 'node:path'
import type { OverlayFile, OverlayFiles } from './overlay-files.ts'

export interface OverlayPlace {
  readonly files: OverlayFiles
  readonly folder: string
  /** Of the overlay. */
  readonly id: string
  readonly bootId: string
}

export async function writeMap(place: OverlayPlace, bytes: Uint8Array): Promise<void> {
  const file = await wholeFile(place, 'map', bytes)
  await file.close()
}

/** Open, and durable with its name: written beside it first. */
export async function wholeFile(
  { files, folder }: OverlayPlace,
  name: string,
  bytes: Uint8Array,
): Promise<OverlayFile> {
  const fresh = path.join(folder, `${name}.new`)
  const file = await files.open(fresh, { create: true })
  try {
    await file.truncate(0)
    await file.writeAt(bytes, 0)
    await file.sync()
    await files.rename(fresh, path.join(folder, name))
    await files.syncFolder(folder)
    return file
  } catch (error) {
    await file.close()
    throw error
  }
}
