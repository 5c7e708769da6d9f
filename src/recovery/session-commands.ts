/**
 * What can be asked of a session, by name: the table that its owner serves on its control socket, and that a command carries
 * out itself where the session is stopped. A new command is a function and a line in a table.
 */
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { Fields } from './control-protocol.ts'
import type { LiveSession } from './live-session.ts'
import { refuseToEndMoved } from './session-refusals.ts'

export interface CommandOptions extends AbortOptions {
  /** The signal falls when the one who asked has gone, and when the session is told to stop. */
  readonly signal: AbortSignal
  readonly progress: (progress: Fields) => void
}

export interface SessionCommand {
  /** Changes the session: one such at a time, others are refused with 'session-busy'. */
  readonly isExclusive: boolean
  /** Resolves to the result as JSON. `request` is from another process of this user: to be read field by field. */
  readonly run: (session: LiveSession, request: Fields, options: CommandOptions) => Promise<Fields>
}

export type SessionCommands = Readonly<Record<string, SessionCommand>>

export const sessionCommands: SessionCommands = {
  show: { isExclusive: false, run: show },
  discard: {
    isExclusive: true,
    async run(session) {
      if (session.qemu) refuseToEndMoved(session.state())
      await session.end('discarded')
      return { discarded: session.name }
    },
  },
}

/** What the state file cannot know: the figures of this moment, and what the guest does. */
async function show(session: LiveSession, _request: Fields, { signal }: CommandOptions): Promise<Fields> {
  const status = await session.qmp?.execute('query-status', undefined, { signal, timeoutMs: SHOW_MS }).catch(() => {})
  const guest = typeof status === 'object' && status !== null && 'status' in status ? status.status : undefined
  return { state: session.state().state, guest, pausedFor: session.state().pausedFor, figures: session.figures() }
}

/** QEMU's main loop may wait for a disk: then the figures alone are told. */
const SHOW_MS = 1000

/** Runs commands on one session, exclusive ones one at a time. */
export class CommandRunner {
  readonly #session: LiveSession
  readonly #commands: SessionCommands
  #exclusive: string | undefined

  constructor(session: LiveSession, commands: SessionCommands) {
    this.#session = session
    this.#commands = commands
  }

  async run(name: string, request: Fields, options: CommandOptions): Promise<Fields> {
    const command = Object.hasOwn(this.#commands, name) ? this.#commands[name] : undefined
    if (!command)
      throw new LifeboatError('usage', `the session's server does not know '${name.slice(0, 40)}'`, {
        hint: 'It runs another version of Lifeboat: end its server (kill -9 leaves the guest running), then `lifeboat session resume`.',
      })
    if (!command.isExclusive) return await command.run(this.#session, request, options)
    if (this.#exclusive !== undefined)
      throw new LifeboatError('session-busy', `session ${this.#session.name} is at it already: ${this.#exclusive}`, {
        details: { session: this.#session.name },
        hint: 'Wait for its end, or interrupt it.',
      })
    this.#exclusive = name
    try {
      return await command.run(this.#session, request, options)
    } finally {
      this.#exclusive = undefined
    }
  }
}
