/** The writable layers of a session whose clients write through our server: what recovery needs of them, whoever makes them. */
import type { BlockDevice, BlockReader } from '../block/block-device.ts'
import type { Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'

export interface OverlayDisk extends BlockDevice {
  /** What was written since the overlay was made, within `range`, in order. */
  written(range: Range): Iterable<Range>
}

/** All disks of one session, in one folder, owned by one process. Dispose makes everything durable and lets go of it. */
export interface Overlays extends AsyncDisposable {
  disk(name: string): OverlayDisk
  /** One instant over all disks: what is written later does not show in its views. Writes go on meanwhile. One at a time. */
  freeze(options?: AbortOptions): Promise<FrozenOverlays>
  /** What a person has to know of how they were found: that a crash or a loss of power cost writes, and which. */
  readonly warning?: string | undefined
}

export interface FrozenOverlays extends AsyncDisposable {
  /** `written`: since the overlay was made or was last settled, in order. */
  disk(name: string): { readonly image: BlockReader; readonly written: readonly Range[] }
  /**
   * `base` gives what holds all that the views show, a new point: it becomes what unwritten blocks are read from. Durable
   * before it resolves; a crash at any step leaves the old state or the new one, and both read the same over that base.
   */
  settle(base: (name: string) => BlockReader, options?: AbortOptions): Promise<void>
}

export interface OpenOverlaysRequest extends AbortOptions {
  /** Made where it is not there; opened, and brought to what a crash left durable, where it is. */
  readonly folder: string
  readonly disks: readonly { readonly name: string; readonly base: BlockReader }[]
  /** A write is answered when it would survive a loss of power: for clients on other hosts, which do not know of ours. */
  readonly durableReplies: boolean
  /** Whose writes the folder holds: one that holds another's is refused. */
  readonly baseLabel?: string
}

export type OpenOverlays = (request: OpenOverlaysRequest) => Promise<Overlays>
