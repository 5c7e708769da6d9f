/**
 * Where a restored raw disk goes: a new file under a temporary name until it is whole, an existing file or a block device
 * in place. Writes may overlap each other, at different offsets.
 */
import { constants } from 'node:fs'
import { type FileHandle, link, open, readFile, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { hex } from '../core/ids.ts'
import type { Random } from '../core/random.ts'
import type { OpenFile } from '../native/sparse-file.ts'

export interface RestoreTarget {
  /** What was there before shows through where nothing is written, so zeros have to be written, and equal chunks need not be. */
  readonly inPlace: boolean
  /** For who writes past this target: all such writes end before `finish` and `abandon`. */
  readonly file: OpenFile
  readonly write: (bytes: Uint8Array, offset: number) => Promise<void>
  /** Past the end of what is there: zeros. */
  readonly read: (target: Uint8Array, offset: number) => Promise<void>
  /** Durable, and under its name. */
  readonly finish: () => Promise<void>
  /** Nothing of ours stays, as far as that is possible. */
  readonly abandon: () => Promise<void>
}

export interface OutputOptions {
  readonly output: string
  /** Write into what exists, only what differs. */
  readonly onto?: boolean
  /** Replace what exists. */
  readonly force?: boolean
  readonly random: Random
}

type Existing = 'nothing' | 'file' | 'block-device'

/** Throws 'output-exists' where something is there that was not to be touched. */
export async function lookAtOutput({ output, onto, force }: OutputOptions): Promise<Existing> {
  const found = await stat(output).catch(error => {
    if (hasCode(error, 'ENOENT')) return undefined
    throw outputError(output, error)
  })
  if (!found) return 'nothing'
  if (!onto && !force)
    throw new LifeboatError('output-exists', `${output} exists`, {
      details: { object: output },
      hint: 'Name another output, or say --force to replace it, or --onto to write only the chunks that differ.',
    })
  if (found.isFile()) return 'file'
  if (found.isBlockDevice()) return 'block-device'
  throw new LifeboatError('usage', `${output} is neither a file nor a block device`, {
    details: { object: output },
    hint: 'Name a file, which may be absent, or a block device.',
  })
}

export async function openTarget(options: OutputOptions, size: number): Promise<RestoreTarget> {
  const existing = await lookAtOutput(options)
  try {
    if (existing === 'block-device') return await blockDeviceTarget(options.output, size)
    if (existing === 'file' && options.onto) return await inPlaceTarget(options.output, size)
    return await newFileTarget(options, size)
  } catch (error) {
    throw outputError(options.output, error)
  }
}

async function newFileTarget(options: OutputOptions, size: number): Promise<RestoreTarget> {
  const temporary = temporaryName(options)
  // For reading too: a migration compares what it has written.
  const file = await open(temporary, 'wx+', 0o600)
  const abandon = async () => {
    await file.close().catch(() => {})
    await rm(temporary, { force: true })
  }
  try {
    await file.truncate(size)
  } catch (error) {
    await abandon()
    throw error
  }
  const finish = async () => {
    await file.sync()
    await file.close()
    await publish(temporary, options)
  }
  return { inPlace: false, ...io(file, options.output), finish, abandon }
}

async function inPlaceTarget(output: string, size: number): Promise<RestoreTarget> {
  const file = await open(output, 'r+')
  const finish = async () => {
    await file.truncate(size)
    await file.sync()
    await file.close()
  }
  return { inPlace: true, ...io(file, output), finish, abandon: () => file.close().catch(() => {}) }
}

async function blockDeviceTarget(output: string, size: number): Promise<RestoreTarget> {
  // O_EXCL without O_CREAT: refused where the device is mounted or part of something.
  const file = await open(output, constants.O_RDWR | constants.O_EXCL)
  const abandon = () => file.close().catch(() => {})
  const room = await blockDeviceSize(file)
  if (room < size) {
    await abandon()
    throw new LifeboatError('usage', `${output} has ${room} bytes, the disk has ${size}`, {
      details: { object: output },
      hint: 'Name a device at least as large as the disk.',
    })
  }
  const finish = async () => {
    await file.sync()
    await file.close()
  }
  return { inPlace: true, ...io(file, output), finish, abandon }
}

async function blockDeviceSize(file: FileHandle): Promise<number> {
  const { rdev } = await file.stat()
  // Linux's dev_t as stat gives it: 12 bits of major number, 20 of minor, in pieces.
  const major = (rdev >> 8) & 0xfff
  const minor = (rdev & 0xff) | ((rdev >> 12) & 0xfff00)
  return Number(await readFile(`/sys/dev/block/${major}:${minor}/size`, 'utf8')) * 512
}

const io = (file: FileHandle, output: string) => ({
  file,
  write: async (bytes: Uint8Array, offset: number) => {
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await file.write(bytes, done, bytes.length - done, offset + done).catch(error => {
        throw outputError(output, error)
      })
      done += bytesWritten
    }
  },
  read: async (target: Uint8Array, offset: number) => {
    for (let done = 0; done < target.length; ) {
      const { bytesRead } = await file.read(target, done, target.length - done, offset + done).catch(error => {
        throw outputError(output, error)
      })
      if (bytesRead === 0) {
        target.fill(0, done)
        return
      }
      done += bytesRead
    }
  },
})

/** In the same folder, so that the rename stays within one filesystem; the dot keeps it out of globs. */
export const temporaryName = ({ output, random }: OutputOptions): string =>
  path.join(path.dirname(output), `.${path.basename(output).slice(0, 200)}.${hex(random(6))}.partial`)

/** Gives a finished file its name. Without `force` a file that has come there meanwhile is not replaced. */
export async function publish(temporary: string, { output, force }: OutputOptions): Promise<void> {
  if (force) await rename(temporary, output)
  else {
    const linked = await link(temporary, output).then(
      () => true,
      error => {
        // Filesystems without hard links.
        if (hasCode(error, 'EPERM') || hasCode(error, 'EOPNOTSUPP') || hasCode(error, 'ENOSYS')) return false
        throw outputError(output, error)
      },
    )
    if (linked) await rm(temporary)
    else await rename(temporary, output)
  }
  const folder = await open(path.dirname(output), 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

const hasCode = (error: unknown, code: string): boolean =>
  error instanceof Error && 'code' in error && error.code === code

const SPACE = ['ENOSPC', 'EDQUOT', 'EFBIG']

/** Translates what the filesystem says about an output. */
export function outputError(output: string, error: unknown): unknown {
  if (error instanceof LifeboatError || !(error instanceof Error) || !('code' in error)) return error
  const details = { object: output, errno: error.code }
  if (typeof error.code === 'string' && SPACE.includes(error.code))
    return new LifeboatError('disk-full', `no room for ${output}: ${messageOf(error)}`, {
      details,
      hint: 'Free space there, raise the quota or file size limit, or name an output elsewhere.',
      cause: error,
    })
  if (error.code === 'EEXIST')
    return new LifeboatError('output-exists', `${output} has come into being meanwhile`, {
      details,
      hint: 'Name another output, or say --force.',
      cause: error,
    })
  return new LifeboatError('output-failed', `cannot write ${output}: ${messageOf(error)}`, {
    details,
    hint: 'Check that the folder exists and may be written to, and that a device is not in use.',
    cause: error,
  })
}
