/** Objects over which somebody has put other versions: the oldest that authenticates is ours, because names are written once. */
import { isIntegrityError, isLifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import type { ObjectVersion, VersionedStore } from '../storage/versioned-store.ts'
import { configKey, keysPrefix } from './object-keys.ts'
import { firstVersions, tellReadPast } from './unhidden.ts'

/**
 * What `read` makes of the object, fetched again once where it is not authentic, or, where that does not help, of its versions
 * from the oldest on. `read` is given the store in which `key` is that version. Throws the last failure of the object as it is.
 */
export async function authentic<T>(
  store: ObjectStore,
  key: string,
  read: (store: ObjectStore, version?: ObjectVersion) => Promise<T>,
  options?: AbortOptions,
): Promise<T> {
  try {
    return await twice(() => read(store))
  } catch (error) {
    // Hidden from a user that may not read versions: asking for them once more would only lose what to do about it.
    if (!isIntegrityError(error) || isLifeboatError(error, 'hidden-object') || !store.versioned) throw error
    for (const version of await versionsBelow(store.versioned, key, options))
      try {
        const found = await read(withVersion(store, store.versioned, version), version)
        tellReadPast(key)
        return found
      } catch (worse) {
        if (!isIntegrityError(worse)) throw worse
      }
    throw error
  }
}

/** Once more, for what a cache or a line has damaged on the way. */
export async function twice<T>(read: () => Promise<T>): Promise<T> {
  try {
    return await read()
  } catch (error) {
    if (!isIntegrityError(error)) throw error
    return await read()
  }
}

/** Data versions that a reader does not see, the oldest first. */
export async function versionsBelow(
  versioned: VersionedStore,
  key: string,
  options?: AbortOptions,
): Promise<readonly ObjectVersion[]> {
  const found = await firstVersions(versioned, key, options)
  return found.filter(({ isLatest }) => !isLatest)
}

/** A view in which the key is this version, and has no others to fall back to. */
export function withVersion(store: ObjectStore, versioned: VersionedStore, version: ObjectVersion): ObjectStore {
  const { key, versionId, size, modifiedAt } = version
  const { versioned: _, ...present } = store
  return {
    ...present,
    get: (wanted, range, options) =>
      wanted === key ? versioned.getVersion(key, versionId, range, options) : store.get(wanted, range, options),
    head: async (wanted, options) => (wanted === key ? { key, size, modifiedAt } : store.head(wanted, options)),
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  }
}

/** A view in which `config` and the keys are the first that were ever put under their names: for when the present ones open nothing. */
export function firstKeys(store: ObjectStore, versioned: VersionedStore): ObjectStore {
  const firstOf = async (key: string, options?: AbortOptions) => {
    if (key !== configKey && !key.startsWith(keysPrefix)) return undefined
    const [first] = await firstVersions(versioned, key, options)
    if (first && !first.isLatest) tellReadPast(key)
    return first
  }
  return {
    ...store,
    async get(key, range, options) {
      const first = await firstOf(key, options)
      return first ? versioned.getVersion(key, first.versionId, range, options) : store.get(key, range, options)
    },
    async head(key, options) {
      const first = await firstOf(key, options)
      return first ? { key, size: first.size, modifiedAt: first.modifiedAt } : store.head(key, options)
    },
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  }
}

/** Known places of what was shadowed, so that a reader of many records asks once for each object. */
export class ShadowedObjects {
  readonly #versioned: VersionedStore | undefined
  readonly #good = new Map<string, ObjectVersion>()

  constructor({ versioned }: ObjectStore) {
    this.#versioned = versioned
  }

  versionOf(key: string): ObjectVersion | undefined {
    return this.#good.get(key)
  }

  async candidates(key: string, options: AbortOptions): Promise<readonly ObjectVersion[]> {
    return this.#versioned ? await versionsBelow(this.#versioned, key, options) : []
  }

  isGood(version: ObjectVersion): void {
    if (!this.#good.has(version.key)) tellReadPast(version.key)
    if (this.#good.size >= limits.shadowedObjectsKept) this.#good.clear()
    this.#good.set(version.key, version)
  }
}
