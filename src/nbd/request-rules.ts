/** What a request may say, before anything is done about it. Pure. */
import { limits } from '../core/limits.ts'
import * as C from './constants.ts'
import type { HeaderMode, RequestHeader } from './wire.ts'

export interface RequestRules {
  readonly mode: HeaderMode
  readonly size: number
  readonly writable: boolean
  readonly fastZero: boolean
  readonly hasContexts: boolean
}

/** By command. */
const FLAGS: readonly (number | undefined)[] = byCommand([
  [C.NBD_CMD_READ, C.NBD_CMD_FLAG_DF],
  [C.NBD_CMD_WRITE, 0],
  [C.NBD_CMD_FLUSH, 0],
  [C.NBD_CMD_TRIM, 0],
  [C.NBD_CMD_CACHE, 0],
  [C.NBD_CMD_WRITE_ZEROES, C.NBD_CMD_FLAG_NO_HOLE | C.NBD_CMD_FLAG_FAST_ZERO],
  [C.NBD_CMD_BLOCK_STATUS, C.NBD_CMD_FLAG_REQ_ONE],
])

function byCommand(entries: readonly (readonly [number, number])[]): (number | undefined)[] {
  const table = new Array<number | undefined>(C.NBD_CMD_BLOCK_STATUS + 1).fill(undefined)
  for (const [type, flags] of entries) table[type] = flags
  return table
}

const isWrite = (type: number): boolean =>
  type === C.NBD_CMD_WRITE || type === C.NBD_CMD_WRITE_ZEROES || type === C.NBD_CMD_TRIM

/**
 * Bytes that follow the header. With extended headers a payload is announced by a flag; a WRITE without it is read as one
 * with it, as QEMU does, because the stream would lose its meaning otherwise.
 */
export const payloadLength = (mode: HeaderMode, { type, flags, length }: RequestHeader): number =>
  type === C.NBD_CMD_WRITE || (mode === 'extended' && (flags & C.NBD_CMD_FLAG_PAYLOAD_LEN) !== 0) ? length : 0

/** The error that this request earns by itself, or 0. */
export function requestError(rules: RequestRules, request: RequestHeader): number {
  const { type, offset, length } = request
  const known = FLAGS[type]
  if (known === undefined) return C.NBD_EINVAL
  let allowed = known | C.NBD_CMD_FLAG_FUA
  if (rules.mode === 'simple') allowed &= ~C.NBD_CMD_FLAG_DF
  if (!rules.fastZero) allowed &= ~C.NBD_CMD_FLAG_FAST_ZERO
  if (rules.mode === 'extended' && (type === C.NBD_CMD_WRITE || type === C.NBD_CMD_BLOCK_STATUS))
    allowed |= C.NBD_CMD_FLAG_PAYLOAD_LEN
  if (isWrite(type) && !rules.writable) return C.NBD_EPERM
  if ((request.flags & ~allowed) !== 0) return C.NBD_EINVAL
  if (type === C.NBD_CMD_FLUSH) return offset === 0 && length === 0 ? 0 : C.NBD_EINVAL
  if (type === C.NBD_CMD_BLOCK_STATUS) {
    if (!rules.hasContexts) return C.NBD_EINVAL
    // The length of one with a payload is the payload's; the range is checked when that has been read.
    if ((request.flags & C.NBD_CMD_FLAG_PAYLOAD_LEN) !== 0) return length > limits.nbdOptionBytes ? C.NBD_EINVAL : 0
  }
  const error = rangeError(rules, type, offset, length)
  // To write zeros out is never faster than to be sent them.
  const slow = C.NBD_CMD_FLAG_FAST_ZERO | C.NBD_CMD_FLAG_NO_HOLE
  return error === 0 && (request.flags & slow) === slow ? C.NBD_ENOTSUP : error
}

export function rangeError(rules: RequestRules, type: number, offset: number, length: number): number {
  if (offset > rules.size || length > rules.size - offset)
    return type === C.NBD_CMD_WRITE || type === C.NBD_CMD_WRITE_ZEROES ? C.NBD_ENOSPC : C.NBD_EINVAL
  if (type === C.NBD_CMD_BLOCK_STATUS && length === 0) return C.NBD_EINVAL
  if ((type === C.NBD_CMD_READ || type === C.NBD_CMD_WRITE) && length > limits.nbdPayloadMax) return C.NBD_EINVAL
  return 0
}
