/** Where a disk moves to: a new file, or a block device that is there. */
import { rm, stat } from 'node:fs/promises'
import { LifeboatError, messageOf } from '../../core/errors.ts'
import type { AbortOptions } from '../../core/scope.ts'
import { qemuImg } from '../qemu-img.ts'
import type { QmpClient } from './qmp.ts'

export interface MigrationTarget {
  /** The disk's name: its qdev id. */
  readonly disk: string
  readonly path: string
  readonly format: 'raw' | 'qcow2'
}

/** Nodes that guests have moved to. Without our prefix: what bears it is taken out of QEMU again. */
export const PRODUCTION = 'production'

/** True if the file was made by this call. Throws 'output-exists', 'usage', and what qemu-img says. */
export async function makeTarget(
  { path, format }: MigrationTarget,
  size: number,
  { mayOverwrite, signal }: { mayOverwrite: (file: string) => boolean } & AbortOptions,
): Promise<boolean> {
  // Follows links: /dev/vg/name is one.
  const found = await stat(path).catch(() => undefined)
  const isDevice = found?.isBlockDevice() ?? false
  if (isDevice && format === 'raw') return false
  if (found && !isDevice && !mayOverwrite(path)) throw targetExists(path)
  if (found && !isDevice) await rm(path)
  try {
    await qemuImg(['create', '-q', '-f', format, path, String(size)], path, { signal })
  } catch (cause) {
    signal?.throwIfAborted()
    if (!isDevice) await rm(path, { force: true })
    throw new LifeboatError('output-failed', `${path} cannot be made: ${messageOf(cause)}`, {
      cause,
      details: { object: path },
      hint: 'Name a place that this user may write to, with room for the disk.',
    })
  }
  return !isDevice
}

export const targetExists = (path: string): LifeboatError =>
  new LifeboatError('output-exists', `${path} exists`, {
    details: { object: path },
    hint: 'Name a file that is not there yet, or a block device.',
  })

/** A raw target on a larger block device keeps the disk's size, so that the guest sees no other disk. */
export async function addTarget(
  qmp: QmpClient,
  { path, format }: MigrationTarget,
  node: string,
  size: number,
  options: AbortOptions,
): Promise<void> {
  const isDevice = (await stat(path)).isBlockDevice()
  const file = { driver: isDevice ? 'host_device' : 'file', filename: path, discard: 'unmap' }
  const sized = isDevice && format === 'raw' ? { size } : {}
  await qmp.execute('blockdev-add', { 'node-name': node, driver: format, discard: 'unmap', ...sized, file }, options)
}
