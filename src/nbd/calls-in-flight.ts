/** The requests of one connection that were sent and are not answered yet, found by the cookie that their replies bring. */
import { isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'
import type { MetaContext } from './handshake.ts'
import { ReplyAssembly } from './reply-assembly.ts'
import type { RequestHeader } from './wire.ts'

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

/** Tells our cookies from what a confused server makes up. */
const COOKIE_HI = 0x6c626f74

export class CallsInFlight {
  readonly #byCookie = new Map<number, CallInFlight>()
  #cookie = 0

  get count(): number {
    return this.#byCookie.size
  }

  /** When the oldest request was sent, or undefined. */
  get oldestMs(): number | undefined {
    for (const { startedMs } of this.#byCookie.values()) return startedMs
    return undefined
  }

  begin(call: Call, contexts: readonly MetaContext[], nowMs: number, signal?: AbortSignal): CallInFlight {
    const request = requestOf(call, this.#cookie++ >>> 0)
    const begun = new CallInFlight(call, new ReplyAssembly(request, call.target, contexts), nowMs, signal)
    this.#byCookie.set(request.cookieLo, begun)
    return begun
  }

  find(cookieHi: number, cookieLo: number): CallInFlight | undefined {
    return cookieHi === COOKIE_HI ? this.#byCookie.get(cookieLo) : undefined
  }

  /** Its reply is complete. */
  finish(call: CallInFlight): void {
    const error = call.assembly.finish()
    this.#byCookie.delete(call.assembly.request.cookieLo)
    call.settle(error)
  }

  failAll(error: LifeboatError): void {
    const calls = [...this.#byCookie.values()]
    this.#byCookie.clear()
    for (const call of calls) call.settle(error)
  }
}

/**
 * An abort settles it as soon as none of the caller's memory is in use any longer: the reply's data may be landing in `target` at
 * that moment, and `source` may still be on its way to the kernel.
 */
export class CallInFlight {
  readonly assembly: ReplyAssembly
  readonly startedMs: number
  readonly answer: Promise<ReplyAssembly>
  readonly #settled = Promise.withResolvers<ReplyAssembly>()
  readonly #signal: AbortSignal | undefined
  #isSending: boolean
  #isLanding = false
  #abort: LifeboatError | undefined
  #isAbandoned = false

  constructor({ source }: Call, assembly: ReplyAssembly, nowMs: number, signal: AbortSignal | undefined) {
    this.assembly = assembly
    this.startedMs = nowMs
    this.answer = this.#settled.promise
    this.#isSending = source !== undefined
    this.#signal = signal
    signal?.addEventListener('abort', this.#onAbort, { once: true })
  }

  /** The caller has gone: what still comes is passed over. */
  get isAbandoned(): boolean {
    return this.#isAbandoned
  }

  /** The kernel has all of `source`. */
  sent(): void {
    this.#isSending = false
    this.#abandonIfFree()
  }

  /** A part of the reply is being read. */
  landing(): void {
    this.#isLanding = true
  }

  landed(): void {
    this.#isLanding = false
    this.#abandonIfFree()
  }

  settle(error: unknown): void {
    this.#signal?.removeEventListener('abort', this.#onAbort)
    const failed = error ?? this.#abort
    if (failed === undefined) this.#settled.resolve(this.assembly)
    else this.#settled.reject(failed)
  }

  readonly #onAbort = (): void => {
    this.#abort = asError(this.#signal?.reason)
    this.#abandonIfFree()
  }

  #abandonIfFree(): void {
    if (this.#abort === undefined || this.#isSending || this.#isLanding) return
    this.#isAbandoned = true
    this.#settled.reject(this.#abort)
  }
}

export function requestOf({ type, flags, offset, length }: Call, cookie: number): RequestHeader {
  const offsetHi = Math.floor(offset / 2 ** 32)
  return { type, flags, cookieHi: COOKIE_HI, cookieLo: cookie, offset, offsetHi, offsetLo: offset % 2 ** 32, length }
}

export const asError = (error: unknown): LifeboatError =>
  isLifeboatError(error) ? error : new LifeboatError('interrupted', messageOf(error), { cause: error })
