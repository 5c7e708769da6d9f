/** One connection of the client: many requests in flight, and their replies read straight into the callers' memory. */
import { connect, type Socket } from 'node:net'
import { isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type Negotiated, negotiate, protocolError, type Wanted } from './client-handshake.ts'
import * as C from './constants.ts'
import { Inbox } from './inbox.ts'
import type { ListenAddress } from './listen.ts'
import { ReplyAssembly } from './reply-assembly.ts'
import { SocketInput } from './socket-input.ts'
import { type ClientTls, startTls } from './tls-client.ts'
import { emptyReply, parseReply, putRequest, type ReplyHeader, type RequestHeader, requestHeaderBytes } from './wire.ts'

/** A request as its caller sees it. */
export interface Call {
  readonly type: number
  readonly flags: number
  readonly offset: number
  readonly length: number
  /** READ: filled. */
  readonly target?: Uint8Array
  /** WRITE: sent; the caller must leave it alone until the call settles. */
  readonly source?: Uint8Array
}

interface Pending {
  readonly assembly: ReplyAssembly
  readonly startedMs: number
  /** The caller has gone: what still comes is passed over. */
  abandoned: boolean
  settle(error: unknown): void
}

/** A chunk whose payload is being read: into the caller's memory, into one of its own, or nowhere. */
interface Chunk {
  readonly pending: Pending
  readonly header: ReplyHeader
  readonly into: Uint8Array | undefined
  /** The payload is the caller's data, not something to be parsed. */
  readonly data: boolean
  readonly length: number
  filled: number
}

const HEADROOM = 64
const LOST_HINT = 'Check that the server still runs, then start again.'
/** The protocol's longest list of extents. */
const STATUS_MAX = 8 + 16 * 2 ** 20
const ERROR_MAX = 64 * 1024

export class ClientConnection {
  #socket: Socket
  readonly #buffer = Buffer.allocUnsafeSlow(HEADROOM + limits.nbdInputBytes)
  readonly #landing: Uint8Array = this.#buffer.subarray(HEADROOM)
  #start = HEADROOM
  #end = HEADROOM
  readonly #inbox: Inbox
  #negotiated: Negotiated | undefined
  #failure: LifeboatError | undefined
  #onFailure: (error: LifeboatError) => void = () => {}
  readonly #pending = new Map<number, Pending>()
  readonly #reply = emptyReply()
  #chunk: Chunk | undefined
  #cookie = 0
  #corked = false
  #secured = false

  private constructor(address: ListenAddress) {
    const where =
      'socket' in address ? { path: address.socket } : { host: address.host, port: address.port, noDelay: true }
    const onread = { buffer: () => this.#target(), callback: (n: number, b: Uint8Array) => this.#received(b, n) }
    this.#socket = connect({ ...where, onread })
    this.#inbox = new Inbox(bytes => this.#socket.write(bytes))
    this.#watch(this.#socket)
  }

  #watch(socket: Socket): void {
    socket.on('error', (cause: NodeJS.ErrnoException) => this.fail(lost(cause.code ?? cause.message, cause)))
    socket.on('close', () => this.fail(lost('closed')))
    socket.on('end', () => this.fail(lost('closed by the server')))
  }

