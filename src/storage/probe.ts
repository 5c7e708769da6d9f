/** What a store honours: what it says of itself, and what only trying tells, which is the conditional put. */
import { isLifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ObjectStore, StoreCapabilities, StoreReceipt } from './object-store.ts'

/** What it writes lies below `prefix`, which must be nobody else's, and is removed. Each request is repeated by itself where `store` is `retrying`. */
export async function probeStore(
  store: ObjectStore,
  prefix: string,
  options: AbortOptions = {},
): Promise<StoreCapabilities> {
  const rules = await store.probe(options)
  // Under a default retention what is tried could not be removed again.
  const isLocking = rules.concerns?.some(({ what }) => what === 'default-retention') ?? false
  return { conditionalPut: !isLocking && (await refusesSecondPut(store, `${prefix}once`, options)), ...rules }
}

async function refusesSecondPut(store: ObjectStore, key: string, options: AbortOptions): Promise<boolean> {
  try {
    await store.put(key, [Uint8Array.of(1)], { ...options, ifAbsent: true })
    return (await putOrConflict(store, key, Uint8Array.of(2), options)) === 'conflict'
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
