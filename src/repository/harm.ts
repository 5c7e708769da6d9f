import { isIntegrityError, LifeboatError } from '../core/errors.ts'
import type { Range } from '../core/range.ts'

/** What a damaged or missing object spoils for its reader. */
export interface Harm {
  readonly point: string
  readonly disk: string
  /** Bytes of the disk that cannot be read, as far as the reader knows. */
  readonly ranges?: readonly Range[]
}

/** An integrity error that also says what it harms; any other error as it is. */
export function withHarm(error: unknown, { point, disk, ranges }: Harm): unknown {
  if (!isIntegrityError(error) || error.details.disk !== undefined) return error
  const where = ranges?.[0] ? ` from byte ${ranges[0].offset}` : ''
  return new LifeboatError(error.code, `${error.message}; it is needed by disk ${disk} of point ${point}${where}`, {
    retry: error.retry,
    details: { ...error.details, point, disk, ...(ranges ? { ranges } : {}) },
    cause: error,
  })
}
