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
