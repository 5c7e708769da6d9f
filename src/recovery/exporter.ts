/**
 * Recovery: a committed point becomes a disk image in a file, an export, or a running VM.
 *
 * What it is: restore, export, boot, the sessions that remember them, and what this host is able to do (`doctor`).
 * What it guarantees: an output exists whole or not at all; a session's state survives any crash of ours, and so does the
 * guest of a booted one, which the next owner takes over; what is ended ends in order (QEMU, server, images, pin); a VM gets
 * no network unasked.
 * What it does not know: how NBD works (an `Exporter` is handed in), how points are stored, and how people ask for it.
 */
import type { BlockReader } from '../block/block-device.ts'
import type { Range, StatusExtent } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'

/** A state of a device that clients may ask for by name, in runs from the start of the range to its end. */
export interface ExportedContext {
  readonly name: string
  /** Of many with one meaning: the name, ending in a colon, under which they are listed together. */
  readonly listedAs?: string
  extents(range: Range, options?: AbortOptions): AsyncIterable<StatusExtent>
}

/** A device under a name that clients ask for. The name is the disk's. */
export interface ExportedDevice {
  readonly name: string
  readonly description?: string
  /** What permissions call it: VM/DISK. */
  readonly path?: string
  readonly device: BlockReader
  readonly readOnly: boolean
  /** Zeroing it never costs more than a change of its tables. */
  readonly fastZero?: boolean
  readonly contexts?: readonly ExportedContext[]
}

/** A descriptor is one that listens already: the socket of whoever started this process. */
export type ListenAddress =
  | { readonly socket: string }
  | { readonly host: string; readonly port: number }
  | { readonly descriptor: number }

/** A server that accepts clients. Dispose stops accepting, finishes what is in flight, and removes its own socket. */
export interface RunningExports extends AsyncDisposable {
  /** In the order of the exports. */
  readonly uris: readonly string[]
}

export type Exporter = (
  request: { readonly exports: readonly ExportedDevice[]; readonly listen: ListenAddress } & AbortOptions,
) => Promise<RunningExports>

/** What `qemu-img` and QEMU are told. Names and paths are percent-encoded: a disk may be called 'a/b' or 'ü'. */
export const nbdUri = (socket: string, name: string): string =>
  `nbd+unix:///${encodeURIComponent(name)}?socket=${encodeURIComponent(socket).replaceAll('%2F', '/')}`
