/** What a plain store honours, found out by trying: here only the conditional put. */
import { isLifeboatError } from '../core/errors.ts'
import { hex } from '../core/ids.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ObjectStore, StoreCapabilities, StoreReceipt } from './object-store.ts'

export async function probeStore(
  store: Pick<ObjectStore, 'put' | 'delete'>,
  prefix: string,
  random: Random,
  options: AbortOptions = {},
): Promise<StoreCapabilities> {
  const key = `${prefix}${hex(random(8))}`
  try {
    await store.put(key, [random(1)], { ...options, ifAbsent: true })
    const second = await putOrConflict(store, key, random(1), options)
    return { conditionalPut: second === 'conflict', objectLock: false, versioning: false }
  } finally {
    await store.delete([key], options)
  }
}

export async function putOrConflict(
  store: Pick<ObjectStore, 'put'>,
  key: string,
  bytes: Uint8Array,
  options: AbortOptions,
): Promise<StoreReceipt | 'conflict'> {
  try {
    return await store.put(key, [bytes], { ...options, ifAbsent: true })
  } catch (error) {
    if (isLifeboatError(error, 'store-conflict')) return 'conflict'
    throw error
  }
}
