/** `export --file --overlay`: what clients write to a plain image goes beside it, and the image stays as it is. */
import type { BlockReader } from '../block/block-device.ts'
import type { ExportedDevice, ListenAddress } from '../recovery/exporter.ts'
import type { Output } from './output.ts'
import { openHere, recoveryWarning } from './overlays.ts'

interface OverlaidFile extends AsyncDisposable {
  readonly exported: ExportedDevice
}

/** The overlay is the folder PATH.overlay; removing it undoes all writes. */
export async function overlaidFile(
  file: string,
  base: BlockReader,
  listen: ListenAddress,
  output: Output,
): Promise<OverlaidFile> {
  const folder = `${file}.overlay`
  // A client on another host (and who is at a socket of systemd's?) does not know of a power cut here, and would not repeat what it was told is written.
  const overlays = await openHere({ folder, disks: [{ name: 'file', base }], durableReplies: !('socket' in listen) })
  const warning = recoveryWarning(overlays.recovery)
  if (warning !== undefined) output.warning(warning)
  output.message(`writes go to ${folder}`)
  return {
    exported: { name: 'file', device: overlays.disk('file'), readOnly: false, fastZero: true },
    [Symbol.asyncDispose]: () => overlays[Symbol.asyncDispose](),
  }
}
