/**
 * QMP: QEMU's control protocol over a Unix socket.
 *
 * What it is: one connection, from the greeting on: commands matched to replies by id, events with waiters, deadlines.
 * What it guarantees: every call settles: with the reply, QEMU's error, the caller's abort, its deadline, or 'guest-gone'
 * when the socket closes. A command that was given up may still be carried out by QEMU: callers look at the state again.
 * What it does not know: what any command means.
 */
import type { Clock } from '../../core/clock.ts'
import { LifeboatError, messageOf } from '../../core/errors.ts'
import { limits } from '../../core/limits.ts'
import type { AbortOptions } from '../../core/scope.ts'
import { withDeadline } from './deadline.ts'
import { asObject, type JsonObject, optionalObject, optionalText, parseJsonObject } from './json.ts'
import { connectLines, type LineSocket } from './line-socket.ts'

export interface QmpEvent {
  readonly event: string
  readonly data: JsonObject
}

export interface QmpCallOptions extends AbortOptions {
  readonly timeoutMs?: number
}

/** Sees each command just before it is sent and just after its reply came. For logs of the dialogue. */
export type QmpTrace = (moment: 'before' | 'after', command: string, details: JsonObject) => void

export interface QmpClient extends AsyncDisposable {
  readonly version: { readonly major: number; readonly minor: number; readonly micro: number }
  /** The reply's `return`. QEMU's errors are 'qmp-failed' with `details.class` and `details.command`. */
  execute(command: string, args?: JsonObject, options?: QmpCallOptions): Promise<unknown>
  /** Runs `action`, then waits for the first matching event since before it: none can be missed in between. */
  until(
    matches: (event: QmpEvent) => boolean,
    action: () => Promise<unknown>,
    options?: QmpCallOptions,
  ): Promise<QmpEvent>
  /** Called for every event until the returned function is called. */
  onEvent(listener: (event: QmpEvent) => void): () => void
  /** Called once when the connection is gone and nobody asked for that. */
  onClosed(listener: (error: LifeboatError) => void): void
  readonly isClosed: boolean
}

export interface QmpOptions extends AbortOptions {
  readonly socket: string
  readonly clock: Clock
  readonly greetingTimeoutMs?: number
  readonly trace?: QmpTrace
}

export const isQmpError = (error: unknown, qmpClass?: string): error is LifeboatError =>
  error instanceof LifeboatError &&
  error.code === 'qmp-failed' &&
  typeof error.details.class === 'string' &&
  (qmpClass === undefined || error.details.class === qmpClass)

interface Pending {
  readonly command: string
  resolve(value: unknown): void
  reject(error: Error): void
}

/** Throws 'qmp-unreachable' where nothing listens, and where the greeting does not come because another client is served. */
export async function connectQmp(options: QmpOptions): Promise<QmpClient> {
  const connection = new QmpConnection(options)
  try {
    await connection.open(options)
    return connection
  } catch (error) {
    await connection[Symbol.asyncDispose]()
    throw error
  }
}

class QmpConnection implements QmpClient {
  version = { major: 0, minor: 0, micro: 0 }
  isClosed = false
  readonly #path: string
  readonly #clock: Clock
  readonly #trace: QmpTrace | undefined
  readonly #pending = new Map<number, Pending>()
  readonly #listeners = new Set<(event: QmpEvent) => void>()
  readonly #closedListeners: ((error: LifeboatError) => void)[] = []
  readonly #greeting = Promise.withResolvers<JsonObject>()
  #socket: LineSocket | undefined
  #nextId = 1
  #failure: LifeboatError | undefined

  constructor({ socket, clock, trace }: QmpOptions) {
    this.#path = socket
    this.#clock = clock
    this.#trace = trace
    this.#greeting.promise.catch(() => undefined)
  }

