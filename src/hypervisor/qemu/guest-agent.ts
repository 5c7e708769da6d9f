/**
 * The guest agent's channel, as far as a consistent instant needs it.
 *
 * The channel is a serial line: it keeps no connections, so an answer to a question of an earlier client may still be in it.
 * Each dialogue therefore starts with guest-sync-delimited: the agent answers with 0xFF and our number, and everything
 * before that is thrown away. After any time-out the connection is given up and a new one synchronised.
 */
import type { Clock } from '../../core/clock.ts'
import { LifeboatError, messageOf } from '../../core/errors.ts'
import { limits } from '../../core/limits.ts'
import type { Random } from '../../core/random.ts'
import type { AbortOptions } from '../../core/scope.ts'
import { withDeadline } from './deadline.ts'
import { type JsonObject, optionalObject, optionalText, parseJsonObject } from './json.ts'
import { connectLines, type LineSocket } from './line-socket.ts'

export interface GuestAgent {
  /** Number of filesystems frozen. Throws 'guest-agent-failed'; the guest may be frozen nevertheless. */
  freeze(options?: AbortOptions & { timeoutMs?: number }): Promise<number>
  /** Tries again on new connections; throws 'guest-agent-failed' only when the guest may still be frozen. */
  thaw(): Promise<void>
  status(options?: AbortOptions): Promise<'thawed' | 'frozen'>
  /** Windows freezes through VSS, which asks the applications too. */
  isWindows(options?: AbortOptions): Promise<boolean>
}

export interface GuestAgentOptions {
  readonly socket: string
  readonly clock: Clock
  readonly random: Random
  readonly thawPauseMs?: number
  readonly syncTimeoutMs?: number
}

export function guestAgent(agent: GuestAgentOptions): GuestAgent {
  const ask = async (command: string, options: AbortOptions & { timeoutMs?: number } = {}): Promise<unknown> => {
    const dialogue = await openDialogue(agent, options)
    try {
      return await dialogue.ask({ execute: command }, options.timeoutMs ?? limits.guestAgentSyncMs, options)
    } finally {
      dialogue.close()
    }
  }
  const status = async (options?: AbortOptions) => {
    const answer = await ask('guest-fsfreeze-status', options)
    if (answer === 'frozen' || answer === 'thawed') return answer
    throw failed(`the guest agent does not know whether it is frozen (${JSON.stringify(answer)})`)
  }

  return {
    status,
    async freeze(options = {}) {
      const count = await ask('guest-fsfreeze-freeze', { timeoutMs: limits.guestAgentFreezeMs, ...options })
      return typeof count === 'number' ? count : 0
    },
    async thaw() {
      let failure: unknown
      for (let attempt = 0; attempt < limits.guestAgentThawTries; attempt++) {
        if (attempt > 0) await agent.clock.sleep((agent.thawPauseMs ?? 500) * 2 ** (attempt - 1))
        try {
          await ask('guest-fsfreeze-thaw')
          if ((await status()) === 'thawed') return
        } catch (error) {
          failure = error
        }
      }
      throw stillFrozen(failure)
    },
    async isWindows(options) {
      const info = await ask('guest-get-osinfo', options)
      return typeof info === 'object' && info !== null && 'id' in info && info.id === 'mswindows'
    },
  }
}

interface Dialogue {
  ask(request: JsonObject, timeoutMs: number, options: AbortOptions): Promise<unknown>
  close(): void
}

async function openDialogue(agent: GuestAgentOptions, options: AbortOptions): Promise<Dialogue> {
  const lines: Buffer[] = []
  let closed: Error | undefined
  let wake = Promise.withResolvers<void>()
  const notify = () => {
    wake.resolve()
    wake = Promise.withResolvers()
  }
  const onLine = (line: Buffer) => {
    // A question answers with one line; a flood is not an agent.
    if (lines.length < 1024) lines.push(line)
    notify()
  }
  const onClosed = (error: Error | undefined) => {
    closed = error ?? new Error('closed')
    notify()
  }

  const connected: LineSocket = await connectLines(
    agent.socket,
    limits.guestAgentLineMax,
    { line: onLine, closed: onClosed },
    options,
  ).catch(error => {
    options.signal?.throwIfAborted()
    throw failed(`the guest agent's socket ${agent.socket} cannot be used: ${messageOf(error)}`, error)
  })

  const nextLine = async (signal: AbortSignal): Promise<Buffer> => {
    for (;;) {
      const line = lines.shift()
      if (line) return line
      if (closed) throw failed("the guest agent's channel closed", closed)
      await awaitOrAbort(wake.promise, signal)
    }
  }
  const dialogue: Dialogue = {
    close: connected.close,
    async ask(request, timeoutMs, asked) {
      connected.send(`${JSON.stringify(request)}\n`)
      const late = () => failed(`the guest agent did not answer ${String(request.execute)} within ${timeoutMs} ms`)
      const answer = await withDeadline(
        agent.clock,
        timeoutMs,
        late,
        async signal => parseJsonObject(await nextLine(signal)),
        asked,
      )
      const error = optionalObject(answer, 'error')
      if (error)
        throw failed(`the guest agent refused ${String(request.execute)}: ${optionalText(error, 'desc') ?? '?'}`)
      if (!answer) throw failed(`the guest agent answered ${String(request.execute)} with something else than JSON`)
      return answer.return
    },
  }
  try {
    await synchronise(agent, connected, nextLine, options)
    return dialogue
  } catch (error) {
    connected.close()
    throw error
  }
}

async function synchronise(
  { clock, random, syncTimeoutMs = limits.guestAgentSyncMs }: GuestAgentOptions,
  socket: LineSocket,
  nextLine: (signal: AbortSignal) => Promise<Buffer>,
  options: AbortOptions,
): Promise<void> {
  const bytes = random(4)
  const id = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0) >>> 1
  // 0xFF makes the agent's parser drop half a command that an earlier client left behind.
  socket.send(Uint8Array.of(0xff))
  socket.send(`${JSON.stringify({ execute: 'guest-sync-delimited', arguments: { id } })}\n`)
  const late = () => failed('no guest agent answers: is qemu-guest-agent installed and running in the guest?')
  const isOurs = (line: Buffer) => parseJsonObject(line.subarray(line.lastIndexOf(0xff) + 1))?.return === id
  await withDeadline(
    clock,
    syncTimeoutMs,
    late,
    async signal => {
      while (!isOurs(await nextLine(signal)));
    },
    options,
  )
}

function awaitOrAbort(promise: Promise<void>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason)
    if (signal.aborted) return onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(() => {
      signal.removeEventListener('abort', onAbort)
      resolve()
    }, reject)
  })
}

const failed = (message: string, cause?: unknown) =>
  new LifeboatError('guest-agent-failed', message, {
    hint: 'Leave out --guest-agent for a crash-consistent point, or start qemu-guest-agent in the guest.',
    cause,
  })

const stillFrozen = (cause: unknown) =>
  new LifeboatError('guest-agent-failed', `THE GUEST MAY STILL BE FROZEN: thawing it failed: ${messageOf(cause)}`, {
    details: { frozen: true },
    hint: 'Thaw it now: send {"execute":"guest-fsfreeze-thaw"} to the guest agent, or reset the machine.',
    cause,
  })
