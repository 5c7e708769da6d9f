/** What goes wrong between the client and who parses a guest's filesystems. */
import { constants } from 'node:os'
import { LifeboatError } from '../core/errors.ts'

/** Bytes that no honest server sends: the connection ends with it. */
export const protocolError = (what: string): LifeboatError =>
  new LifeboatError('guest-protocol', `who parses the guest's filesystems broke the protocol: ${what}`, {
    hint: "The guest's disk may be hostile: boot the point in a network of its own, and look there.",
  })

/** The server is gone, and with it all nodes; the next one may answer. */
export const lostError = (what: string, cause?: unknown): LifeboatError =>
  new LifeboatError('guest-lost', `who parses the guest's filesystems ${what}`, {
    retry: 'transient',
    hint: 'Try again: it is started anew. If that happens again, boot the point and copy from there.',
    cause,
  })

/** The filesystem's own word, in `details.errno` as Linux names it ('EIO'). */
export function filesystemError(errno: number, text: string, object: string): LifeboatError {
  const name = errnoName(errno)
  return new LifeboatError('guest-filesystem', `${object}: ${text === '' ? name : `${printable(text)} (${name})`}`, {
    details: { object, errno: name },
    hint: 'What else is on this volume can still be read; an older point may have it whole.',
  })
}

export const wrongKeyError = (volume: string, text: string): LifeboatError =>
  new LifeboatError('wrong-guest-key', `the key does not fit ${volume}${text === '' ? '' : `: ${printable(text)}`}`, {
    details: { object: volume },
    hint: 'Give its passphrase, without a line end that is not part of it, or its recovery key.',
  })

/** Terminals obey control characters, and these come from a guest's disk. */
export const printable = (text: string): string => text.trim().replaceAll(/[\p{Cc}\p{Cf}\u2028\u2029]+/gu, ' ')

const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.errno).map(([name, value]) => [value, name]),
)
export const errnoName = (errno: number): string => NAMES.get(errno) ?? `errno ${errno}`
