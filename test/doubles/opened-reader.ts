/** The reader over images of this host, with what a test has to see of its processes. */
import type { BlockReader } from '../../src/block/block-device.ts'
import { fileDevice } from '../../src/block/file.ts'
import { systemClock } from '../../src/core/clock.ts'
import type { GuestFilesystems } from '../../src/guest/guest-filesystems.ts'
import { readerGuests } from '../../src/guest/reader.ts'

export interface OpenedReader extends AsyncDisposable {
  readonly guests: GuestFilesystems
  /** Of each process that was started, in order. */
  readonly pids: readonly number[]
}

let opened = 0

/** Disks 'vda', 'vdb', ... from the files, or from readers that stay the caller's. */
export async function openedReader(...images: readonly (string | BlockReader)[]): Promise<OpenedReader> {
  const ending = new AsyncDisposableStack()
  try {
    const pids: number[] = []
    const disks = []
    for (const [index, image] of images.entries()) {
      const name = `vd${String.fromCharCode(97 + index)}`
      const reader = typeof image === 'string' ? ending.use(await fileDevice(image, { readOnly: true })) : image
      disks.push({ name, image: reader })
    }
    const open = readerGuests({
      clock: systemClock,
      treePrefix: () => `reader-${opened++}`,
      onStart: pid => pids.push(pid ?? 0),
    })
    const guests = ending.use(await open(disks))
    return { guests, pids, [Symbol.asyncDispose]: () => ending.disposeAsync() }
  } catch (error) {
    await ending.disposeAsync()
    throw error
  }
}
