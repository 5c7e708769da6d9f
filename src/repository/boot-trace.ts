/**
 * Boot traces: which chunks the first boot of a VM touched, in order (docs/repository-format.md, section 8). The next session of
 * any point of that VM reads them ahead of the guest.
 *
 * A trace names chunks by their place in the disk, not in packs: the tree of the point that is booted says where they lie, so
 * that a trace fits every point, and nothing that a trace says can make a reader take one content for another. It is a hint: one that
 * is missing, damaged or about another disk costs time and nothing else.
 */
import { isIntegrityError } from '../core/errors.ts'
import { hex, type PointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ControlObjects } from './control-object.ts'
import type { JsonFields } from './json-fields.ts'
import { traceKey, vmTracesPrefix } from './object-keys.ts'

/** Chunk `chunk` of disk number `disk` was touched for the first time. */
export interface Touch {
  readonly disk: number
  readonly chunk: number
}

export interface BootTrace {
  /** The point that was booted. */
  readonly point: PointId
  /** Bytes. */
  readonly chunkSize: number
  /** Names of the disks; a touch says which by its place. */
  readonly disks: readonly string[]
  /** In order of time. */
  readonly touches: readonly Touch[]
}

/** The newest of the VM that can be read; undefined where there is none. */
export async function latestTrace(
  control: ControlObjects,
  vm: string,
  options: AbortOptions = {},
): Promise<BootTrace | undefined> {
  const keys: string[] = []
  for await (const key of control.list('trace', { ...options, prefix: vmTracesPrefix(vm) })) keys.push(key)
  for (const key of keys.sort().reverse())
    try {
      const fields = await control.get('trace', key, options)
      if (fields) return parseTrace(fields)
    } catch (error) {
      if (!isIntegrityError(error)) throw error
    }
  return undefined
}

/** The VM's older ones go: nobody needs them, and a reader that has one in hand has read it. */
export async function putTrace(
  control: ControlObjects,
  vm: string,
  trace: BootTrace,
  { now, random, ...options }: { now: Date; random: Random } & AbortOptions,
): Promise<void> {
  const older: string[] = []
  for await (const key of control.list('trace', { ...options, prefix: vmTracesPrefix(vm) })) older.push(key)
  const { point, chunkSize, disks } = trace
  const touches = encodeTouches(trace.touches, disks.length).toString('base64')
  const document = { point, chunkSize, disks, touches, when: now.toISOString() }
  await control.put('trace', traceKey(vm, now, hex(random(8))), document, options)
  if (older.length > 0) await control.delete(older, options)
}

function parseTrace(fields: JsonFields): BootTrace {
  const chunkSize = fields.count('chunkSize', limits.chunkSizeMax)
  const disks = fields.texts('disks', limits.traceDisksMax)
  const bytes = Buffer.from(fields.text('touches', limits.traceBytesMax), 'base64')
  const touches = decodeTouches(bytes, disks.length)
  if (!touches || chunkSize === 0) throw fields.absurd('touches')
  return { point: fields.hex('point', 8) as PointId, chunkSize, disks, touches }
}

/**
 * Each touch is one number in LEB128: the distance from the last chunk of the same disk, zigzag, times the number of disks, plus
 * the disk. A boot in order takes one byte a chunk.
 */
export function encodeTouches(touches: readonly Touch[], diskCount: number): Buffer {
  const last = new Array<number>(diskCount).fill(0)
  const bytes: number[] = []
  for (const { disk, chunk } of touches) {
    const distance = chunk - last[disk]!
    last[disk] = chunk
    let value = (distance >= 0 ? distance * 2 : -distance * 2 - 1) * diskCount + disk
    for (; value >= 0x80; value = Math.floor(value / 0x80)) bytes.push((value % 0x80) | 0x80)
    bytes.push(value)
  }
  return Buffer.from(bytes)
}

/** Undefined for what no encoder writes: numbers out of range, a cut at the end, more touches than a trace may have. */
export function decodeTouches(bytes: Uint8Array, diskCount: number): readonly Touch[] | undefined {
  const last = new Array<number>(diskCount).fill(0)
  const touches: Touch[] = []
  let value = 0
  let scale = 1
  for (const byte of bytes) {
    value += (byte & 0x7f) * scale
    scale *= 0x80
    if (value > Number.MAX_SAFE_INTEGER) return undefined
    if (byte & 0x80) continue
    const disk = value % diskCount
    const zigzag = Math.floor(value / diskCount)
    const chunk = (last[disk] ?? 0) + (zigzag % 2 === 0 ? zigzag / 2 : -(zigzag + 1) / 2)
    if (chunk < 0 || touches.length === limits.traceTouchesMax) return undefined
    last[disk] = chunk
    touches.push({ disk, chunk })
    value = 0
    scale = 1
  }
  return scale === 1 ? touches : undefined
}
