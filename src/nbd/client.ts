/** The NBD client: an export of another program as a device, over one connection or several. */
import type { BlockDevice } from '../block/block-device.ts'
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type Extent, type Range, rangeEnd, type StatusExtent } from '../core/range.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { Slots } from '../core/slots.ts'
import type { Call } from './calls-in-flight.ts'
import { ClientConnection } from './client-connection.ts'
import { type Negotiated, protocolError, type Wanted } from './client-handshake.ts'
import * as C from './constants.ts'
import type { ListenAddress } from './listen.ts'
import type { ReplyAssembly } from './reply-assembly.ts'
import type { ClientTls } from './tls-client.ts'
import type { HeaderMode } from './wire.ts'

export type ConnectNbdOptions = ListenAddress &
  AbortOptions & {
    readonly exportName: string
    /** Default: base:allocation alone. What the server does not offer is missing from `contexts` afterwards. */
    readonly contexts?: readonly string[]
    /** Over all connections together. */
    readonly requestsInFlight?: number
    /** As many as asked for if the server allows several, else one. */
    readonly connections?: number
    readonly headers?: HeaderMode
    /** With it, a server that does not offer TLS, or does not prove its name, is refused. On a Unix socket the name is localhost unless said. */
    readonly tls?: ClientTls
    readonly clock: Clock
    readonly handshakeMs?: number
    /** A request that takes longer fails, and its connection with it: a late reply could not be told from a wrong one. */
    readonly requestMs?: number
  }

/** Errors: 'nbd-io' with `details.errno` for a refused request, 'nbd-protocol' for a broken server, which also closes. */
export interface NbdClient extends BlockDevice {
  readonly exportName: string
  readonly description: string | undefined
  readonly readOnly: boolean
  readonly headers: HeaderMode
  /** Meta contexts that were granted. */
  readonly contexts: readonly string[]
  readonly connectionCount: number
  /** A context's state over `range`, in order and complete, as the server cut it. */
  blockStatus(range: Range, context: string, options?: AbortOptions): AsyncIterable<StatusExtent>
  /** Asks the server to have the range at hand. */
  cache(range: Range, options?: AbortOptions): Promise<void>
}

export async function connectNbd(options: ConnectNbdOptions): Promise<NbdClient> {
  const { clock, exportName } = options
  const wanted: Wanted = {
    exportName,
    contexts: options.contexts ?? [C.BASE_ALLOCATION],
    mode: options.headers ?? 'structured',
  }
  const late = new AbortController()
  const deadline = withDeadline(clock, options.handshakeMs ?? limits.nbdHandshakeMs, late)
  const signal = options.signal ? AbortSignal.any([options.signal, late.signal]) : late.signal
  const connections: ClientConnection[] = []
  try {
    const address: ListenAddress =
      'socket' in options ? { socket: options.socket } : { host: options.host, port: options.port }
    const first = await ClientConnection.open(address, wanted, signal, options.tls)
    connections.push(first)
    const several = (first.negotiated.flags & C.NBD_FLAG_CAN_MULTI_CONN) !== 0
    while (several && connections.length < (options.connections ?? 1)) {
      const next = await ClientConnection.open(address, wanted, signal, options.tls)
      connections.push(next)
      if (next.negotiated.size !== first.negotiated.size || next.negotiated.flags !== first.negotiated.flags)
        throw protocolError('connections that see different exports')
    }
    return new Client(connections, options)
  } catch (error) {
    for (const connection of connections) connection.fail(closedError())
    throw error
  } finally {
    deadline.abort()
  }
}

/** Aborts `late` after `ms`, unless the returned controller is aborted before. */
function withDeadline(clock: Clock, ms: number, late: AbortController): AbortController {
  const done = new AbortController()
  clock.sleep(ms, { signal: done.signal }).then(
    () =>
      late.abort(
        new LifeboatError('nbd-io', 'the NBD server did not finish the handshake in time', {
          retry: 'transient',
          hint: 'Check that an NBD server listens there and is not overloaded.',
        }),
      ),
    () => {},
  )
  return done
}

const closedError = () => new LifeboatError('interrupted', 'the NBD client was closed')

/** BLOCK_STATUS in 32-bit headers: a round number below 2^32. */
const STATUS_LENGTH_MAX = 2 ** 31

class Client implements NbdClient {
  readonly exportName: string
  readonly size: number
  readonly blockSize: number
  readonly readOnly: boolean
  readonly description: string | undefined
  readonly headers: HeaderMode
  readonly contexts: readonly string[]
  readonly connectionCount: number
  readonly #connections: readonly ClientConnection[]
  readonly #server: Negotiated
  readonly #clock: Clock
  readonly #slots: Slots
  readonly #closing = new AbortController()
  readonly #watching: Promise<void>

