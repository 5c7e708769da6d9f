/** The versions of a memory store's keys with their locks, as a versioned bucket keeps them. */
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { checkKey, checkPrefix, checkRange, clipRange, refuseRetention } from './checks.ts'
import { compareKeys } from './key-order.ts'
import type { StoredObject } from './memory.ts'
import { absent, locked } from './store-errors.ts'
import type { LockMode, ObjectLock, ObjectVersion, VersionedStore } from './versioned-store.ts'

interface Version {
  readonly versionId: string
  /** Undefined: a delete marker. */
  readonly object: StoredObject | undefined
  readonly modifiedAt: Date
  lock: ObjectLock
}

export interface MemoryVersions {
  readonly store: VersionedStore
  /** A new version on top, or a delete marker where `object` is undefined. */
  add(key: string, object: StoredObject | undefined, lock?: ObjectLock): string
  /** Removes what no lock protects; gives the keys of which something is left. */
  removeAll(keys: readonly string[]): string[]
}

export interface MemoryVersionsOptions {
  readonly clock: Clock
  readonly objectLock: boolean
  readonly pageKeys: number
  /** Told what is the present object of a key from now on. */
  readonly show: (key: string, object: StoredObject | undefined) => void
}

const UNLOCKED: ObjectLock = { legalHold: false }

export function memoryVersions({ clock, objectLock, pageKeys, show }: MemoryVersionsOptions): MemoryVersions {
  /** Newest last. */
  const histories = new Map<string, Version[]>()
  let count = 0

  const isLocked = ({ lock }: Version): boolean =>
    lock.legalHold || (lock.retainUntil !== undefined && lock.retainUntil > clock.now())

  function keep(key: string, versions: Version[]): void {
    if (versions.length > 0) histories.set(key, versions)
    else histories.delete(key)
    show(key, versions.at(-1)?.object)
  }

  function find(key: string, versionId: string | undefined): Version & { readonly object: StoredObject } {
    checkKey(key)
    const history = histories.get(key) ?? []
    const found = versionId === undefined ? history.at(-1) : history.find(version => version.versionId === versionId)
    if (!isObject(found)) throw absent(key)
    return found
  }

  const store: VersionedStore = {
    features: async () => ({ versioning: true, objectLock }),

    async *versions(prefix, { startAfter = '', signal } = {}) {
      checkPrefix(prefix)
      for (let after = startAfter; ; ) {
        signal?.throwIfAborted()
        const keys = [...histories.keys()]
          .filter(key => key.startsWith(prefix) && (after === '' || compareKeys(key, after) > 0))
          .sort(compareKeys)
          .slice(0, pageKeys)
        yield* keys.flatMap(key => describeHistory(key, histories.get(key)!))
        if (keys.length < pageKeys) return
        after = keys.at(-1)!
      }
    },

    async getVersion(key, versionId, range, { signal } = {}) {
      checkRange(range)
      signal?.throwIfAborted()
      const { bytes } = find(key, versionId).object
      const { offset, length } = clipRange(key, bytes.length, range)
      return bytes.slice(offset, offset + length)
    },

    async deleteVersion(key, versionId, { signal } = {}) {
      checkKey(key)
      signal?.throwIfAborted()
      const history = histories.get(key) ?? []
      const found = history.find(version => version.versionId === versionId)
      if (!found) return
      if (isLocked(found)) throw locked([key])
      keep(
        key,
        history.filter(version => version !== found),
      )
    },

    async lockOf(key, versionId, { signal } = {}) {
      signal?.throwIfAborted()
      return find(key, versionId).lock
    },

    async retain(key, versionId, mode, until, { signal } = {}) {
      signal?.throwIfAborted()
      const found = find(key, versionId)
      if (!objectLock) refuseRetention(key, { retainUntil: until })
      if (isLocked(found) && weakens(found.lock, mode, until))
        throw new LifeboatError('store-locked', `The retention of ${key} cannot be shortened`, {
          details: { object: key },
        })
      found.lock = { ...found.lock, mode, retainUntil: until }
    },

    async legalHold(key, versionId, on, { signal } = {}) {
      signal?.throwIfAborted()
      const found = find(key, versionId)
      if (!objectLock) refuseRetention(key, { retainUntil: clock.now() })
      found.lock = { ...found.lock, legalHold: on }
    },
  }

  return {
    store,
    add(key, object, lock = UNLOCKED) {
      const versionId = `v${++count}`
      const version = { versionId, object, modifiedAt: object?.modifiedAt ?? clock.now(), lock }
      keep(key, [...(histories.get(key) ?? []), version])
      return versionId
    },
    removeAll(keys) {
      const left: string[] = []
      for (const key of new Set(keys)) {
        keep(key, (histories.get(key) ?? []).filter(isLocked))
        if (histories.has(key)) left.push(key)
      }
      return left
    },
  }
}

const isObject = (version: Version | undefined): version is Version & { readonly object: StoredObject } =>
  version?.object !== undefined

const weakens = (lock: ObjectLock, mode: LockMode, until: Date): boolean =>
  lock.retainUntil !== undefined && (until < lock.retainUntil || mode !== lock.mode)

const describeHistory = (key: string, history: readonly Version[]): ObjectVersion[] =>
  history
    .map(({ versionId, object, modifiedAt }, index) => ({
      key,
      versionId,
      size: object?.bytes.length ?? 0,
      modifiedAt,
      isLatest: index === history.length - 1,
      isDeleteMarker: object === undefined,
    }))
    .reverse()
