/** The words between a session's owner and the commands that act on it (docs/session-state.md). Pure: no I/O. */
import { type ErrorCode, isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'

export const CONTROL_VERSION = 1

export type Fields = Readonly<Record<string, unknown>>

/** One line from a command: what to do. */
export interface ControlRequest {
  readonly command: string
  readonly request: Fields
}

/** Lines to a command: any number of progress, then a result or an error, and the end of the connection. */
export type ControlReply = { readonly progress: Fields } | { readonly result: Fields } | { readonly error: Fields }

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

function parse(line: Uint8Array): Fields | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(line.buffer, line.byteOffset, line.length).toString('utf8'))
    return isFields(value) ? value : undefined
  } catch {
    return undefined
  }
}

export const encodeRequest = ({ command, request }: ControlRequest): string =>
  `${JSON.stringify({ version: CONTROL_VERSION, command, request })}\n`

/** Throws 'usage', or 'session-newer' for the words of a newer Lifeboat. */
export function parseRequest(line: Uint8Array): ControlRequest {
  const value = parse(line)
  if (typeof value?.version !== 'number' || typeof value.command !== 'string')
    throw new LifeboatError('usage', 'this is no request to a session', {
      hint: 'Use the command line: lifeboat session',
    })
  if (value.version > CONTROL_VERSION)
    throw new LifeboatError('session-newer', `the session's server is older than this command (${value.version})`, {
      hint: 'Resume the session with the newer Lifeboat: end its server (kill -9 leaves the guest running), then `lifeboat session resume`.',
    })
  return { command: value.command, request: isFields(value.request) ? value.request : {} }
}

export const encodeReply = (reply: ControlReply): string => `${JSON.stringify(reply)}\n`

export function errorReply(error: unknown): ControlReply {
  const known = isLifeboatError(error) ? error : undefined
  const { hint, object } = known?.details ?? {}
  return { error: { code: known?.code ?? 'internal', message: messageOf(error), hint, object } }
}

/** Throws where the line is none of ours. */
export function parseReply(line: Uint8Array): ControlReply {
  const { progress, result, error } = parse(line) ?? {}
  if (isFields(progress)) return { progress }
  if (isFields(result)) return { result }
  if (isFields(error)) return { error }
  throw new LifeboatError('tool-failed', "the session's server answered with something else than it should", {
    hint: 'Is it of another version? `lifeboat --version`',
  })
}

/** The owner's failure, as if it had happened here. */
export function errorOf({ code, message, hint, object }: Fields): LifeboatError {
  const text = (value: unknown) => (typeof value === 'string' ? value : undefined)
  // The code decides the exit code; one that this version does not know is a failure like any other.
  return new LifeboatError((text(code) ?? 'internal') as ErrorCode, text(message) ?? 'the session failed', {
    details: { ...(text(object) !== undefined && { object: text(object) }) },
    ...(text(hint) !== undefined && { hint: text(hint) }),
  })
}