  constructor(connections: readonly ClientConnection[], options: ConnectNbdOptions) {
    const server = connections[0]!.negotiated
    this.#connections = connections
    this.#server = server
    this.#clock = options.clock
    this.#slots = new Slots(options.requestsInFlight ?? 16)
    this.exportName = options.exportName
    this.size = server.size
    this.blockSize = server.preferredBlock
    this.readOnly = (server.flags & C.NBD_FLAG_READ_ONLY) !== 0
    this.description = server.description
    this.headers = server.mode
    const asked = options.contexts ?? [C.BASE_ALLOCATION]
    this.contexts = server.contexts.map(({ name }) => name).filter(name => asked.includes(name))
    this.connectionCount = connections.length
    // One broken connection means a broken server: the others would only hide that for a while.
    for (const connection of connections)
      connection.onFailure(error => {
        for (const other of connections) other.fail(error)
      })
    this.#watching = this.#watch(options.requestMs ?? 60_000)
  }

  async readInto(target: Uint8Array, offset: number, options: AbortOptions = {}): Promise<void> {
    this.#check(offset, target.length)
    const unit = this.#server.minimumBlock
    if (offset % unit !== 0 || target.length % unit !== 0) return this.#readUnaligned(target, offset, unit, options)
    const step = this.#server.maximumPayload
    if (target.length <= step) return this.#readPiece(target, offset, options)
    const starts = Iterator.from(range(0, target.length, step))
    await forEachLimited(
      starts,
      4,
      (at, signal) => this.#readPiece(target.subarray(at, Math.min(at + step, target.length)), offset + at, { signal }),
      options,
    )
  }

