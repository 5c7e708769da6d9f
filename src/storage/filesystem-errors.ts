/** What the operating system says about a file becomes a store's error here and nowhere else. */
import { type ErrorCode, LifeboatError, messageOf } from '../core/errors.ts'

export const systemCode = (error: unknown): string | undefined =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined

/** Nothing is under that name: also where a part of the path is a file, or the name is longer than names can be. */
export const isAbsent = (error: unknown): boolean => {
  const code = systemCode(error)
  return code === 'ENOENT' || code === 'ENOTDIR' || code === 'ENAMETOOLONG'
}

interface Meaning {
  readonly code: ErrorCode
  readonly retry?: 'transient'
  readonly hint: string
}

const full: Meaning = { code: 'store-full', hint: 'Free some space there, or raise the quota, and start again.' }
const denied: Meaning = {
  code: 'store-denied',
  hint: 'Check the owner and the mode of the folder, and that it is mounted for writing.',
}
const linked: Meaning = {
  code: 'store-denied',
  hint: 'Lifeboat follows no symbolic links inside a repository: put the file itself there.',
}
const away: Meaning = {
  code: 'store-unreachable',
  retry: 'transient',
  hint: 'Check the file server that holds the repository, and its mount.',
}
const busy: Meaning = {
  code: 'store-throttled',
  retry: 'transient',
  hint: 'Too many files are open: raise LimitNOFILE (ulimit -n).',
}

const MEANINGS: ReadonlyMap<string, Meaning> = new Map([
  ['ENOSPC', full],
  ['EDQUOT', full],
  ['EACCES', denied],
  ['EPERM', denied],
  ['EROFS', denied],
  ['ELOOP', linked],
  ['ESTALE', away],
  ['ETIMEDOUT', away],
  ['EHOSTDOWN', away],
  ['EHOSTUNREACH', away],
  ['ENOTCONN', away],
  ['ECONNABORTED', away],
  ['EAGAIN', busy],
  ['EBUSY', busy],
  ['EMFILE', busy],
  ['ENFILE', busy],
  ['EIO', { code: 'store-failed', hint: 'The disk failed: see dmesg and the SMART values, and run verify.' }],
])

export function translateFileError(error: unknown, path: string, key: string): unknown {
  if (error instanceof LifeboatError) return error
  const code = systemCode(error)
  if (code === undefined) return error
  if (isAbsent(error)) return notFound(path, key, error)
  const meaning = MEANINGS.get(code)
  return new LifeboatError(meaning?.code ?? 'store-failed', `${path}: ${messageOf(error)}`, {
    retry: meaning?.retry,
    details: { object: key, path },
    hint: meaning?.hint,
    cause: error,
  })
}

export const notFound = (path: string, key: string, cause?: unknown): LifeboatError =>
  new LifeboatError('store-not-found', `There is no object ${key} (${path})`, { details: { object: key, path }, cause })
