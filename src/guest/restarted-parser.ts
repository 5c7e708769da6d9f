/**
 * Who parses a guest's filesystems, for as long as its owner keeps it: started when it is needed, and anew where it died of what
 * it read, for some times. The call in which it died fails, and says how it ended.
 */
import { abortable } from '../core/abortable.ts'
import type { Clock } from '../core/clock.ts'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { RemoteGuests } from './remote-tree.ts'

export interface Parser extends AsyncDisposable {
  /** How it ended, in words for people. Never rejects. */
  readonly ended: Promise<string>
}

export interface ParserKind<P extends Parser> {
  readonly startsMax: number
  readonly clock: Clock
  /** `signal` falls when the owner goes. */
  start(signal: AbortSignal): Promise<P>
  /** Throws 'guest-lost' where it does not answer. */
  connect(parser: P, signal: AbortSignal): Promise<RemoteGuests>
  died(how: string, cause: unknown): LifeboatError
  diedTooOften(starts: number): LifeboatError
}

interface Running {
  readonly parser: Parser
  readonly guests: RemoteGuests
}

export class RestartedParser<P extends Parser> implements AsyncDisposable {
  readonly #kind: ParserKind<P>
  readonly #closing = new AbortController()
  #running: Promise<Running> | undefined
  #starts = 0

  constructor(kind: ParserKind<P>) {
    this.#kind = kind
  }

  async start(options: AbortOptions): Promise<void> {
    await this.#alive(options)
  }

  async use<T>(options: AbortOptions, work: (guests: RemoteGuests) => Promise<T>): Promise<T> {
    const running = await this.#alive(options)
    try {
      return await work(running.guests)
    } catch (error) {
      if (!isLifeboatError(error, 'guest-lost') || this.#closing.signal.aborted) throw error
      await lastWords(running.parser, this.#kind.clock)
      await end(running)
      throw this.#kind.died(await running.parser.ended, error)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new LifeboatError('interrupted', "the guest's filesystems were closed"))
    const running = await this.#running?.catch(() => undefined)
    if (running) await end(running)
  }

  async #alive(options: AbortOptions): Promise<Running> {
    for (;;) {
      this.#closing.signal.throwIfAborted()
      this.#running ??= this.#start()
      const starting = this.#running
      const running = await abortable(starting, options)
      if (running.guests.isAlive) return running
      // Of those who find it dead the first one lets the next start.
      await end(running)
      if (this.#running === starting) this.#running = undefined
    }
  }

  /** Owned by all who wait for it: one who leaves does not stop it. */
  #start(): Promise<Running> {
    const starting = this.#startNow()
    starting.catch(() => {
      if (this.#running === starting) this.#running = undefined
    })
    return starting
  }

  async #startNow(): Promise<Running> {
    const kind = this.#kind
    if (this.#starts >= kind.startsMax) throw kind.diedTooOften(this.#starts)
    this.#starts++
    const { signal } = this.#closing
    const parser = await kind.start(signal)
    try {
      return { parser, guests: await kind.connect(parser, signal) }
    } catch (error) {
      await parser[Symbol.asyncDispose]()
      throw isLifeboatError(error, 'guest-lost') ? kind.died(await parser.ended, error) : error
    }
  }
}

async function end({ guests, parser }: Running): Promise<void> {
  await guests[Symbol.asyncDispose]()
  await parser[Symbol.asyncDispose]()
}

/** Its connection is gone. Killed at once it could not say what it died of. */
export async function lastWords({ ended }: Parser, clock: Clock): Promise<void> {
  const enough = new AbortController()
  const late = clock.sleep(limits.guestLastWordsMs, { signal: enough.signal }).catch(() => {})
  await Promise.race([ended, late])
  enough.abort()
}
