/** The one place where errors become exit codes: 0 done; 1 failed; 2 usage or configuration; 3 partly done; 4 integrity. */
import { type ErrorCode, isIntegrityError, isLifeboatError } from '../core/errors.ts'

export const exitCode = { done: 0, failed: 1, usage: 2, partly: 3, integrity: 4, interrupted: 130 } as const

/** What the person at the keyboard can put right by calling again with other words. */
const USAGE: ReadonlySet<ErrorCode> = new Set([
  'usage',
  'not-a-repository',
  'repository-exists',
  'newer-format',
  'key-missing',
  'key-wrong',
  'output-exists',
  'no-such-vm',
  'no-such-point',
  'no-such-disk',
  'no-such-session',
  'no-such-file',
  'no-such-volume',
  'wrong-guest-key',
  'guest-locked',
  'session-exists',
  'session-busy',
  'session-newer',
  'ambiguous',
  'qmp-unreachable',
  'tool-missing',
  'mount-point',
  'fuse-unavailable',
  'store-bucket-missing',
  'store-unsuitable',
  'tls-credentials',
  'last-key',
  'key-unavailable',
])

export function exitCodeOf(error: unknown): number {
  if (isIntegrityError(error)) return exitCode.integrity
  if (!isLifeboatError(error)) return exitCode.failed
  if (error.code === 'interrupted') return exitCode.interrupted
  return USAGE.has(error.code) ? exitCode.usage : exitCode.failed
}
