/** The commands that wait for a device: each ends with exactly one complete reply, whatever happens. */
import { setImmediate } from 'node:timers/promises'
import type { BlockDevice, BlockReader } from '../block/block-device.ts'
import { limits } from '../core/limits.ts'
import type { Extent } from '../core/range.ts'
import { forEachLimited } from '../core/scope.ts'
import type { ConnectionBytes } from './bytes-in-flight.ts'
import * as C from './constants.ts'
import { joinedExtents } from './extent-list.ts'
import type { ExportContext } from './meta-contexts.ts'
import type { Replies } from './replies.ts'
import type { ReplyWriter } from './reply-writer.ts'
import { type RequestRules, rangeError } from './request-rules.ts'
import { statusCost, statusPayload } from './status-list.ts'
import { putU32, type RequestHeader, readU32, readU64 } from './wire.ts'

/** A context under the id by which this connection knows it. */
export interface SelectedContext {
  readonly id: number
  readonly context: ExportContext
}

export interface CommandScope {
  readonly device: BlockReader
  readonly writable: BlockDevice | undefined
  readonly rules: RequestRules
  readonly contexts: readonly SelectedContext[]
  readonly replies: Replies
  readonly writer: ReplyWriter
  readonly bytes: ConnectionBytes
  readonly signal: AbortSignal
}

const nothing = () => {}
const isFua = (request: RequestHeader): boolean => (request.flags & C.NBD_CMD_FLAG_FUA) !== 0

/** What READ holds of the budget while it waits: all of it. One in pieces holds next to nothing, or such reads could block each other. */
export function readCost(scope: CommandScope, request: RequestHeader): number {
  return inPieces(scope, request) ? 64 : request.length
}

const inPieces = ({ rules }: CommandScope, request: RequestHeader): boolean =>
  rules.mode !== 'simple' && (request.flags & C.NBD_CMD_FLAG_DF) === 0 && request.length > limits.nbdPieceBytes

/** What any other command without a payload holds of it. */
export const commandCost = (request: RequestHeader): number =>
  request.type === C.NBD_CMD_BLOCK_STATUS ? statusCost(request.length) : 64

/** READ where the bytes are not at hand. The caller has acquired `readCost` and releases it. */
export async function read(scope: CommandScope, request: RequestHeader): Promise<void> {
  const { replies, rules, signal } = scope
  const asks =
    rules.mode !== 'simple' && (request.flags & C.NBD_CMD_FLAG_DF) === 0 && request.length > limits.nbdCopyMax
  if (!asks) {
    const target = Buffer.allocUnsafe(request.length)
    await scope.device.readInto(target, request.offset, { signal })
    replies.data(request, request.offset, request.length, [target], nothing, true)
    return
  }
  const extents = await joinedExtents(scope.device, request, limits.nbdExtentsMax, { signal })
  const known = extents.reduce((sum, extent) => sum + extent.length, 0)
  if (known < request.length)
    extents.push({ offset: request.offset + known, length: request.length - known, kind: 'data' })
  if (!inPieces(scope, request)) return readWhole(scope, request, extents)
  await forEachLimited(pieces(extents), 4, (extent, signal) => readPiece(scope, request, extent, signal), { signal })
  replies.done(request)
}

/** Small enough for one turn: all chunks are sent together, after the last of them has been read. */
async function readWhole(scope: CommandScope, request: RequestHeader, extents: readonly Extent[]): Promise<void> {
  const { signal, replies } = scope
  const targets = extents.map(extent => (extent.kind === 'data' ? Buffer.allocUnsafe(extent.length) : undefined))
  await forEachLimited(
    targets.entries(),
    4,
    async ([i, target], signal) => {
      if (target !== undefined) await scope.device.readInto(target, extents[i]!.offset, { signal })
    },
    { signal },
  )
  for (const [i, { offset, length }] of extents.entries()) {
    const last = i === extents.length - 1
    const target = targets[i]
    if (target === undefined) replies.hole(request, offset, length, last)
    else replies.data(request, offset, length, [target], nothing, last)
  }
}

async function readPiece(
  scope: CommandScope,
  request: RequestHeader,
  extent: Extent,
  signal: AbortSignal,
): Promise<void> {
  const { offset, length } = extent
  if (extent.kind === 'zero') return scope.replies.hole(request, offset, length, false)
  await scope.bytes.acquire(length, signal)
  try {
    const target = Buffer.allocUnsafe(length)
    await scope.device.readInto(target, offset, { signal })
    scope.replies.data(request, offset, length, [target], nothing, false)
    scope.writer.flushSoon()
  } finally {
    scope.bytes.release(length)
  }
}

function* pieces(extents: readonly Extent[]): Generator<Extent> {
  for (const { offset, length, kind } of extents) {
    if (kind === 'zero') yield { offset, length, kind }
    else
      for (let at = 0; at < length; at += limits.nbdPieceBytes)
        yield { offset: offset + at, length: Math.min(limits.nbdPieceBytes, length - at), kind }
  }
}

