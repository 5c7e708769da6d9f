/** Holes in files: where they are, how to make them, and how to reserve space. What Node's fs does not have. */
import { constants } from 'node:os'
import { getSystemErrorName } from 'node:util'
import { LifeboatError } from '../core/errors.ts'
import { loadAddon } from './native.ts'

const { EOPNOTSUPP, ENOSYS, ENXIO, EINVAL, ENOSPC, EDQUOT } = constants.errno

/** A file that stays open while a call runs. node:fs/promises' FileHandle is one. */
export interface OpenFile {
  readonly fd: number
}

/**
 * The first byte at or after `offset` that may hold data; undefined where only a hole follows up to the end. A filesystem
 * that knows no holes says `offset`. Moves the file's own position: read and write at explicit ones.
 */
export async function seekData(file: OpenFile, offset: number): Promise<number | undefined> {
  const found = await loadAddon().seekFile(file.fd, offset, 0)
  if (found >= 0) return found
  if (found === -ENXIO) return undefined
  throw failed('SEEK_DATA', -found)
}

/** The first hole at or after `offset`; the end of the file is one. Undefined where `offset` lies at or past the end. */
export async function seekHole(file: OpenFile, offset: number): Promise<number | undefined> {
  const found = await loadAddon().seekFile(file.fd, offset, 1)
  if (found >= 0) return found
  if (found === -ENXIO) return undefined
  throw failed('SEEK_HOLE', -found)
}

/** Frees the range, which then reads as zeros; the size stays. False where the filesystem cannot: then write zeros. */
export const punchHole = (file: OpenFile, offset: number, length: number): Promise<boolean> =>
  allocateFile(file, offset, length, 1)

/**
 * Reserves space, so that later writes into the range do not fail for lack of it; size and contents stay. False where
 * the filesystem cannot. Throws 'disk-full'.
 */
export const allocate = (file: OpenFile, offset: number, length: number): Promise<boolean> =>
  allocateFile(file, offset, length, 0)

async function allocateFile(file: OpenFile, offset: number, length: number, kind: 0 | 1): Promise<boolean> {
  if (length === 0) return true
  const failure = await loadAddon().allocateFile(file.fd, offset, length, kind)
  if (failure === 0) return true
  if (failure === EOPNOTSUPP || failure === ENOSYS || failure === EINVAL) return false
  throw failed(kind === 1 ? 'fallocate(PUNCH_HOLE)' : 'fallocate', failure)
}

function failed(call: string, errno: number): LifeboatError {
  const name = getSystemErrorName(-errno)
  if (errno === ENOSPC || errno === EDQUOT)
    return new LifeboatError('disk-full', `${call} failed: ${name}`, { hint: 'Free space on this filesystem.' })
  return new LifeboatError('internal', `${call} failed: ${name}`, {
    details: { call, errno: name },
    hint: 'Check that the path names a regular file or block device on a local filesystem.',
  })
}
