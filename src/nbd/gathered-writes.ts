/**
 * Small WRITEs of one turn, whose payloads lie where the socket was read to: the device gets them together and at once, so that
 * none needs memory, a promise or a write of its own.
 */
import type { BlockDevice, PlacedBytes } from '../block/block-device.ts'
import type { RequestHeader } from './wire.ts'

interface Gathered extends PlacedBytes {
  readonly request: RequestHeader
  /** What it holds of the bytes in flight: none where it lies in the input. */
  readonly held: number
}

export class GatheredWrites {
  readonly #device: BlockDevice | undefined
  #gathered: Gathered[] = []

  constructor(device: BlockDevice | undefined) {
    this.#device = device?.writeNow === undefined ? undefined : device
  }

  /** False where the device does nothing at once. */
  get possible(): boolean {
    return this.#device !== undefined
  }

  add(request: RequestHeader, bytes: Uint8Array, held: number): void {
    this.#gathered.push({ request, bytes, offset: request.offset, held })
  }

  /** Ends the turn: those that the device has written, or those that it has not. */
  take(): { readonly written: boolean; readonly writes: readonly Gathered[] } {
    const writes = this.#gathered
    if (writes.length === 0) return NOTHING
    this.#gathered = []
    return { written: this.#device?.writeNow?.(writes) === true, writes }
  }
}

const NOTHING = { written: true, writes: [] }