/** Every other command; `payload` is the WRITE's data or the BLOCK_STATUS's filter. */
export async function execute(scope: CommandScope, request: RequestHeader, payload: Uint8Array): Promise<void> {
  const { writable, signal, replies } = scope
  const fua = isFua(request)
  switch (request.type) {
    case C.NBD_CMD_BLOCK_STATUS:
      return blockStatus(scope, request, payload)
    case C.NBD_CMD_CACHE:
      await cache(scope, request, signal)
      break
    case C.NBD_CMD_FLUSH:
      await writable?.flush({ signal })
      break
    case C.NBD_CMD_WRITE:
      await writable?.write(payload, request.offset, { fua, signal })
      break
    case C.NBD_CMD_WRITE_ZEROES:
      await writeZeroes(scope, request)
      break
    case C.NBD_CMD_TRIM:
      if (request.length > 0) await writable?.trim({ offset: request.offset, length: request.length }, { signal })
      if (fua) await writable?.flush({ signal })
      break
  }
  replies.ok(request)
}

/** NO_HOLE means that the space is there afterwards: it is written as data, in pieces of one shared run of zeros. */
async function writeZeroes({ writable, signal }: CommandScope, request: RequestHeader): Promise<void> {
  const { offset, length } = request
  if (writable === undefined || length === 0) return
  const fua = isFua(request)
  if ((request.flags & C.NBD_CMD_FLAG_NO_HOLE) === 0) return writable.zero({ offset, length }, { fua, signal })
  for (let at = 0; at < length; at += ZEROS.length) {
    await turn(at, signal)
    await writable.write(ZEROS.subarray(0, Math.min(ZEROS.length, length - at)), offset + at, { signal })
  }
  if (fua) await writable.flush({ signal })
}

const ZEROS = new Uint8Array(limits.nbdPieceBytes)

/** CACHE, piece by piece. A device that cannot fetch ahead is read: that fills whatever cache lies below it. */
async function cache({ device, bytes }: CommandScope, request: RequestHeader, signal: AbortSignal): Promise<void> {
  const piece = device.prefetch === undefined ? limits.nbdBytesShare : limits.nbdPieceBytes
  const held = Math.min(piece, request.length)
  await bytes.acquire(held, signal)
  try {
    const target = device.prefetch === undefined ? Buffer.allocUnsafe(held) : undefined
    for (let at = 0; at < request.length; at += piece) {
      await turn(at, signal)
      const range = { offset: request.offset + at, length: Math.min(piece, request.length - at) }
      if (target === undefined) await device.prefetch?.(range, { signal })
      else await device.readInto(target.subarray(0, range.length), range.offset, { signal })
    }
  } finally {
    bytes.release(held)
  }
}

/** Terabytes in pieces that are done at once would never let another connection have its turn. */
async function turn(at: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  if (at > 0 && at % (16 * limits.nbdPieceBytes) === 0) await setImmediate()
}

/** One list for each context, one after the other: a list of another context would only wait in memory. */
async function blockStatus(scope: CommandScope, request: RequestHeader, payload: Uint8Array): Promise<void> {
  const { replies, rules, bytes, signal } = scope
  const isFiltered = (request.flags & C.NBD_CMD_FLAG_PAYLOAD_LEN) !== 0
  const asked = isFiltered ? parseFilter(scope, payload) : { length: request.length, contexts: scope.contexts }
  if (asked === undefined) return replies.error(request, C.NBD_EINVAL)
  const { length, contexts } = asked
  const error = rangeError(rules, request.type, request.offset, length)
  if (error !== 0) return replies.error(request, error)
  const countMax = (request.flags & C.NBD_CMD_FLAG_REQ_ONE) !== 0 ? 1 : limits.nbdExtentsMax
  const shape = { countMax, extended: rules.mode === 'extended' }
  const range = { offset: request.offset, length }
  // Without a filter the request was admitted with room for its lists.
  const cost = isFiltered ? statusCost(length) : 0
  await bytes.acquire(cost, signal)
  try {
    for (const [i, { id, context }] of contexts.entries()) {
      const list = await statusPayload(id, context.extents(range, { signal }), range, shape)
      replies.blockStatus(request, list, i === contexts.length - 1)
    }
  } finally {
    bytes.release(cost)
  }
}

/** The payload of a BLOCK_STATUS: the length, then the ids that are wanted, each known and named once. */
function parseFilter(
  scope: CommandScope,
  payload: Uint8Array,
): { length: number; contexts: readonly SelectedContext[] } | undefined {
  if (payload.length < 12 || payload.length % 4 !== 0) return undefined
  const contexts: SelectedContext[] = []
  for (let at = 8; at < payload.length; at += 4) {
    const context = scope.contexts.find(({ id }) => id === readU32(payload, at))
    if (context === undefined || contexts.includes(context)) return undefined
    contexts.push(context)
  }
  return { length: readU64(payload, 0), contexts }
}

/** For tests and the client: the same payload, encoded. */
export function encodeFilter(length: number, ids: readonly number[]): Buffer {
  const bytes = Buffer.alloc(8 + 4 * ids.length)
  putU32(bytes, 0, Math.floor(length / 2 ** 32))
  putU32(bytes, 4, length % 2 ** 32)
  for (const [i, id] of ids.entries()) putU32(bytes, 8 + 4 * i, id)
  return bytes
}