  async #readPiece(target: Uint8Array, offset: number, options: AbortOptions): Promise<void> {
    if (target.length > 0)
      await this.#call({ type: C.NBD_CMD_READ, flags: 0, offset, length: target.length, target }, options)
  }

  /** For servers with a smallest block: the blocks around are read apart. */
  async #readUnaligned(target: Uint8Array, offset: number, unit: number, options: AbortOptions): Promise<void> {
    const start = offset - (offset % unit)
    const step = Math.max(unit, Math.min(this.#server.maximumPayload, 1 << 20))
    const block = Buffer.allocUnsafe(step)
    for (let at = start; at < offset + target.length; at += step) {
      const length = Math.min(step, Math.ceil((offset + target.length - at) / unit) * unit, this.size - at)
      const view = block.subarray(0, length)
      await this.#readPiece(view, at, options)
      const from = Math.max(at, offset)
      target.set(view.subarray(from - at, Math.min(length, offset + target.length - at)), from - offset)
    }
  }

  async *extents(wanted: Range, options: AbortOptions = {}): AsyncGenerator<Extent> {
    this.#check(wanted.offset, wanted.length)
    if (wanted.length === 0) return
    if (!this.contexts.includes(C.BASE_ALLOCATION)) {
      yield { ...wanted, kind: 'data' }
      return
    }
    for await (const { offset, length, flags } of this.blockStatus(wanted, C.BASE_ALLOCATION, options))
      yield { offset, length, kind: (flags & C.NBD_STATE_ZERO) !== 0 ? 'zero' : 'data' }
  }

  async *blockStatus(wanted: Range, context: string, options: AbortOptions = {}): AsyncGenerator<StatusExtent> {
    this.#check(wanted.offset, wanted.length)
    if (!this.contexts.includes(context))
      throw new LifeboatError('nbd-refused', `the server does not offer the context ${context} for this export`, {
        hint: 'nbdinfo --list shows the contexts of an export.',
      })
    const end = rangeEnd(wanted)
    const unit = this.#server.minimumBlock
    for (let at = wanted.offset; at < end; ) {
      const start = at - (at % unit)
      const until = Math.min(Math.ceil(end / unit) * unit, this.size)
      const length = this.headers === 'extended' ? until - start : Math.min(until - start, STATUS_LENGTH_MAX)
      const call = { type: C.NBD_CMD_BLOCK_STATUS, flags: 0, offset: start, length }
      const { assembly, connection } = await this.#callOn(call, options)
      const id = connection.negotiated.contexts.find(({ name }) => name === context)?.id
      let moved = false
      for (const extent of assembly.status(id ?? -1)) {
        const from = Math.max(extent.offset, at)
        const to = Math.min(rangeEnd(extent), end)
        if (to <= from) continue
        yield { offset: from, length: to - from, flags: extent.flags }
        at = to
        moved = true
      }
      if (!moved) throw protocolError('block status of less than one block')
    }
  }

  async write(source: Uint8Array, offset: number, options: { fua?: boolean } & AbortOptions = {}): Promise<void> {
    this.#checkWrite(offset, source.length)
    const step = this.#server.maximumPayload
    const flags = this.headers === 'extended' ? C.NBD_CMD_FLAG_PAYLOAD_LEN : 0
    const fua = this.#fuaFlag(options.fua)
    await forEachLimited(
      Iterator.from(range(0, source.length, step)),
      4,
      async (at, signal) => {
        const piece = source.subarray(at, Math.min(at + step, source.length))
        const length = piece.length
        await this.#call(
          { type: C.NBD_CMD_WRITE, flags: flags | fua, offset: offset + at, length, source: piece },
          { signal },
        )
      },
      options,
    )
    if (options.fua && fua === 0) await this.flush(options)
  }

  async zero(wanted: Range, options: { fua?: boolean } & AbortOptions = {}): Promise<void> {
    if (this.#has(C.NBD_FLAG_SEND_WRITE_ZEROES)) {
      const fua = this.#fuaFlag(options.fua)
      await this.#ranged(C.NBD_CMD_WRITE_ZEROES, fua, wanted, options)
      if (options.fua && fua === 0) await this.flush(options)
      return
    }
    const zeros = new Uint8Array(Math.min(1 << 20, wanted.length))
    for (let at = 0; at < wanted.length; at += zeros.length)
      await this.write(zeros.subarray(0, Math.min(zeros.length, wanted.length - at)), wanted.offset + at, {
        signal: options.signal,
      })
    if (options.fua) await this.flush(options)
  }

  async trim(wanted: Range, options: AbortOptions = {}): Promise<void> {
    if (this.#has(C.NBD_FLAG_SEND_TRIM)) await this.#ranged(C.NBD_CMD_TRIM, 0, wanted, options)
  }

  async cache(wanted: Range, options: AbortOptions = {}): Promise<void> {
    this.#check(wanted.offset, wanted.length)
    if (this.#has(C.NBD_FLAG_SEND_CACHE)) await this.#spans(C.NBD_CMD_CACHE, 0, wanted, options)
  }

  async flush(options: AbortOptions = {}): Promise<void> {
    if (!this.#has(C.NBD_FLAG_SEND_FLUSH)) return
    await this.#call({ type: C.NBD_CMD_FLUSH, flags: 0, offset: 0, length: 0 }, options)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#closing.signal.aborted) {
      this.#closing.abort()
      for (const connection of this.#connections) {
        connection.onFailure(() => {})
        if (connection.inFlight > 0) connection.fail(closedError())
        else await connection.disconnect()
      }
    }
    await this.#watching
  }

  /** TRIM and WRITE_ZEROES: writes without a payload, as long as the header allows. */
  async #ranged(type: number, flags: number, wanted: Range, options: AbortOptions): Promise<void> {
    this.#checkWrite(wanted.offset, wanted.length)
    await this.#spans(type, flags, wanted, options)
  }

  async #spans(type: number, flags: number, { offset, length }: Range, options: AbortOptions): Promise<void> {
    const step = this.headers === 'extended' ? length : STATUS_LENGTH_MAX
    for (const at of range(0, length, step))
      await this.#call({ type, flags, offset: offset + at, length: Math.min(step, length - at) }, options)
  }

  async #call(call: Call, options: AbortOptions): Promise<void> {
    await this.#callOn(call, options)
  }

  async #callOn(
    call: Call,
    { signal }: AbortOptions,
  ): Promise<{ assembly: ReplyAssembly; connection: ClientConnection }> {
    await this.#slots.take(signal)
    try {
      let connection = this.#connections[0]!
      for (const other of this.#connections) if (other.inFlight < connection.inFlight) connection = other
      return { assembly: await connection.call(call, this.#clock.monotonicMs(), signal), connection }
    } finally {
      this.#slots.give()
    }
  }

  #has(flag: number): boolean {
    return (this.#server.flags & flag) !== 0
  }

  #fuaFlag(fua: boolean | undefined): number {
    return fua && this.#has(C.NBD_FLAG_SEND_FUA) ? C.NBD_CMD_FLAG_FUA : 0
  }

  #check(offset: number, length: number): void {
    if (!(offset >= 0 && length >= 0 && offset + length <= this.size))
      throw new RangeError(`${offset}+${length} is outside the ${this.size} bytes of the export`)
  }

  #checkWrite(offset: number, length: number): void {
    this.#check(offset, length)
    if (this.readOnly)
      throw new LifeboatError('nbd-refused', 'the export is read-only', {
        hint: 'Start its server with a writable export.',
      })
    const unit = this.#server.minimumBlock
    if (offset % unit !== 0 || length % unit !== 0)
      throw new RangeError(`${offset}+${length} is not made of the server's blocks of ${unit} bytes`)
  }

  async #watch(requestMs: number): Promise<void> {
    const { signal } = this.#closing
    const everyMs = Math.max(10, Math.min(1000, requestMs / 4))
    while (!signal.aborted) {
      try {
        await this.#clock.sleep(everyMs, { signal })
      } catch {
        return
      }
      for (const connection of this.#connections) {
        const oldest = connection.oldestMs
        if (oldest !== undefined && this.#clock.monotonicMs() - oldest > requestMs) connection.fail(tooLate())
      }
    }
  }
}

const tooLate = () =>
  new LifeboatError('nbd-io', 'the NBD server did not answer a request in time', {
    retry: 'transient',
    hint: 'Check the server and the storage below it.',
  })

function* range(start: number, end: number, step: number): Generator<number> {
  for (let at = start; at < end; at += step) yield at
}
