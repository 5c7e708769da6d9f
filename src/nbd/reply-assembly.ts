/**
 * What has come of one request's reply. Chunks may come in any order, but each lies inside the request, none overlaps another,
 * and together they are complete: anything else throws 'nbd-protocol', and the connection that brought it is closed.
 */
import type { LifeboatError } from '../core/errors.ts'
import type { StatusExtent } from '../core/range.ts'
import { protocolError } from './client-handshake.ts'
import * as C from './constants.ts'
import { nbdError } from './errno.ts'
import type { MetaContext } from './handshake.ts'
import { escapeText } from './log-line.ts'
import { type RequestHeader, readU16, readU32, readU64 } from './wire.ts'

/** More than the protocol lets a server send in one list. */
const EXTENTS_MAX = 2 ** 20

/** Intervals of a READ that one hostile reply may leave scattered. Honest ones come in order and stay one interval. */
const SCATTERED_MAX = 4096

export class ReplyAssembly {
  readonly request: RequestHeader
  /** READ: the caller's memory. */
  readonly target: Uint8Array | undefined
  readonly #contexts: readonly MetaContext[]
  readonly #covered: { start: number; end: number }[] = []
  readonly #status = new Map<number, readonly StatusExtent[]>()
  #failure: LifeboatError | undefined

  constructor(request: RequestHeader, target: Uint8Array | undefined, contexts: readonly MetaContext[]) {
    this.request = request
    this.target = target
    this.#contexts = contexts
  }

  /** Accounts for `length` bytes at `offset` of the export; returns where in the target they belong. */
  cover(offset: number, length: number): number {
    if (this.request.type !== C.NBD_CMD_READ) throw protocolError('data for a request without data')
    const start = offset - this.request.offset
    if (length === 0 || start < 0 || length > this.request.length - start)
      throw protocolError('a chunk outside its request')
    const end = start + length
    const covered = this.#covered
    let at = covered.length
    while (at > 0 && covered[at - 1]!.start >= end) at--
    const before = covered[at - 1]
    const after = covered[at]
    if (before !== undefined && before.end > start) throw protocolError('overlapping chunks')
    if (before?.end === start) {
      before.end = end
      if (after?.start === end) {
        before.end = after.end
        covered.splice(at, 1)
      }
    } else if (after?.start === end) after.start = start
    else if (covered.length >= SCATTERED_MAX) throw protocolError('too many scattered chunks')
    else covered.splice(at, 0, { start, end })
    return start
  }

  /** OFFSET_HOLE; returns the part of the target that is zeros. */
  hole(payload: Uint8Array): { start: number; length: number } {
    if (payload.length !== 12) throw protocolError('a malformed hole')
    const length = readU32(payload, 8)
    return { start: this.cover(readU64(payload, 0), length), length }
  }

  /** ERROR and ERROR_OFFSET, and kinds of errors that are not known, which begin the same way. */
  errorChunk(payload: Uint8Array, type: number): void {
    const fixed = type === C.NBD_REPLY_TYPE_ERROR_OFFSET ? 14 : 6
    if (payload.length < fixed) throw protocolError('a malformed error')
    const errno = readU32(payload, 0)
    const length = readU16(payload, 4)
    if (errno === 0 || length > payload.length - fixed || length > C.NBD_MAX_STRING)
      throw protocolError('a malformed error')
    this.fail(errno, Buffer.from(payload.subarray(6, 6 + length)).toString('utf8'))
  }

  fail(errno: number, text = ''): void {
    this.#failure ??= nbdError(errno, commandName(this.request.type), text === '' ? '' : escapeText(text))
  }

  blockStatus(payload: Uint8Array, extended: boolean): void {
    if (this.request.type !== C.NBD_CMD_BLOCK_STATUS) throw protocolError('block status for another request')
    const [head, unit] = extended ? [8, 16] : [4, 8]
    const count = (payload.length - head) / unit
    if (!Number.isInteger(count) || count < 1 || count > EXTENTS_MAX) throw protocolError('a malformed block status')
    if (extended && readU32(payload, 4) !== count) throw protocolError('a block status that miscounts')
    const id = readU32(payload, 0)
    if (!this.#contexts.some(context => context.id === id)) throw protocolError('block status of an unknown context')
    if (this.#status.has(id)) throw protocolError('block status of one context twice')
    const extents: StatusExtent[] = []
    let offset = this.request.offset
    const end = offset + this.request.length
    for (let at = head; at < payload.length; at += unit) {
      const length = extended ? readU64(payload, at) : readU32(payload, at)
      if (length === 0 || offset >= end) throw protocolError('absurd lengths in a block status')
      // No context that we ask for has more than 32 bits, and a number would not hold them: the lowest would be the first to go.
      if (extended && readU32(payload, at + 8) !== 0) throw protocolError('a block status of more than 32 bits')
      // Only the last may reach past what was asked for; that part was not asked for.
      const flags = readU32(payload, at + (extended ? 12 : 4))
      extents.push({ offset, length: Math.min(length, end - offset), flags })
      offset += length
    }
    this.#status.set(id, extents)
  }

  /** DONE has come: the reply's outcome. */
  finish(): LifeboatError | undefined {
    if (this.#failure !== undefined) return this.#failure
    const { type, length } = this.request
    if (type === C.NBD_CMD_READ && length > 0) {
      const [only] = this.#covered
      if (this.#covered.length !== 1 || only!.end - only!.start !== length) throw protocolError('an incomplete read')
    }
    if (type === C.NBD_CMD_BLOCK_STATUS && this.#status.size !== this.#contexts.length)
      throw protocolError('block status without all contexts')
    return undefined
  }

  status(id: number): readonly StatusExtent[] {
    return this.#status.get(id) ?? []
  }
}

const NAMES = ['READ', 'WRITE', 'DISC', 'FLUSH', 'TRIM', 'CACHE', 'WRITE_ZEROES', 'BLOCK_STATUS']
const commandName = (type: number): string => NAMES[type] ?? `command ${type}`
