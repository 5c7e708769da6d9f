/** What a server publishes: a device under a name. */
import type { BlockDevice, BlockReader } from '../block/block-device.ts'
import { KiB, limits, MiB } from '../core/limits.ts'
import * as C from './constants.ts'
import type { ExportContext } from './meta-contexts.ts'
import type { HeaderMode } from './wire.ts'

export interface NbdExport {
  /** UTF-8, at most 4096 bytes, no NUL. Never a path. */
  readonly name: string
  readonly description?: string
  /** What permissions call it, VM/DISK; the name where absent. */
  readonly path?: string
  /** Where TLS is offered and not demanded: this one is there inside TLS only. */
  readonly tlsOnly?: boolean
  /** Only `size` and `blockSize` are looked at before a client has been let in. */
  readonly device: BlockReader | BlockDevice
  readonly readOnly: boolean
  /** The device's `zero` never costs more than a metadata operation, so that FAST_ZERO may be advertised. */
  readonly fastZero?: boolean
  /** Beside `base:allocation`, which every export has. Read at every query, so the list may be a live one. */
  readonly contexts?: readonly ExportContext[]
}

/** The device as one that takes writes, if the export allows them. */
export function writableDevice(entry: NbdExport): BlockDevice | undefined {
  return !entry.readOnly && 'write' in entry.device ? entry.device : undefined
}

export function transmissionFlags(entry: NbdExport, mode: HeaderMode, hasContexts: boolean): number {
  // Every connection works on the same device, whose flush covers all completed writes: CAN_MULTI_CONN holds for writers too.
  let flags = C.NBD_FLAG_HAS_FLAGS | C.NBD_FLAG_SEND_FLUSH | C.NBD_FLAG_CAN_MULTI_CONN | C.NBD_FLAG_SEND_CACHE
  if (writableDevice(entry) === undefined) flags |= C.NBD_FLAG_READ_ONLY
  else {
    flags |= C.NBD_FLAG_SEND_FUA | C.NBD_FLAG_SEND_TRIM | C.NBD_FLAG_SEND_WRITE_ZEROES
    if (entry.fastZero) flags |= C.NBD_FLAG_SEND_FAST_ZERO
  }
  if (mode !== 'simple') flags |= C.NBD_FLAG_SEND_DF
  if (mode === 'extended' && hasContexts) flags |= C.NBD_FLAG_BLOCK_STATUS_PAYLOAD
  return flags
}

/** Any byte may be asked for (minimum 1); the preferred unit is the device's; more than 32 MiB at once is accepted but not invited. */
export function blockSizes(entry: NbdExport): { minimum: number; preferred: number; maximum: number } {
  const maximum = limits.nbdPayloadAdvertised
  const wanted = Math.min(Math.max(entry.device.blockSize, 4 * KiB), 4 * MiB)
  return { minimum: 1, preferred: 2 ** Math.floor(Math.log2(wanted)), maximum }
}
