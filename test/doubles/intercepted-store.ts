/** A store whose requests a test sees before they are made: it may wait, throw, or count them. */
import type { AbortOptions } from '../../src/core/scope.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'

export interface StoreRequest {
  readonly verb: 'get' | 'head' | 'put' | 'list' | 'delete'
  /** The key, the prefix of a list, or the first key of a delete. */
  readonly key: string
}

export interface Interceptor {
  before?(request: StoreRequest, options?: AbortOptions): Promise<void> | void
  after?(request: StoreRequest): Promise<void> | void
}

export function intercepted(store: ObjectStore, { before, after }: Interceptor): ObjectStore {
  const around = async <T>(request: StoreRequest, options: AbortOptions | undefined, work: () => Promise<T>) => {
    await before?.(request, options)
    const result = await work()
    await after?.(request)
    return result
  }
  return {
    ...store,
    get: (key, range, options) => around({ verb: 'get', key }, options, () => store.get(key, range, options)),
    head: (key, options) => around({ verb: 'head', key }, options, () => store.head(key, options)),
    put: (key, body, options) => around({ verb: 'put', key }, options, () => store.put(key, body, options)),
    async *list(prefix, options) {
      await before?.({ verb: 'list', key: prefix }, options)
      yield* store.list(prefix, options)
    },
    delete: (keys, options) =>
      around({ verb: 'delete', key: keys[0] ?? '' }, options, () => store.delete(keys, options)),
  }
}
