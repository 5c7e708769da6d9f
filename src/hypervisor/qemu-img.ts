/** qemu-img as a function: what an image is, and the dirty bitmaps that a qcow2 file keeps. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { MiB } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { BitmapStep } from './qemu/bitmaps.ts'
import type { DirtyBitmap } from './qemu/block-nodes.ts'
import {
  asList,
  asObject,
  countOf,
  isTrue,
  optionalObject,
  optionalText,
  parseJsonObject,
  textOf,
} from './qemu/json.ts'

/** Gives its output. Throws 'tool-missing', 'vm-busy' where a running machine holds the image, else 'no-such-disk'. */
export async function qemuImg(args: readonly string[], file: string, { signal }: AbortOptions = {}): Promise<Buffer> {
  try {
    const { stdout } = await promisify(execFile)('qemu-img', args, { signal, encoding: 'buffer', maxBuffer: 16 * MiB })
    return stdout
  } catch (error) {
    signal?.throwIfAborted()
    throw explained(file, error)
  }
}

function explained(file: string, cause: unknown): LifeboatError {
  const details = { object: file }
  if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT')
    return new LifeboatError('tool-missing', 'qemu-img is not installed', { hint: 'apt-get install qemu-utils', cause })
  const said = cause instanceof Error && 'stderr' in cause ? String(cause.stderr).trim() : messageOf(cause)
  if (/Failed to get .* lock/.test(said))
    return new LifeboatError('vm-busy', `the image ${file} is in use by a running machine`, {
      details,
      hint: 'Back up the running machine with --qmp, or stop it first.',
      cause,
    })
  return new LifeboatError('no-such-disk', `the image ${file} cannot be used: ${said}`, {
    details,
    hint: 'Name an existing image that this user may read, with the right format=.',
    cause,
  })
}

export interface ImageInfo {
  readonly size: number
  readonly keepsBitmaps: boolean
  readonly bitmaps: readonly DirtyBitmap[]
}

export async function imageInfo(file: string, format: string, options: AbortOptions): Promise<ImageInfo> {
  const output = await qemuImg(['info', '--output=json', '-f', format, file], file, options)
  const info = asObject(parseJsonObject(output), 'image info')
  const specific = optionalObject(optionalObject(info, 'format-specific'), 'data')
  return {
    size: countOf(info, 'virtual-size'),
    keepsBitmaps: format === 'qcow2' && optionalText(specific, 'compat') !== '0.10' && !isTrue(specific, 'corrupt'),
    bitmaps: specific?.bitmaps === undefined ? [] : asList(specific.bitmaps).map(parseBitmap),
  }
}

function parseBitmap(entry: { readonly [name: string]: unknown }): DirtyBitmap {
  const flags: readonly unknown[] = Array.isArray(entry.flags) ? entry.flags : []
  // 'auto' is the file's word for recording; 'in-use' in an image that nobody has open: it was not closed properly.
  return {
    name: textOf(entry, 'name'),
    recording: flags.includes('auto'),
    inconsistent: flags.includes('in-use'),
    busy: false,
  }
}

/**
 * qemu-img changes one bitmap a call, so these steps are not one transaction. Every state between them is one that `settle`
 * knows: "enable and merge" is a single call, after which both record and each is exact for its own name.
 */
export async function applyBitmapSteps(file: string, steps: readonly BitmapStep[], granularity: number): Promise<void> {
  for (let at = 0; at < steps.length; ) {
    const { name } = steps[at]!
    const flags: string[] = []
    for (; steps[at]?.name === name; at++) {
      const step = steps[at]!
      flags.push(`--${step.do}`)
      if (step.do === 'merge') flags.push(step.from)
      if (step.do === 'add') flags.push('-g', String(granularity))
    }
    await qemuImg(['bitmap', ...flags, '-f', 'qcow2', file, name], file)
  }
}
