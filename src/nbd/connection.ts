/** One client's connection on the server: its socket, its input buffer, and the two phases that it goes through. */
import type { Socket } from 'node:net'
import { TLSSocket } from 'node:tls'
import type { Clock } from '../core/clock.ts'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type BytesInFlight, ConnectionBytes } from './bytes-in-flight.ts'
import {
  advanceHandshake,
  type ExportCatalog,
  greeting,
  type HandshakeState,
  type HandshakeStep,
  handshakeInsideTls,
  handshakeNeeds,
  initialHandshake,
  skipHandshake,
} from './handshake.ts'
import { escapeText, type NbdLog } from './log-line.ts'
import { PacedSocket } from './paced-socket.ts'
import { type BufferPool, ReplyWriter } from './reply-writer.ts'
import { type InputHandler, type InputMode, SocketInput } from './socket-input.ts'
import { acceptTls, type ServerTls } from './tls-server.ts'
import { Transmission } from './transmission.ts'
import type { HeaderMode } from './wire.ts'

/** What a client and the server have agreed on. */
export interface AgreedSession {
  readonly exportName: string
  readonly headers: HeaderMode
  readonly contexts: readonly string[]
}

/** What a connection shares with the others of its server. */
export interface ConnectionShare {
  /** What a client is shown: in the clear, and once TLS has shown its names. */
  catalogFor(clientNames?: readonly string[]): ExportCatalog
  readonly tls: ServerTls | undefined
  readonly bytes: BytesInFlight
  readonly pool: BufferPool
  readonly clock: Clock
  readonly log: NbdLog
  readonly input: InputMode
  readonly limits: {
    readonly handshakeMs: number
    readonly stalledMs: number
    readonly stalledWantedMs: number
    readonly idleMs: number
    readonly requestsInFlight: number
  }
  /** Bytes of option payloads that all half-open connections hold. */
  readonly handshakeBytes: { used: number; readonly max: number }
  /** The connection has chosen an export. */
  entered(connection: Connection, agreed: AgreedSession): void
  closed(connection: Connection): void
}

/** Reads land behind this much room, so that the start of a request that was cut off fits before them. */
const HEADROOM = 64
const HANDSHAKE_INPUT = 4096

export class Connection implements InputHandler {
  readonly #share: ConnectionShare
  #input: SocketInput
  #catalog: ExportCatalog
  readonly #bytes: ConnectionBytes
  #writer: ReplyWriter
  readonly #ended = new AbortController()
  readonly #wake = () => this.#progressed()
  #buffer = Buffer.allocUnsafeSlow(HEADROOM + HANDSHAKE_INPUT)
  #landing: Uint8Array = this.#buffer.subarray(HEADROOM)
  #start = HEADROOM
  #end = HEADROOM
  #handshake: HandshakeState = initialHandshake
  #optionPayload: { readonly bytes: Buffer; filled: number } | undefined
  #transmission: Transmission | undefined
  #stopped = false
  #finishing = false
  readonly #openedMs: number
  #movedMs: number
  #moves = 0
  #movesSeen = 0

  constructor(accepted: Socket, share: ConnectionShare) {
    this.#share = share
    this.#openedMs = this.#movedMs = share.clock.monotonicMs()
    this.#catalog = share.catalogFor()
    this.#input = new SocketInput(accepted, this, share.input)
    this.#bytes = new ConnectionBytes(share.bytes)
    this.#writer = new ReplyWriter(this.#input.socket, share.pool, this.#bytes, () => this.#written())
    const { socket } = this.#input
    this.#watch(socket)
    socket.setNoDelay(true)
    socket.setKeepAlive(true, 60_000)
    this.#send([greeting()])
    this.#input.start()
  }

  get inTransmission(): boolean {
    return this.#transmission !== undefined
  }