  /** Connects and haggles. Rejects when `signal` fires, and leaves nothing open then. */
  static async open(
    address: ListenAddress,
    wanted: Wanted,
    signal: AbortSignal,
    tls?: ClientTls,
  ): Promise<ClientConnection> {
    signal.throwIfAborted()
    const connection = new ClientConnection(address)
    const onAbort = () => connection.fail(asError(signal.reason))
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      connection.#negotiated = await negotiate(
        connection.#inbox,
        wanted,
        tls && (() => connection.#secure(tls, address)),
      )
      if (!connection.#inbox.empty) throw protocolError('bytes that nobody asked for')
      return connection
    } catch (error) {
      connection.fail(asError(error))
      const failure = connection.#failure ?? asError(error)
      // In TLS 1.3 a server looks at the client's credentials after the client has done its part: it can only hang up.
      throw tls !== undefined && connection.#secured && isLifeboatError(failure, 'nbd-io')
        ? unwelcome(failure)
        : failure
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  /** Whatever the server sent in the clear behind its acknowledgement came from somebody else. */
  async #secure(tls: ClientTls, address: ListenAddress): Promise<void> {
    if (!this.#inbox.empty) throw protocolError('plain bytes behind the acknowledgement of STARTTLS')
    const host = 'host' in address ? address.host : 'localhost'
    const socket = startTls(this.#socket, tls, host)
    const done = Promise.withResolvers<void>()
    socket.once('secureConnect', done.resolve)
    socket.once('error', cause => done.reject(untrusted(cause)))
    socket.once('close', () => done.reject(lost('closed during the handshake of TLS')))
    this.#socket = socket
    await done.promise
    this.#secured = true
    this.#watch(socket)
    const target = () => this.#target()
    const received = (buffer: Uint8Array, length: number) => this.#received(buffer, length)
    new SocketInput(socket, { target, received }, 'data').start()
  }

  get negotiated(): Negotiated {
    if (this.#negotiated === undefined) throw new LifeboatError('internal', 'the handshake has not ended')
    return this.#negotiated
  }

  get inFlight(): number {
    return this.#pending.size
  }

  /** When the oldest request was sent, or undefined. */
  get oldestMs(): number | undefined {
    for (const { startedMs } of this.#pending.values()) return startedMs
    return undefined
  }

  onFailure(listener: (error: LifeboatError) => void): void {
    this.#onFailure = listener
  }

  /** Ends the connection; every request in flight fails with `error`. */
  fail(error: LifeboatError): void {
    if (this.#failure !== undefined) return
    this.#failure = error
    this.#socket.destroy()
    this.#inbox.fail(error)
    const pending = [...this.#pending.values()]
    this.#pending.clear()
    this.#chunk = undefined
    for (const { settle } of pending) settle(error)
    this.#onFailure(error)
  }

  /** Says goodbye; the caller has waited for its requests. */
  async disconnect(): Promise<void> {
    if (this.#failure !== undefined) return
    const closed = new Promise<void>(resolve => this.#socket.once('close', () => resolve()))
    this.#send({ type: C.NBD_CMD_DISC, flags: 0, offset: 0, length: 0 }, 0)
    this.#failure = lost('closed by this client')
    this.#socket.end(() => this.#socket.destroy())
    await closed
  }

  /**
   * Sends one request. An abort settles the call as soon as none of the caller's memory is in use any longer: the reply's data
   * may be landing in `target` at that moment, and `source` may still be on its way to the kernel.
   */
  call(call: Call, nowMs: number, signal?: AbortSignal): Promise<ReplyAssembly> {
    const failure = this.#failure ?? (signal?.aborted ? asError(signal.reason) : undefined)
    if (failure !== undefined) return Promise.reject(failure)
    const { promise, resolve, reject } = Promise.withResolvers<ReplyAssembly>()
    const cookie = this.#cookie++ >>> 0
    const request = this.#header(call, cookie)
    const assembly = new ReplyAssembly(request, call.target, this.negotiated.contexts)
    let sending = call.source !== undefined
    let abort: LifeboatError | undefined
    const abandon = () => {
      if (abort === undefined || sending || this.#chunk?.pending === pending) return
      pending.abandoned = true
      reject(abort)
    }
    const onAbort = () => {
      abort = asError(signal?.reason)
      abandon()
    }
    const pending: Pending = {
      assembly,
      startedMs: nowMs,
      abandoned: false,
      settle: error => {
        signal?.removeEventListener('abort', onAbort)
        const failed = error ?? abort
        if (failed === undefined) resolve(assembly)
        else reject(failed)
      },
    }
    signal?.addEventListener('abort', onAbort, { once: true })
    this.#abandoners.set(pending, abandon)
    this.#pending.set(cookie, pending)
    this.#send(call, cookie, () => {
      sending = false
      abandon()
    })
    return promise
  }

  readonly #abandoners = new WeakMap<Pending, () => void>()

  #header({ type, flags, offset, length }: Call, cookie: number): RequestHeader {
    const offsetHi = Math.floor(offset / 2 ** 32)
    return { type, flags, cookieHi: COOKIE_HI, cookieLo: cookie, offset, offsetHi, offsetLo: offset % 2 ** 32, length }
  }

  #send(call: Call, cookie: number, sent?: () => void): void {
    const { mode } = this.negotiated
    const bytes = Buffer.allocUnsafe(requestHeaderBytes(mode))
    putRequest(mode, bytes, 0, this.#header(call, cookie))
    // Requests of one turn leave in one write.
    if (!this.#corked) {
      this.#corked = true
      this.#socket.cork()
      process.nextTick(() => {
        this.#corked = false
        this.#socket.uncork()
      })
    }
    this.#socket.write(bytes)
    if (call.source !== undefined) this.#socket.write(call.source, sent)
  }

  // Input

  /** The next bytes land in the caller's memory if much of a chunk is missing. */
  #target(): Uint8Array {
    const chunk = this.#chunk
    if (chunk?.into === undefined || chunk.length - chunk.filled < limits.nbdCopyMax) return this.#landing
    return chunk.into.subarray(chunk.filled, chunk.length)
  }

  #received(buffer: Uint8Array, length: number): boolean {
    if (this.#failure !== undefined) return true
    try {
      if (this.#negotiated === undefined) this.#inbox.arrived(buffer.subarray(0, length))
      else if (buffer !== this.#landing) this.#advance(this.#chunk, length)
      else {
        this.#end = HEADROOM + length
        while (this.#failure === undefined && this.#step()) {}
        const rest = this.#end - this.#start
        this.#buffer.copyWithin(HEADROOM - rest, this.#start, this.#end)
        this.#start = HEADROOM - rest
        this.#end = HEADROOM
      }
    } catch (error) {
      this.fail(asError(error))
    }
    return true
  }

  /** Goes through the input by one header or one part of a payload; false when more must come. */
  #step(): boolean {
    const available = this.#end - this.#start
    const chunk = this.#chunk
    if (chunk !== undefined) {
      const length = Math.min(available, chunk.length - chunk.filled)
      chunk.into?.set(this.#buffer.subarray(this.#start, this.#start + length), chunk.filled)
      this.#start += length
      this.#advance(chunk, length)
      return length > 0
    }
    const { mode } = this.negotiated
    const size = parseReply(mode, this.#buffer, this.#start, available, this.#reply)
    if (size < 0) throw protocolError('bad magic in a reply')
    if (size === 0) return false
    const isData = this.#reply.kind === 'chunk' && this.#reply.type === C.NBD_REPLY_TYPE_OFFSET_DATA
    if (isData && this.#reply.length <= 8) throw protocolError('a data chunk without data')
    if (isData && available < size + 8) return false
    const pending = this.#reply.cookieHi === COOKIE_HI ? this.#pending.get(this.#reply.cookieLo) : undefined
    if (pending === undefined) throw protocolError('a reply to no request')
    if (this.#reply.kind === 'simple') this.#simple(pending)
    else if (isData) this.#data(pending, readOffset(this.#buffer, this.#start + size))
    else this.#control(pending)
    this.#start += isData ? size + 8 : size
    return true
  }

  #simple(pending: Pending): void {
    const { assembly } = pending
    const { type, length } = assembly.request
    if (this.negotiated.mode === 'structured' && (type === C.NBD_CMD_READ || type === C.NBD_CMD_BLOCK_STATUS))
      throw protocolError('a simple reply where chunks are due')
    const { error } = this.#reply
    if (error !== 0) assembly.fail(error)
    if (error !== 0 || type !== C.NBD_CMD_READ || length === 0) {
      this.#finish(pending)
      return
    }
    assembly.cover(assembly.request.offset, length)
    const into = pending.abandoned ? undefined : assembly.target
    const header = { ...this.#reply, flags: C.NBD_REPLY_FLAG_DONE }
    this.#chunk = { pending, header, into, data: true, length, filled: 0 }
  }

  #data(pending: Pending, offset: number): void {
    this.#checkOffset(pending)
    const length = this.#reply.length - 8
    const start = pending.assembly.cover(offset, length)
    const into = pending.abandoned ? undefined : pending.assembly.target?.subarray(start, start + length)
    this.#chunk = { pending, header: { ...this.#reply }, into, data: true, length, filled: 0 }
  }

  #control(pending: Pending): void {
    this.#checkOffset(pending)
    const { type, length } = this.#reply
    const status = type === C.NBD_REPLY_TYPE_BLOCK_STATUS || type === C.NBD_REPLY_TYPE_BLOCK_STATUS_EXT
    if (length > (status ? STATUS_MAX : ERROR_MAX)) throw protocolError('a chunk that is too long')
    const into = Buffer.allocUnsafe(length)
    const chunk = { pending, header: { ...this.#reply }, into, data: false, length, filled: 0 }
    if (length === 0) this.#complete(chunk)
    else this.#chunk = chunk
  }

  #checkOffset(pending: Pending): void {
    if (this.negotiated.mode === 'extended' && this.#reply.offset !== pending.assembly.request.offset)
      throw protocolError('a reply with the offset of another request')
  }

  #advance(chunk: Chunk | undefined, length: number): void {
    if (chunk === undefined) return
    chunk.filled += length
    if (chunk.filled < chunk.length) return
    this.#chunk = undefined
    this.#complete(chunk)
  }

  #complete({ pending, header, into, data }: Chunk): void {
    if (!data) this.#interpret(pending, header, into ?? new Uint8Array(0))
    if ((header.flags & C.NBD_REPLY_FLAG_DONE) !== 0) this.#finish(pending)
    else this.#abandoners.get(pending)?.()
  }

  #interpret({ assembly, abandoned }: Pending, { type, flags }: ReplyHeader, payload: Uint8Array): void {
    if ((type & C.NBD_REPLY_TYPE_ERROR_BIT) !== 0) assembly.errorChunk(payload, type)
    else if (type === C.NBD_REPLY_TYPE_OFFSET_HOLE) {
      const { start, length } = assembly.hole(payload)
      if (!abandoned) assembly.target?.fill(0, start, start + length)
    } else if (type === C.NBD_REPLY_TYPE_NONE) {
      if (payload.length > 0 || (flags & C.NBD_REPLY_FLAG_DONE) === 0) throw protocolError('a malformed empty chunk')
    } else {
      const extended = this.negotiated.mode === 'extended'
      const due = extended ? C.NBD_REPLY_TYPE_BLOCK_STATUS_EXT : C.NBD_REPLY_TYPE_BLOCK_STATUS
      if (type !== due) throw protocolError('an unknown kind of chunk')
      assembly.blockStatus(payload, extended)
    }
  }

  #finish(pending: Pending): void {
    const error = pending.assembly.finish()
    this.#pending.delete(pending.assembly.request.cookieLo)
    pending.settle(error)
  }
}

/** Tells our cookies from what a confused server makes up. */
const COOKIE_HI = 0x6c626f74

const readOffset = (b: Uint8Array, at: number): number => {
  const view = new DataView(b.buffer, b.byteOffset + at, 8)
  return view.getUint32(0) * 2 ** 32 + view.getUint32(4)
}

const lost = (what: string, cause?: unknown): LifeboatError =>
  new LifeboatError('nbd-io', `the connection to the NBD server was lost: ${what}`, {
    retry: 'transient',
    hint: LOST_HINT,
    cause,
  })

const unwelcome = (cause: LifeboatError): LifeboatError =>
  new LifeboatError('nbd-io', `${cause.message}, after the handshake of TLS`, {
    retry: cause.retry,
    hint: 'It may not accept this certificate or key: look at its log, and at what it wants of clients.',
    cause,
  })

const untrusted = (cause: Error): LifeboatError =>
  new LifeboatError('nbd-refused', `no TLS with the NBD server: ${reasonOf(cause)}`, {
    hint: 'Compare its certificate with the name that was asked for and with ca-cert.pem, or the keys of both sides.',
    cause,
  })

/** OpenSSL's messages name its source lines; its reason is what people can use. */
const reasonOf = (cause: Error): string =>
  'reason' in cause && typeof cause.reason === 'string' ? cause.reason : cause.message

const asError = (error: unknown): LifeboatError =>
  isLifeboatError(error) ? error : new LifeboatError('interrupted', messageOf(error), { cause: error })
