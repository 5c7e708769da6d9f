/** Errors cross the wire here, and only here: a LifeboatError or a system error becomes an NBD error value, and back. */
import { type ErrorCode, LifeboatError } from '../core/errors.ts'
import * as C from './constants.ts'

const BY_CODE: Partial<Record<ErrorCode, number>> = {
  'store-full': C.NBD_ENOSPC,
  'disk-full': C.NBD_ENOSPC,
  interrupted: C.NBD_ESHUTDOWN,
  usage: C.NBD_EINVAL,
}

const BY_SYSTEM_CODE: Readonly<Record<string, number>> = {
  EPERM: C.NBD_EPERM,
  EACCES: C.NBD_EPERM,
  EROFS: C.NBD_EPERM,
  ENOMEM: C.NBD_ENOMEM,
  EINVAL: C.NBD_EINVAL,
  ENOSPC: C.NBD_ENOSPC,
  EDQUOT: C.NBD_ENOSPC,
  EFBIG: C.NBD_ENOSPC,
  EOVERFLOW: C.NBD_EOVERFLOW,
  ENOTSUP: C.NBD_ENOTSUP,
  EOPNOTSUPP: C.NBD_ENOTSUP,
}

/** The value that a client gets for a device's failure. What is not known is EIO: the bytes cannot be had. */
export function errnoOf(error: unknown): number {
  if (error instanceof LifeboatError) {
    if (error.code === 'nbd-io' && typeof error.details.errno === 'number') return error.details.errno
    return BY_CODE[error.code] ?? C.NBD_EIO
  }
  if (error instanceof RangeError) return C.NBD_EINVAL
  if (error instanceof Error && 'code' in error && typeof error.code === 'string')
    return BY_SYSTEM_CODE[error.code] ?? C.NBD_EIO
  return C.NBD_EIO
}

/** Short texts for error chunks. They name the value and nothing of this host: no path, key or bucket. */
const TEXT: Readonly<Record<number, string>> = {
  [C.NBD_EPERM]: 'not permitted',
  [C.NBD_EIO]: 'input/output error',
  [C.NBD_ENOMEM]: 'not enough memory',
  [C.NBD_EINVAL]: 'invalid request',
  [C.NBD_ENOSPC]: 'no space left',
  [C.NBD_EOVERFLOW]: 'request too large',
  [C.NBD_ENOTSUP]: 'not supported',
  [C.NBD_ESHUTDOWN]: 'server is shutting down',
}

export const errorText = (errno: number): string => TEXT[errno] ?? 'error'

/** What a server's error value means to a caller of the client. Values outside the protocol's list are EINVAL. */
export function nbdError(errno: number, what: string, serverText = ''): LifeboatError {
  const known = TEXT[errno] !== undefined ? errno : C.NBD_EINVAL
  const said = serverText === '' ? '' : `: ${serverText}`
  const options = {
    details: { errno: known },
    hint: 'Look at the log of the NBD server; if it is out of space or shutting down, put that right and start again.',
    retry: known === C.NBD_ESHUTDOWN ? 'transient' : 'permanent',
  } as const
  return new LifeboatError('nbd-io', `${what} failed: ${errorText(known)}${said}`, options)
}