  /** Nothing that comes now is looked at. */
  get #deaf(): boolean {
    return this.#finishing && this.#transmission?.shuttingDown !== true
  }

  get inputMode(): InputMode {
    return this.#input.mode
  }

  #watch(socket: Socket): void {
    socket.on('error', () => this.destroy())
    socket.on('close', () => this.destroy())
    // A client that closes without DISC has gone: what it asked for is not worth another read of the device.
    socket.on('end', () => (this.#finishing ? undefined : this.destroy()))
  }

  // InputHandler

  target(): Uint8Array {
    return this.#transmission?.payloadTarget() ?? this.#landing
  }

  received(buffer: Uint8Array, length: number): boolean {
    this.#moves++
    if (this.#ended.signal.aborted || this.#deaf) return true
    try {
      if (buffer !== this.#landing) this.#transmission?.payloadReceived(length)
      else this.#end = HEADROOM + length
      this.#pump()
    } catch (error) {
      // Whatever went wrong here is ours, and ends this connection only.
      this.#drop(`internal error: ${messageOf(error)}`)
    }
    return !this.#stopped
  }

  // Lifetime

  /** Called now and then: drops whoever haggles too long, or does not take what it asked for. */
  sweep(nowMs: number): void {
    const { limits: bounds, bytes } = this.#share
    if (!this.inTransmission) {
      if (nowMs - this.#openedMs >= bounds.handshakeMs) this.#drop('handshake deadline')
      return
    }
    // While the device works and nothing waits to be taken, the client is not to blame.
    const working = (this.#transmission?.running ?? 0) > 0 && this.#writer.pending === 0
    if (this.#moves !== this.#movesSeen || working) {
      this.#movesSeen = this.#moves
      this.#movedMs = nowMs
      return
    }
    const still = nowMs - this.#movedMs
    if (this.#bytes.used > 0) {
      if (still >= (bytes.wanted ? bounds.stalledWantedMs : bounds.stalledMs)) this.#drop('stalled')
    } else if (still >= bounds.idleMs) this.#drop('idle')
  }

  /** Answers what is in flight and closes. What comes meanwhile is told why, unless the client itself said that it goes. */
  finish(): void {
    if (this.#finishing) return
    this.#finishing = this.inTransmission
    if (this.#transmission !== undefined) this.#transmission.shuttingDown = !this.#transmission.disconnected
    if (this.#finishing) this.#maybeEnd()
    else this.destroy()
  }

  /** To one that comes now, where no more can be haggled with. */
  giveWay(): void {
    this.#drop('too many are choosing an export')
  }

  destroy(): void {
    if (this.#ended.signal.aborted) return
    this.#ended.abort(new LifeboatError('interrupted', 'the client has gone'))
    this.#transmission?.abandon()
    this.#share.handshakeBytes.used -= this.#optionPayload?.bytes.length ?? 0
    this.#optionPayload = undefined
    this.#bytes.forget(this.#wake)
    this.#input.socket.destroy()
    this.#share.closed(this)
  }

  #drop(reason: string): void {
    if (this.#ended.signal.aborted) return
    this.#share.log(`connection dropped: ${reason}`)
    this.destroy()
  }

  #maybeEnd(): void {
    if (this.#transmission !== undefined && this.#transmission.running > 0) return
    this.#writer.flush()
    if (this.#writer.pending > 0) return
    this.#input.socket.end(() => this.destroy())
  }

  // Input

  /** Goes as far as the input reaches, and leaves the start of what was cut off just before the landing place. */
  #pump(): void {
    while (this.#transmission === undefined && this.#haggle()) {}
    if (this.#ended.signal.aborted) return
    if (this.#handshake.phase === 'tls') {
      // Nothing more is read until the acknowledgement has left: the next byte belongs to the encryption. Bytes that came with the
      // option were sent in the clear, by whoever sits between the client and here.
      this.#stopped = true
      if (this.#end > this.#start) this.#drop('plain bytes behind STARTTLS')
      return
    }
    if (this.#transmission !== undefined) {
      this.#start = this.#transmission.consume(this.#buffer, this.#start, this.#end)
      if (this.#ended.signal.aborted) return
      this.#stopped = this.#transmission.blocked
      if (this.#transmission.disconnected) this.finish()
      else if (this.#stopped) this.#bytes.wait(this.#wake)
      if (this.#deaf || this.#stopped) return
    }
    const rest = this.#end - this.#start
    this.#buffer.copyWithin(HEADROOM - rest, this.#start, this.#end)
    this.#start = HEADROOM - rest
    this.#end = HEADROOM
  }

  #written(): void {
    this.#moves++
    if (this.#finishing) this.#maybeEnd()
    else if (this.#handshake.phase === 'tls' && this.#writer.pending === 0) this.#startTls()
  }

  #progressed(): void {
    if (this.#ended.signal.aborted) return
    if (this.#finishing) this.#maybeEnd()
    if (this.#deaf || !this.#stopped) return
    this.#pump()
    if (!this.#stopped && !this.#ended.signal.aborted) this.#input.resume()
  }

  // Handshake

  #send(replies: readonly Uint8Array[]): void {
    for (const reply of replies) this.#writer.reserve(reply.length).set(reply, this.#writer.position(reply.length))
    this.#writer.flush()
  }

  /** One step of the table; false when it needs more bytes than are there. */
  #haggle(): boolean {
    const { phase } = this.#handshake
    if (this.#ended.signal.aborted || phase === 'closed' || phase === 'tls') return false
    // Replies to a client that does not read them must not pile up: no haggling needs more than this.
    if (this.#writer.pending > limits.nbdOutputBytes) {
      this.#drop('handshake replies not read')
      return false
    }
    const need = handshakeNeeds(this.#handshake)
    const available = this.#end - this.#start
    if (this.#handshake.phase === 'option-skip') {
      const length = Math.min(need, available)
      this.#start += length
      if (length > 0) this.#apply(skipHandshake(this.#handshake, length, this.#catalog))
      return length > 0
    }
    const bytes = this.#handshake.phase === 'option-payload' ? this.#collect(need) : this.#take(need)
    if (bytes === undefined) return false
    this.#apply(advanceHandshake(this.#handshake, bytes, this.#catalog))
    return true
  }

  #take(need: number): Uint8Array | undefined {
    if (this.#end - this.#start < need) return undefined
    this.#start += need
    return this.#buffer.subarray(this.#start - need, this.#start)
  }

  /** Gathers an option's payload, whose length the table has bounded. Big ones count against what all may hold. */
  #collect(need: number): Uint8Array | undefined {
    const { handshakeBytes } = this.#share
    if (this.#optionPayload === undefined) {
      const whole = this.#take(need)
      if (whole !== undefined) return whole
      if (handshakeBytes.used + need > handshakeBytes.max) {
        this.#drop('too much option data')
        return undefined
      }
      handshakeBytes.used += need
      this.#optionPayload = { bytes: Buffer.allocUnsafe(need), filled: 0 }
    }
    const payload = this.#optionPayload
    const length = Math.min(this.#end - this.#start, need - payload.filled)
    payload.bytes.set(this.#buffer.subarray(this.#start, this.#start + length), payload.filled)
    payload.filled += length
    this.#start += length
    if (payload.filled < need) return undefined
    this.#optionPayload = undefined
    handshakeBytes.used -= need
    return payload.bytes
  }

  #apply(step: HandshakeStep): void {
    this.#handshake = step.state
    this.#send(step.replies)
    if (step.note !== undefined) this.#share.log(`${step.note.what} ${escapeText(step.note.text)}`)
    if (step.state.phase === 'closed') this.#close(step.state.reason)
    else if (step.state.phase === 'transmission' && step.state.export !== undefined) this.#enter(step.state)
  }

  /** A client that goes in the middle of the handshake is noticed by the input, which has nothing to give before it has ended. */
  #startTls(): void {
    const { tls } = this.#share
    if (tls === undefined || this.#input.socket instanceof TLSSocket || this.#ended.signal.aborted) return
    const socket = acceptTls(this.#input.socket, tls, {
      secured: names => this.#secured(names),
      failed: reason => this.#drop(reason),
    })
    this.#watch(socket)
    this.#input = new SocketInput(socket, this, 'data')
    this.#writer = new ReplyWriter(new PacedSocket(socket), this.#share.pool, this.#bytes, () => this.#written())
    this.#input.start()
  }

  /** Everything that was said before is forgotten, but for the client's flags and how many options it has used up. */
  #secured(names: readonly string[]): void {
    this.#catalog = this.#share.catalogFor(names)
    this.#handshake = handshakeInsideTls(this.#handshake)
    this.#start = this.#end = HEADROOM
    this.#stopped = false
  }

  #close(reason: string | undefined): void {
    if (reason !== 'abort') {
      this.#drop(reason ?? 'closed')
      return
    }
    this.#finishing = true
    this.#input.socket.end(() => this.destroy())
  }

  #enter(state: HandshakeState): void {
    if (state.export === undefined) return
    const rest = this.#buffer.subarray(this.#start, this.#end)
    this.#buffer = Buffer.allocUnsafeSlow(HEADROOM + limits.nbdInputBytes)
    this.#buffer.set(rest, HEADROOM)
    this.#landing = this.#buffer.subarray(HEADROOM)
    this.#start = HEADROOM
    this.#end = HEADROOM + rest.length
    this.#transmission = new Transmission(state, state.export, {
      writer: this.#writer,
      bytes: this.#bytes,
      signal: this.#ended.signal,
      requestsInFlight: this.#share.limits.requestsInFlight,
      log: this.#share.log,
      broken: reason => this.#drop(reason),
      progressed: this.#wake,
    })
    const contexts = state.contexts.map(({ name }) => name)
    this.#share.entered(this, { exportName: state.export.name, headers: state.mode, contexts })
  }
}
