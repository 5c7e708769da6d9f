/** Asks the owner of a live session, over its control socket. */
import type { Clock } from '../core/clock.ts'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { connectLines, type LineSocket, type LineSocketHandlers } from '../hypervisor/qemu/line-socket.ts'
import { type ControlReply, encodeRequest, errorOf, type Fields, parseReply } from './control-protocol.ts'

export interface AskSession extends AbortOptions {
  readonly socket: string
  readonly command: string
  readonly request?: Fields
  readonly progress?: (progress: Fields) => void
  /** An owner that lives may be about to listen: it is tried for so long. */
  readonly connectMs?: number
  /** The whole answer; without it a command may take hours. */
  readonly timeoutMs?: number
  readonly clock: Clock
}

/** Resolves to the result. Throws the owner's error, 'session-busy' where nobody answers, and the signal's reason: the owner then gives up as well. */
export async function askSession(ask: AskSession): Promise<Fields> {
  const { socket, command, request = {}, progress = () => {}, clock, signal, timeoutMs } = ask
  const answer = Promise.withResolvers<Fields>()
  const done = new AbortController()
  const onLine = (line: Buffer): void => {
    try {
      const reply: ControlReply = parseReply(line)
      if ('progress' in reply) progress(reply.progress)
      else if ('result' in reply) answer.resolve(reply.result)
      else answer.reject(errorOf(reply.error))
    } catch (error) {
      answer.reject(error)
    }
  }
  const handlers = { line: onLine, closed: (error: Error | undefined) => answer.reject(noAnswer(socket, error)) }
  const lines = await connect(ask, handlers)
  const onAbort = () => answer.reject(signal?.reason)
  signal?.addEventListener('abort', onAbort, { once: true })
  const late =
    timeoutMs === undefined
      ? undefined
      : clock.sleep(timeoutMs, { signal: done.signal }).then(
          () => answer.reject(noAnswer(socket)),
          () => {},
        )
  try {
    lines.send(encodeRequest({ command, request }))
    return await answer.promise
  } finally {
    signal?.removeEventListener('abort', onAbort)
    done.abort()
    await late
    lines.close()
  }
}

async function connect(
  { socket, connectMs = 0, clock, signal }: AskSession,
  handlers: LineSocketHandlers,
): Promise<LineSocket> {
  const until = clock.monotonicMs() + connectMs
  for (;;)
    try {
      return await connectLines(socket, limits.sessionReplyMax, handlers, { signal })
    } catch (error) {
      signal?.throwIfAborted()
      if (clock.monotonicMs() >= until) throw noAnswer(socket, error)
      await clock.sleep(CONNECT_AGAIN_MS, { signal })
    }
}

const CONNECT_AGAIN_MS = 50

const noAnswer = (socket: string, cause?: unknown): LifeboatError =>
  new LifeboatError(
    'session-busy',
    `the session's server does not answer${cause === undefined ? '' : `: ${messageOf(cause)}`}`,
    {
      details: { object: socket },
      hint: 'It is just starting or ending: try again. If it hangs, kill -9 it (the guest goes on) and `lifeboat session resume` the session.',
      cause,
    },
  )
