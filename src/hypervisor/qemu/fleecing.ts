/** The local images that keep what the guest overwrites during a backup: one folder a machine, checked for room beforehand. */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmod, chown, mkdir, realpath, rm, stat, statfs } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { LifeboatError, messageOf } from '../../core/errors.ts'
import { limits, MiB } from '../../core/limits.ts'
import type { AbortOptions } from '../../core/scope.ts'

export interface FleecingFolder {
  readonly path: string
  readonly lockFile: string
  readonly socket: string
  image(index: number): string
}

/** The same for every run of one machine, so that a later run finds what a killed one left. */
export async function fleecingFolder(fleecingDir: string, qmpSocket: string): Promise<FleecingFolder> {
  const real = await realpath(qmpSocket).catch(() => path.resolve(qmpSocket))
  const folder = path.join(
    path.resolve(fleecingDir),
    `lb-${createHash('sha256').update(real).digest('hex').slice(0, 8)}`,
  )
  const socket = path.join(folder, 'n')
  if (Buffer.byteLength(socket) > 107)
    throw new LifeboatError('usage', `the fleecing folder's path is too long for a Unix socket in it: ${fleecingDir}`, {
      hint: 'Choose a shorter path with --fleecing-dir (at most 92 characters).',
    })
  return { path: folder, lockFile: `${folder}.lock`, socket, image: index => path.join(folder, `${index}.qcow2`) }
}

export const isFleecingImage = (file: string): boolean => /\/lb-[0-9a-f]{8}\/\d+\.qcow2$/.test(file)

/** An empty folder. QEMU may run as another user than we: whoever owns its socket must be able to write here. */
export async function makeFolder(folder: FleecingFolder, qmpSocket: string): Promise<{ uid: number; gid: number }> {
  await removeFolder(folder)
  await mkdir(folder.path, { recursive: true, mode: 0o700 })
  const { uid, gid } = await stat(qmpSocket)
  if (process.getuid?.() === 0 && uid !== 0) await chown(folder.path, uid, gid)
  return { uid, gid }
}

export async function removeFolder(folder: FleecingFolder): Promise<void> {
  await rm(folder.path, { recursive: true, force: true })
}

/** Gives the room that was asked for. */
export async function checkRoom(
  folder: FleecingFolder,
  diskSizes: readonly number[],
  freeMin?: number,
): Promise<number> {
  const total = diskSizes.reduce((sum, size) => sum + size, 0)
  const wanted = freeMin ?? Math.min(limits.fleecingFreeMax, Math.max(limits.fleecingFreeMin, total / 16))
  const free = await freeBytes(folder.path)
  if (free < wanted)
    throw new LifeboatError(
      'disk-full',
      `${path.dirname(folder.path)} has ${mib(free)} free, a capture wants ${mib(wanted)}`,
      {
        details: { object: folder.path, free, wanted },
        hint: 'What the guest overwrites during the backup is kept there. Make room or name another folder with --fleecing-dir.',
      },
    )
  return wanted
}

const mib = (bytes: number) => `${Math.floor(bytes / MiB)} MiB`

export async function freeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder)
  return bavail * bsize
}

export async function createImage(
  file: string,
  size: number,
  owner: { uid: number; gid: number },
  { signal }: AbortOptions,
): Promise<void> {
  try {
    await promisify(execFile)('qemu-img', ['create', '-q', '-f', 'qcow2', file, String(size)], { signal })
  } catch (error) {
    signal?.throwIfAborted()
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT')
      throw new LifeboatError('tool-missing', 'qemu-img is not installed', {
        hint: 'apt-get install qemu-utils',
        cause: error,
      })
    throw new LifeboatError('disk-full', `the fleecing image ${file} could not be made: ${messageOf(error)}`, {
      cause: error,
    })
  }
  await chmod(file, 0o600)
  if (process.getuid?.() === 0 && owner.uid !== 0) await chown(file, owner.uid, owner.gid)
}
