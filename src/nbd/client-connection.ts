/** One connection of the client: many requests in flight, and their replies read straight into the callers' memory. */
import { connect, type Socket } from 'node:net'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { asError, type Call, CallsInFlight, requestOf } from './calls-in-flight.ts'
import { type Negotiated, negotiate, protocolError, type Wanted } from './client-handshake.ts'
import * as C from './constants.ts'
import { Inbox } from './inbox.ts'
import type { ListenAddress } from './listen.ts'
import type { ReplyAssembly } from './reply-assembly.ts'
import { ReplyInput } from './reply-input.ts'
import { SocketInput } from './socket-input.ts'
import { type ClientTls, startTls } from './tls-client.ts'
import { putRequest, type RequestHeader, requestHeaderBytes } from './wire.ts'

const LOST_HINT = 'Check that the server still runs, then start again.'

export class ClientConnection {
  #socket: Socket
  readonly #inbox: Inbox
  readonly #calls = new CallsInFlight()
  readonly #replies = new ReplyInput(this.#calls)
  #negotiated: Negotiated | undefined
  #failure: LifeboatError | undefined
  #onFailure: (error: LifeboatError) => void = () => {}
  #corked = false
  #secured = false

  private constructor(address: ListenAddress) {
    const where =
      'socket' in address ? { path: address.socket } : { host: address.host, port: address.port, noDelay: true }
    const onread = {
      buffer: () => this.#replies.target(),
      callback: (n: number, b: Uint8Array) => this.#received(b, n),
    }
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
      connection.#replies.begin(connection.#negotiated.mode)
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
    const target = () => this.#replies.target()
    const received = (buffer: Uint8Array, length: number) => this.#received(buffer, length)
    new SocketInput(socket, { target, received }, 'data').start()
  }

  get negotiated(): Negotiated {
    if (this.#negotiated === undefined) throw new LifeboatError('internal', 'the handshake has not ended')
    return this.#negotiated
  }

  get inFlight(): number {
    return this.#calls.count
  }

  /** When the oldest request was sent, or undefined. */
  get oldestMs(): number | undefined {
    return this.#calls.oldestMs
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
    this.#replies.stop()
    this.#calls.failAll(error)
    this.#onFailure(error)
  }

  /** Says goodbye; the caller has waited for its requests. */
  async disconnect(): Promise<void> {
    if (this.#failure !== undefined) return
    const closed = new Promise<void>(resolve => this.#socket.once('close', () => resolve()))
    this.#send(requestOf({ type: C.NBD_CMD_DISC, flags: 0, offset: 0, length: 0 }, 0))
    this.#failure = lost('closed by this client')
    this.#socket.end(() => this.#socket.destroy())
    await closed
  }

  /** Sends one request. An abort settles the call as soon as none of the caller's memory is in use any longer. */
  call(call: Call, nowMs: number, signal?: AbortSignal): Promise<ReplyAssembly> {
    const failure = this.#failure ?? (signal?.aborted ? asError(signal.reason) : undefined)
    if (failure !== undefined) return Promise.reject(failure)
    const begun = this.#calls.begin(call, this.negotiated.contexts, nowMs, signal)
    this.#send(begun.assembly.request, call.source, () => begun.sent())
    return begun.answer
  }

  #send(request: RequestHeader, payload?: Uint8Array, sent?: () => void): void {
    const { mode } = this.negotiated
    const bytes = Buffer.allocUnsafe(requestHeaderBytes(mode))
    putRequest(mode, bytes, 0, request)
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
    if (payload !== undefined) this.#socket.write(payload, sent)
  }

  #received(buffer: Uint8Array, length: number): boolean {
    if (this.#failure !== undefined) return true
    try {
      if (this.#negotiated === undefined) this.#inbox.arrived(buffer.subarray(0, length))
      else this.#replies.received(buffer, length)
    } catch (error) {
      this.fail(asError(error))
    }
    return true
  }
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
