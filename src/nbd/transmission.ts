/** The transmission phase of one connection: requests in, replies out, in the turn that read them wherever that is possible. */
import type { BorrowedViews } from '../block/block-device.ts'
import { messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { ConnectionBytes } from './bytes-in-flight.ts'
import { type CommandScope, commandCost, execute, read, readCost } from './commands.ts'
import * as C from './constants.ts'
import { errnoOf } from './errno.ts'
import { GatheredWrites } from './gathered-writes.ts'
import type { HandshakeState } from './handshake.ts'
import type { NbdLog } from './log-line.ts'
import { contextOf } from './meta-contexts.ts'
import { type NbdExport, writableDevice } from './nbd-export.ts'
import { Replies } from './replies.ts'
import type { ReplyWriter } from './reply-writer.ts'
import { payloadLength, requestError } from './request-rules.ts'
import { emptyRequest, parseRequest, type RequestHeader, requestHeaderBytes } from './wire.ts'

/** What the transmission asks of the connection around it. */
export interface TransmissionHost {
  readonly writer: ReplyWriter
  readonly bytes: ConnectionBytes
  readonly signal: AbortSignal
  readonly requestsInFlight: number
  readonly log: NbdLog
  /** The stream has lost its meaning. */
  broken(reason: string): void
  /** Something was finished: a stopped connection may go on, or end. */
  progressed(): void
}

/** A payload that is on its way. Without `bytes` it is passed over. */
interface Incoming {
  readonly request: RequestHeader
  readonly error: number
  readonly bytes: Uint8Array | undefined
  readonly length: number
  filled: number
}

const NO_PAYLOAD = new Uint8Array(0)
const MAX_DRAINED = 2 ** 32

const isSmallWrite = ({ type, flags, length }: RequestHeader): boolean =>
  type === C.NBD_CMD_WRITE && (flags & C.NBD_CMD_FLAG_FUA) === 0 && length <= limits.nbdCopyMax

export class Transmission {
  readonly #host: TransmissionHost
  readonly #scope: CommandScope
  readonly #replies: Replies
  readonly #headerBytes: number
  readonly #entry: NbdExport
  readonly #request = emptyRequest()
  readonly #gathered: GatheredWrites
  #incoming: Incoming | undefined
  /** Requests that wait for the device. */
  running = 0
  /** Admission is closed until bytes or requests in flight have gone. */
  blocked = false
  /** DISC was read: nothing more is parsed. */
  disconnected = false
  /** The server stops: what is under way is answered, and what comes now is told so. */
  shuttingDown = false

  constructor(state: HandshakeState, entry: NbdExport, host: TransmissionHost) {
    const { writer, bytes, signal } = host
    const writable = writableDevice(entry)
    this.#host = host
    this.#entry = entry
    this.#gathered = new GatheredWrites(writable)
    this.#headerBytes = requestHeaderBytes(state.mode)
    this.#replies = new Replies(writer, state.mode)
    const contexts = state.contexts.flatMap(({ id, name }) => {
      const context = contextOf(entry, name)
      return context === undefined ? [] : [{ id, context }]
    })
    const rules = {
      mode: state.mode,
      size: entry.device.size,
      writable: writable !== undefined,
      fastZero: entry.fastZero === true && writable !== undefined,
      hasContexts: contexts.length > 0,
    }
    this.#scope = { device: entry.device, writable, rules, contexts, replies: this.#replies, writer, bytes, signal }
  }

  /** Handles what is in `b` from `start` to `end`; returns where it stopped. Sends all replies of this turn at once. */
  consume(b: Uint8Array, start: number, end: number): number {
    let at = start
    this.blocked = false
    while (!this.disconnected) {
      if (this.#incoming !== undefined) {
        at = this.#copyPayload(this.#incoming, b, at, end)
        if (this.#incoming !== undefined) break
      }
      if (end - at < this.#headerBytes) break
      if (this.running >= this.#host.requestsInFlight) {
        this.blocked = true
        break
      }
      if (!parseRequest(this.#scope.rules.mode, b, at, this.#request)) {
        this.#host.broken('bad request magic')
        break
      }
      const payload = at + this.#headerBytes
      if (this.#gathers(this.#request, end - payload)) {
        at = payload + this.#request.length
        this.#gathered.add({ ...this.#request }, b.subarray(payload, at), 0)
        continue
      }
      if (!this.#begin(this.#request)) {
        this.blocked = true
        break
      }
      at = payload
    }
    this.#writeGathered()
    this.#host.writer.flush()
    return at
  }

  /** Where the rest of a large payload should land without a copy. */
  payloadTarget(): Uint8Array | undefined {
    const incoming = this.#incoming
    if (incoming?.bytes === undefined || incoming.length - incoming.filled < limits.nbdCopyMax) return undefined
    return incoming.bytes.subarray(incoming.filled)
  }

  payloadReceived(length: number): void {
    if (this.#incoming === undefined) return
    this.#incoming.filled += length
    if (this.#incoming.filled === this.#incoming.length) this.#payloadComplete(this.#incoming)
  }

  #copyPayload(incoming: Incoming, b: Uint8Array, at: number, end: number): number {
    const length = Math.min(end - at, incoming.length - incoming.filled)
    incoming.bytes?.set(b.subarray(at, at + length), incoming.filled)
    this.payloadReceived(length)
    return at + length
  }

  #payloadComplete(incoming: Incoming): void {
    this.#incoming = undefined
    const { request, error, bytes } = incoming
    if (error !== 0) this.#replies.error(request, error)
    else if (bytes !== undefined && isSmallWrite(request) && this.#gathered.possible)
      this.#gathered.add(request, bytes, bytes.length)
    else this.#launch(request, bytes?.length ?? 0, () => execute(this.#scope, request, bytes ?? NO_PAYLOAD))
  }

  /** Whether it is a small WRITE, all of which has come, and nothing stands against it. */
  #gathers(request: RequestHeader, available: number): boolean {
    if (!isSmallWrite(request) || request.length > available || !this.#gathered.possible) return false
    return !this.shuttingDown && requestError(this.#scope.rules, request) === 0 && this.#host.bytes.fits(request.length)
  }

  /** What the device does not write at once goes the way of all others, in memory of its own: the input's is read into again. */
  #writeGathered(): void {
    const { written, writes } = this.#gathered.take()
    const { bytes: inFlight } = this.#host
    for (const { request, bytes, held } of writes) {
      if (written) {
        this.#replies.ok(request)
        if (held > 0) inFlight.release(held)
        continue
      }
      const own = held > 0 ? bytes : Buffer.from(bytes)
      if (held === 0) inFlight.charge(own.length)
      this.#launch(request, own.length, () => execute(this.#scope, request, own))
    }
  }

  /** Starts one request; false means that it was not admitted and must be parsed again later. */
  #begin(request: RequestHeader): boolean {
    const { bytes } = this.#host
    if (request.type === C.NBD_CMD_DISC) {
      this.disconnected = true
      return true
    }
    const error = this.shuttingDown ? C.NBD_ESHUTDOWN : requestError(this.#scope.rules, request)
    const payload = payloadLength(this.#scope.rules.mode, request)
    if (payload > 0) return this.#expectPayload(request, error, payload)
    // An error reply is small, but a client that never reads must not make a heap of them.
    if (error !== 0) {
      if (!bytes.fits(256)) return false
      this.#replies.error(request, error)
      return true
    }
    if (request.type === C.NBD_CMD_READ) return this.#beginRead(request)
    const cost = commandCost(request)
    if (!bytes.tryAcquire(cost)) return false
    const copy = { ...request }
    this.#launch(copy, cost, () => execute(this.#scope, copy, NO_PAYLOAD))
    return true
  }

  #beginRead(request: RequestHeader): boolean {
    const { bytes } = this.#host
    const { offset, length } = request
    const whole = this.#replies.dataOverhead + length
    if (bytes.fits(whole)) {
      let borrowed: BorrowedViews | undefined
      try {
        borrowed = this.#entry.device.borrow?.(offset, length)
      } catch (error) {
        this.#host.log(`borrow at ${offset}+${length} failed: ${messageOf(error)}`)
        this.#replies.error(request, errnoOf(error))
        return true
      }
      if (borrowed !== undefined) {
        this.#replies.data(request, offset, length, borrowed.views, borrowed.release, true)
        return true
      }
    }
    const cost = readCost(this.#scope, request)
    if (!bytes.tryAcquire(cost)) return false
    const copy = { ...request }
    this.#launch(copy, cost, () => read(this.#scope, copy))
    return true
  }

  #expectPayload(request: RequestHeader, error: number, length: number): boolean {
    if (length >= MAX_DRAINED) {
      this.#host.broken('payload too long')
      return true
    }
    const keep = error === 0
    if (keep && !this.#host.bytes.tryAcquire(length)) return false
    const bytes = keep ? Buffer.allocUnsafe(length) : undefined
    this.#incoming = { request: { ...request }, error, bytes, length, filled: 0 }
    return true
  }

  /** Runs what waits for the device. Its owner is the connection, whose signal ends it; its failure is the request's reply. */
  #launch(request: RequestHeader, cost: number, work: () => Promise<void>): void {
    this.running++
    void this.#settle(request, cost, work)
  }

  async #settle(request: RequestHeader, cost: number, work: () => Promise<void>): Promise<void> {
    const { bytes, signal, writer, log } = this.#host
    try {
      await work()
    } catch (error) {
      if (!signal.aborted) {
        log(`command ${request.type} at ${request.offset}+${request.length} failed: ${messageOf(error)}`)
        this.#replies.error(request, errnoOf(error))
      }
    }
    this.running--
    bytes.release(cost)
    writer.flushSoon()
    this.#host.progressed()
  }

  /** The payload that never came gives its bytes back. */
  abandon(): void {
    if (this.#incoming?.bytes !== undefined) this.#host.bytes.release(this.#incoming.bytes.length)
    this.#incoming = undefined
  }
}
