/** What the system says about a place where files are restored to. */
import { LifeboatError, messageOf } from '../core/errors.ts'

export const systemCode = (error: unknown): string | undefined =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined

/** It says something of one name, size or kind of file, and the next may do. */
const OF_ONE_FILE: ReadonlySet<string> = new Set([
  ...['ENAMETOOLONG', 'EINVAL', 'EILSEQ', 'EEXIST', 'ENOTEMPTY', 'EFBIG', 'EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'EMLINK'],
  ...['ELOOP', 'ENOTDIR', 'EISDIR', 'EOVERFLOW', 'E2BIG', 'ERANGE', 'ENOSYS', 'ENODEV', 'ENXIO', 'ENODATA'],
])

export const isRefusalOfOneFile = (error: unknown): boolean =>
  !(error instanceof LifeboatError) && OF_ONE_FILE.has(systemCode(error) ?? '')

export function outputError(error: unknown, folder: string): unknown {
  const code = systemCode(error)
  if (error instanceof LifeboatError || code === undefined) return error
  const options = (hint: string) => ({ details: { object: folder }, cause: error, hint })
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new LifeboatError(
      'disk-full',
      `There is no space left below ${folder}`,
      options('Free some space and run the same command again: it goes on where it stopped.'),
    )
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS')
    return new LifeboatError(
      'output-failed',
      `${folder} cannot be written: ${code}`,
      options('Name a folder that this user may write to.'),
    )
  return new LifeboatError(
    'output-failed',
    `${folder}: ${messageOf(error)}`,
    options('See what is wrong there, then run the same command again: it goes on where it stopped.'),
  )
}
