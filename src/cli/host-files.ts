/** Small files and folders of this host, as the command line needs them: bounded, and with an error that names them. */
import { constants } from 'node:fs'
import { mkdir, open } from 'node:fs/promises'
import { LifeboatError, messageOf } from '../core/errors.ts'

/** At most `max` bytes of text. */
export const readSmallFile = async (path: string, max: number): Promise<string> =>
  (await readSmallBytes(path, max)).toString('utf8')

/** At most `max` bytes. A pipe is not waited for, a device without end is not read to its end. */
export async function readSmallBytes(path: string, max: number): Promise<Buffer> {
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    if (!(await file.stat()).isFile()) throw new Error('it is no regular file')
    const bytes = Buffer.alloc(max + 1)
    let length = 0
    for (let read = -1; read !== 0 && length <= max; length += read)
      read = (await file.read(bytes, length, bytes.length - length)).bytesRead
    if (length > max) throw new Error(`it has more than ${max} bytes`)
    return bytes.subarray(0, length)
  } finally {
    await file.close()
  }
}

/** `what` it is, for the message: 'the folder of --fleecing-dir'. */
export async function makeFolder(path: string, what: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true, mode: 0o700 })
  } catch (error) {
    throw new LifeboatError('usage', `${what}, ${path}, cannot be made: ${messageOf(error)}`, {
      details: { object: path },
      hint: 'Name a folder that is there and may be written to, or a place where one can be made.',
      cause: error,
    })
  }
}

const FULL: readonly unknown[] = ['ENOSPC', 'EDQUOT']
const NO_DESCRIPTORS: readonly unknown[] = ['EMFILE', 'ENFILE']

/** What the operating system refused and nobody nearer to it explained: no defect of the program, so no stack. */
export function explained(error: unknown): unknown {
  if (error instanceof LifeboatError || !(error instanceof Error)) return error
  if (!('syscall' in error && 'code' in error)) return error
  const object = 'path' in error && typeof error.path === 'string' ? error.path : undefined
  if (FULL.includes(error.code))
    return new LifeboatError('disk-full', `no space is left on this host: ${error.message}`, {
      details: { object },
      hint: 'Make room there and run the command again.',
      cause: error,
    })
  if (NO_DESCRIPTORS.includes(error.code))
    return new LifeboatError('file-failed', `too few files may be open on this host: ${error.message}`, {
      details: { object },
      hint: 'Raise the limit of open files (ulimit -n, or LimitNOFILE= of the unit) and run the command again.',
      cause: error,
    })
  return new LifeboatError('file-failed', `a file or folder of this host cannot be used: ${error.message}`, {
    details: { object },
    hint: 'Look at its owner and mode, or choose another place (LIFEBOAT_STATE_DIR for what Lifeboat keeps on this host).',
    cause: error,
  })
}
