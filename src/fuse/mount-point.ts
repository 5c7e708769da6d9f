/** Where to mount: an empty folder of this host that is no mount point yet. */
import { readdir, realpath } from 'node:fs/promises'
import path from 'node:path'
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import { mounts } from './mountinfo.ts'

/** With links resolved. Throws 'mount-point' with what to do. */
export async function checkMountPoint(given: string, options: AbortOptions = {}): Promise<string> {
  const full = path.resolve(given)
  // By its parent first: the folder itself may be a mount that answers nobody.
  const parent = await resolved(path.dirname(full), given)
  await refuseMounted(path.join(parent, path.basename(full)), given, options)
  const place = await resolved(full, given)
  await refuseMounted(place, given, options)
  const names = await readdir(place).catch(error => {
    throw refused(given, error)
  })
  if (names.length > 0)
    throw mountPointError(
      given,
      'is not empty',
      'Name an empty folder: what is in it could not be seen while it is mounted.',
    )
  return place
}

const resolved = (place: string, given: string): Promise<string> =>
  realpath(place).catch(error => {
    throw refused(given, error)
  })

async function refuseMounted(place: string, given: string, options: AbortOptions): Promise<void> {
  const there = (await mounts(options)).findLast(({ mountPoint }) => mountPoint === place)
  if (there === undefined) return
  const hint = there.type.startsWith('fuse')
    ? `If nobody uses that mount: \`fusermount3 -u ${place}\`, or \`fusermount3 -uz ${place}\` where its server is gone. Else name another folder.`
    : 'Name another folder.'
  throw mountPointError(given, `is a mount point already (${there.type})`, hint)
}

function refused(given: string, error: unknown): LifeboatError {
  const code = error instanceof Error && 'code' in error ? `${error.code}` : ''
  if (code === 'ENOENT') return mountPointError(given, 'does not exist', `Make it: \`mkdir -p ${given}\`.`, error)
  if (code === 'ENOTDIR') return mountPointError(given, 'is not a folder', 'Name an empty folder.', error)
  if (code === 'ENOTCONN')
    return mountPointError(
      given,
      'has a mount whose server is gone',
      `Take it away: \`fusermount3 -uz ${given}\`.`,
      error,
    )
  return mountPointError(given, `cannot be used: ${code}`, 'Name an empty folder that belongs to this user.', error)
}

export const mountPointError = (object: string, what: string, hint: string, cause?: unknown): LifeboatError =>
  new LifeboatError('mount-point', `The mount point ${object} ${what}`, { details: { object }, hint, cause })
