/** Deleting many objects: in batches, each whole, so that a person may stop between two and every answer is known. */
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { MaintenanceContext } from './maintenance.ts'

/**
 * Gives those that a lock kept. A request that was begun is waited for: one that was given up might arrive later, when nobody
 * is kept from using again what it removes.
 */
export async function removeObjects(
  { store }: Pick<MaintenanceContext, 'store'>,
  keys: readonly string[],
  { signal, removed }: { removed?: (keys: readonly string[]) => void } & AbortOptions = {},
): Promise<ReadonlySet<string>> {
  const locked = new Set<string>()
  for (let at = 0; at < keys.length; at += limits.s3BatchKeys) {
    signal?.throwIfAborted()
    const batch = keys.slice(at, at + limits.s3BatchKeys)
    if (!(await remove(batch)))
      // One by one tells which of them it was.
      for (const key of batch) if (!(await remove([key]))) locked.add(key)
    removed?.(batch.filter(key => !locked.has(key)))
  }
  return locked

  /** False: something in it is locked. */
  async function remove(batch: readonly string[]): Promise<boolean> {
    try {
      await store.delete(batch)
      return true
    } catch (error) {
      if (isLifeboatError(error, 'store-locked')) return false
      throw isLifeboatError(error, 'store-denied') ? denied(batch[0], error) : error
    }
  }
}

const denied = (object: string | undefined, cause: LifeboatError): LifeboatError =>
  new LifeboatError('store-denied', `This host may not delete ${object}: ${cause.message}`, {
    details: { object },
    hint: 'Run the collection where the credentials may delete; hosts that only back up need not. What is left is collected then.',
    cause,
  })
