/** One connection to who parses a guest's filesystems: many requests under way, each with a deadline; the first thing that is wrong ends it. */
import type { Duplex } from 'node:stream'
import type { Clock } from '../core/clock.ts'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { Slots } from '../core/slots.ts'
import { FrameInput, type ReplyHead } from './frame-input.ts'
import { filesystemError, lostError, protocolError } from './guest-errors.ts'
import { type Operation, operations, type RequestBody } from './wire.ts'

export interface CallOptions extends AbortOptions {
  /** Default `limits.guestRequestMs`. */
  readonly ms?: number
  /** READ: where the bytes go. The caller's again when the call settles. */
  readonly target?: Uint8Array
}

/** `errno` 0: the body, of a READ with a target as much of that as was filled; else the text of the failure. */
export interface Reply {
  readonly errno: number
  readonly body: Buffer
}

interface Call {
  readonly operation: Operation
  readonly untilMs: number
  target: Uint8Array | undefined
  /** Absent when the caller has gone: the reply is waited for all the same, and passed over. */
  settle: { readonly resolve: (reply: Reply) => void; readonly reject: (error: unknown) => void } | undefined
  body?: Uint8Array
}

export class GuestConnection {
  readonly #stream: Duplex
  readonly #clock: Clock
  readonly #requestMs: number
  readonly #slots = new Slots(limits.guestRequestsInFlight)
  readonly #calls = new Map<number, Call>()
  readonly #input: FrameInput
  readonly #closing = new AbortController()
  readonly #watching: Promise<void>
  readonly #ended = Promise.withResolvers<LifeboatError>()
  #failure: LifeboatError | undefined
  #nextTag = 0
  #corked = false

  /** The stream is the connection's from now on. */
  constructor(stream: Duplex, clock: Clock, requestMs: number = limits.guestRequestMs) {
    this.#stream = stream
    this.#clock = clock
    this.#requestMs = requestMs
    this.#input = new FrameInput({ begin: head => this.#begin(head), end: head => this.#end(head) })
    stream.on('data', (bytes: Uint8Array) => this.#received(bytes))
    stream.on('error', cause => this.fail(lostError(`cannot be reached: ${messageOf(cause)}`, cause)))
    stream.on('end', () => this.fail(lostError('hung up')))
    stream.on('close', () => this.fail(lostError('hung up')))
    this.#watching = this.#watch()
  }

  get ended(): Promise<LifeboatError> {
    return this.#ended.promise
  }

  get failure(): LifeboatError | undefined {
    return this.#failure
  }

  /** Every call fails with `error` from now on, those under way as well. */
  fail(error: LifeboatError): void {
    if (this.#failure !== undefined) return
    this.#failure = error
    this.#ended.resolve(error)
    this.#closing.abort()
    this.#stream.destroy()
    for (const call of this.#calls.values()) {
      call.settle?.reject(error)
      this.#slots.give()
    }
    this.#calls.clear()
  }

  async close(): Promise<void> {
    this.fail(new LifeboatError('interrupted', "the guest's filesystems were closed"))
    await this.#watching
  }

  /**
   * The answer, parsed. Throws 'guest-filesystem' where the server refuses, naming `object`; what does not parse ends the connection.
   */
  async ask<T>(
    operation: Operation,
    body: RequestBody,
    parse: (body: Buffer) => T,
    options: CallOptions & { readonly object: string },
  ): Promise<T> {
    const reply = await this.call(operation, body, options)
    if (reply.errno !== 0) throw filesystemError(reply.errno, reply.body.toString('utf8'), options.object)
    try {
      return parse(reply.body)
    } catch (error) {
      this.fail(asProtocolError(error))
      throw this.#failure
    }
  }

  async call(operation: Operation, body: RequestBody, options: CallOptions = {}): Promise<Reply> {
    const { signal, target, ms = this.#requestMs } = options
    signal?.throwIfAborted()
    await this.#slots.take(signal)
    if (this.#failure !== undefined) {
      this.#slots.give()
      throw this.#failure
    }
    const { promise, resolve, reject } = Promise.withResolvers<Reply>()
    const tag = this.#freeTag()
    const call: Call = {
      operation,
      untilMs: this.#clock.monotonicMs() + ms,
      target,
      settle: { resolve, reject },
    }
    this.#calls.set(tag, call)
    const onAbort = () => this.#abandon(call, signal?.reason)
    signal?.addEventListener('abort', onAbort, { once: true })
    try {
      this.#send(tag, operation, body)
      return await promise
    } finally {
      signal?.removeEventListener('abort', onAbort)
    }
  }

  /** The request stays under way, and its slot taken, until its reply has come: a server that is asked in vain is not asked more. */
  #abandon(call: Call, reason: unknown): void {
    call.settle?.reject(reason)
    call.settle = undefined
    call.target = undefined
    if (call.body !== undefined) this.#input.passOver(call.body)
  }

  #freeTag(): number {
    do this.#nextTag = (this.#nextTag + 1) >>> 0
    while (this.#calls.has(this.#nextTag))
    return this.#nextTag
  }

  #send(tag: number, operation: Operation, { pieces }: RequestBody): void {
    let length = 5
    for (const piece of pieces) length += piece.length
    if (length > limits.guestRequestBytesMax) throw new RangeError(`a request of ${length} bytes`)
    const head = Buffer.allocUnsafe(9)
    head.writeUInt32LE(length, 0)
    head.writeUInt32LE(tag, 4)
    head.writeUInt8(operations[operation], 8)
    // Requests of one turn leave in one write.
    if (!this.#corked) {
      this.#corked = true
      this.#stream.cork()
      process.nextTick(() => {
        this.#corked = false
        this.#stream.uncork()
      })
    }
    this.#stream.write(Buffer.concat([head, ...pieces]))
  }

  #received(bytes: Uint8Array): void {
    if (this.#failure !== undefined) return
    try {
      this.#input.received(bytes)
    } catch (error) {
      this.fail(asProtocolError(error))
    }
  }

  #begin({ tag, errno, length }: ReplyHead): Uint8Array | undefined {
    const call = this.#calls.get(tag)
    if (call === undefined) throw protocolError('an answer to what nobody asked')
    if (errno !== 0 && length > limits.guestFailureTextMax) throw protocolError(`a message of ${length} bytes`)
    const place = call.operation === 'read' && errno === 0 ? call.target : undefined
    if (place !== undefined && length > place.length) throw protocolError('more bytes than were asked for')
    if (call.settle === undefined) return undefined
    call.body = place?.subarray(0, length) ?? Buffer.allocUnsafeSlow(length)
    return call.body
  }

  #end({ tag, errno }: ReplyHead): void {
    const call = this.#calls.get(tag)
    this.#calls.delete(tag)
    this.#slots.give()
    const body = call?.body ?? new Uint8Array()
    call?.settle?.resolve({ errno, body: Buffer.from(body.buffer, body.byteOffset, body.length) })
  }

  async #watch(): Promise<void> {
    const { signal } = this.#closing
    const everyMs = Math.max(10, Math.min(1000, this.#requestMs / 4))
    while (!signal.aborted) {
      try {
        await this.#clock.sleep(everyMs, { signal })
      } catch {
        return
      }
      const nowMs = this.#clock.monotonicMs()
      for (const { untilMs, operation } of this.#calls.values())
        if (nowMs > untilMs) return this.fail(lostError(`did not answer in time (${operation})`))
    }
  }
}

const asProtocolError = (error: unknown): LifeboatError =>
  error instanceof LifeboatError ? error : protocolError(messageOf(error))
