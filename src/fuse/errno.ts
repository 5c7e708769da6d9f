/** A failure as the errno that a program gets from the mount. Nothing of this host or the store crosses but the number. */
import { constants } from 'node:os'
import { type ErrorCode, LifeboatError } from '../core/errors.ts'

export const E = constants.errno

const BY_CODE: Partial<Record<ErrorCode, number>> = {
  'no-such-vm': E.ENOENT,
  'no-such-point': E.ENOENT,
  'no-such-disk': E.ENOENT,
  'no-such-file': E.ENOENT,
  'no-such-volume': E.ENOENT,
  'point-forgotten': E.ESTALE,
  'store-denied': E.EACCES,
  'key-missing': E.EACCES,
  'too-many-open': E.EMFILE,
  interrupted: E.EINTR,
}

/** Those that a program reading files knows to be told; what else a system call said is EIO. */
const PASSED: ReadonlySet<string> = new Set([
  ...['ENOENT', 'EACCES', 'EPERM', 'ENOTDIR', 'EISDIR', 'ELOOP', 'ENAMETOOLONG', 'ENOMEM', 'EMFILE', 'ENFILE'],
  ...['EOPNOTSUPP', 'EOVERFLOW', 'ESTALE', 'EINTR'],
])

/** An answer that the protocol has for what was asked: nothing is wrong here. */
export class Refusal extends Error {
  readonly errno: number

  constructor(errno: number) {
    super(`refused with errno ${errno}`)
    this.errno = errno
  }
}

/** What is not known is EIO: the answer cannot be had. A store that stays away is EIO too, after what its decorators wait for. */
export function errnoOf(error: unknown): number {
  if (error instanceof Refusal) return error.errno
  if (error instanceof LifeboatError) return BY_CODE[error.code] ?? E.EIO
  if (error instanceof RangeError) return E.EINVAL
  if (!(error instanceof Error)) return E.EIO
  if (error.name === 'AbortError') return E.EINTR
  const code = 'code' in error && typeof error.code === 'string' ? error.code : ''
  return PASSED.has(code) ? (new Map(Object.entries(E)).get(code) ?? E.EIO) : E.EIO
}