  async open({ signal, greetingTimeoutMs = limits.qmpGreetingMs }: QmpOptions): Promise<void> {
    this.#socket = await connectLines(
      this.#path,
      limits.qmpLineMax,
      { line: line => this.#onLine(line), closed: error => this.#onClosed(error) },
      { signal },
    ).catch(error => {
      signal?.throwIfAborted()
      throw unreachable(this.#path, error)
    })
    const greeting = await withDeadline(
      this.#clock,
      greetingTimeoutMs,
      () => heldByAnother(this.#path),
      within => settledBy(this.#greeting.promise, within),
      { signal },
    )
    this.version = parseVersion(greeting)
    await this.execute('qmp_capabilities', undefined, { signal })
  }

  async execute(command: string, args?: JsonObject, options: QmpCallOptions = {}): Promise<unknown> {
    options.signal?.throwIfAborted()
    if (this.#failure) throw this.#failure
    const id = this.#nextId++
    const reply = Promise.withResolvers<unknown>()
    this.#pending.set(id, { command, resolve: reply.resolve, reject: reply.reject })
    this.#trace?.('before', command, args ?? {})
    this.#socket?.send(
      `${JSON.stringify(args ? { execute: command, arguments: args, id } : { execute: command, id })}\n`,
    )
    try {
      const value = await withDeadline(
        this.#clock,
        options.timeoutMs ?? limits.qmpCommandMs,
        () => tooLate(command),
        within => settledBy(reply.promise, within),
        options,
      )
      this.#trace?.('after', command, args ?? {})
      return value
    } finally {
      this.#pending.delete(id)
    }
  }

  async until(
    matches: (event: QmpEvent) => boolean,
    action: () => Promise<unknown>,
    options: QmpCallOptions = {},
  ): Promise<QmpEvent> {
    const seen = Promise.withResolvers<QmpEvent>()
    seen.promise.catch(() => undefined)
    const stop = this.onEvent(event => matches(event) && seen.resolve(event))
    this.onClosed(seen.reject)
    try {
      await action()
      return await withDeadline(
        this.#clock,
        options.timeoutMs ?? limits.qmpCommandMs,
        () => tooLate('waiting for an event'),
        within => settledBy(seen.promise, within),
        options,
      )
    } finally {
      stop()
    }
  }

  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  onClosed(listener: (error: LifeboatError) => void): void {
    if (this.#failure) listener(this.#failure)
    else this.#closedListeners.push(listener)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closedListeners.length = 0
    this.#socket?.close()
    this.#fail(new LifeboatError('interrupted', 'the QMP connection was closed'))
  }

  #onLine(line: Buffer): void {
    const message = parseJsonObject(line)
    if (!message) {
      if (line.length > 0) this.#socket?.close()
      return
    }
    const greeting = optionalObject(message, 'QMP')
    const event = optionalText(message, 'event')
    if (greeting) this.#greeting.resolve(greeting)
    else if (event !== undefined) this.#onEvent({ event, data: optionalObject(message, 'data') ?? {} })
    else this.#onReply(message)
  }

  #onReply(message: JsonObject): void {
    const pending = typeof message.id === 'number' ? this.#pending.get(message.id) : undefined
    if (!pending) return
    const error = optionalObject(message, 'error')
    if (error) pending.reject(refused(pending.command, error))
    else pending.resolve(message.return)
  }

  #onEvent(event: QmpEvent): void {
    for (const listener of [...this.#listeners]) listener(event)
  }

  #onClosed(cause: Error | undefined): void {
    if (this.#failure) return
    this.#fail(
      new LifeboatError('guest-gone', `QEMU closed its QMP socket ${this.#path}${cause ? `: ${cause.message}` : ''}`, {
        hint: 'The virtual machine was powered off or its QEMU ended. Nothing of this backup counts; run it again once the machine runs.',
        cause,
      }),
    )
  }

  #fail(error: LifeboatError): void {
    this.#failure ??= error
    this.isClosed = true
    this.#greeting.reject(error)
    for (const pending of this.#pending.values()) pending.reject(error)
    for (const listener of this.#closedListeners.splice(0)) listener(error)
  }
}

/** `promise`, or the signal's reason as soon as it falls. */
function settledBy<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason)
    if (signal.aborted) onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}

function parseVersion(greeting: JsonObject): QmpClient['version'] {
  const qemu = asObject(asObject(greeting.version, 'a version').qemu, 'a version')
  const part = (name: string) => (typeof qemu[name] === 'number' ? qemu[name] : 0)
  return { major: part('major'), minor: part('minor'), micro: part('micro') }
}

const unreachable = (path: string, cause: unknown) =>
  new LifeboatError('qmp-unreachable', `no QEMU answers at ${path}: ${messageOf(cause)}`, {
    details: { object: path },
    hint: 'Start the machine with -qmp unix:PATH,server=on,wait=off and name that path; Lifeboat needs the right to connect to it.',
    cause,
  })

const heldByAnother = (path: string) =>
  new LifeboatError(
    'qmp-unreachable',
    `the QMP socket ${path} accepts, but QEMU does not greet: another QMP client holds it`,
    {
      details: { object: path, held: true },
      hint: 'A QMP socket serves one client at a time. Close the other one (libvirt, a shell), or give Lifeboat a socket of its own with a second -qmp option.',
    },
  )

const tooLate = (what: string) =>
  new LifeboatError('qmp-failed', `QEMU did not answer in time (${what})`, {
    details: { command: what },
    hint: "QEMU's main loop is stuck, often behind slow storage. Look at its host's disks and log.",
  })

const refused = (command: string, error: JsonObject) =>
  new LifeboatError('qmp-failed', `QEMU refused ${command}: ${optionalText(error, 'desc') ?? 'without a reason'}`, {
    details: {
      command,
      class: optionalText(error, 'class') ?? 'GenericError',
      description: optionalText(error, 'desc'),
    },
  })
