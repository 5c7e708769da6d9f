/** What callers hand to a store is checked here, once for all stores, before it becomes a path or a request. */
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { Range } from '../core/range.ts'
import { isSafeKey, type PutOptions } from './object-store.ts'

export function checkKey(key: string): void {
  if (!isSafeKey(key)) throw new LifeboatError('absurd-object', `'${key.slice(0, 80)}' cannot be the key of an object`)
}

/** A prefix is the beginning of a safe key, cut anywhere. */
export function checkPrefix(prefix: string): void {
  if (prefix !== '' && !isSafeKey(`${prefix}x`))
    throw new LifeboatError('absurd-object', `'${prefix.slice(0, 80)}' cannot be the prefix of a listing`)
}

export function checkRange(range: Range | undefined): void {
  if (!range) return
  if (
    !Number.isSafeInteger(range.offset) ||
    !Number.isSafeInteger(range.length) ||
    range.offset < 0 ||
    range.length < 0
  )
    throw new LifeboatError('absurd-object', `${range.offset}+${range.length} is not a range of bytes`)
}

/** The part of an object of `size` bytes that a get of `range` gives; refused where it is more than a store hands out. */
export function clipRange(key: string, size: number, range: Range | undefined): Range {
  const offset = Math.min(range?.offset ?? 0, size)
  const length = Math.min(range?.length ?? size, size - offset)
  if (length > limits.objectBytesMax)
    throw new LifeboatError('absurd-object', `${key} claims ${length} bytes; no object of a repository has that many`, {
      details: { object: key },
    })
  return { offset, length }
}

/** For stores that have no lock: a retention that nobody keeps must not be promised. */
export function refuseRetention(key: string, options: PutOptions): void {
  if (options.retainUntil)
    throw new LifeboatError('store-failed', `This store cannot lock ${key} against deletion`, {
      details: { object: key },
      hint: 'Use a bucket with Object Lock, or make the repository without --lock-mode.',
    })
}

export const bodyLength = (body: readonly Uint8Array[]): number => {
  let length = 0
  for (const part of body) length += part.length
  return length
}

/** Whether the stored bytes are the concatenation of `body`. */
export function isBody(stored: Uint8Array, body: readonly Uint8Array[]): boolean {
  let offset = 0
  for (const part of body) {
    if (Buffer.compare(stored.subarray(offset, offset + part.length), part) !== 0) return false
    offset += part.length
  }
  return offset === stored.length
}
