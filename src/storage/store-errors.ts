/** Errors that several stores raise in the same words. */
import { LifeboatError } from '../core/errors.ts'

export const conflict = (key: string, cause?: unknown): LifeboatError =>
  new LifeboatError('store-conflict', `${key} exists already`, { details: { object: key }, cause })

/** Fewer bytes came than were announced. Objects do not shrink, so it is the transport: asking again may help. */
export const truncated = (key: string, cause?: unknown): LifeboatError =>
  new LifeboatError('store-unreachable', `The transfer of ${key} ended early`, {
    retry: 'transient',
    details: { object: key },
    cause,
  })

export const absent = (key: string, cause?: unknown): LifeboatError =>
  new LifeboatError('store-not-found', `There is no object ${key}`, { details: { object: key }, cause })

/** `keys` could not be removed because Object Lock or a legal hold protects a version of each. */
export function locked(keys: readonly string[], cause?: unknown): LifeboatError {
  const [first = '', ...others] = keys
  return new LifeboatError(
    'store-locked',
    `${first}${others.length > 0 ? ` and ${others.length} more` : ''} cannot be removed: Object Lock protects it`,
    {
      details: { object: first, keys },
      hint: 'It can be removed when its retention is over and no legal hold is on it.',
      cause,
    },
  )
}
