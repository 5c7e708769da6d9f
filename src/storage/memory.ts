/**
 * An object store in memory with the manners of S3: whole-object puts, listings in pages of 1,000 that each see one
 * instant, ranges clipped; on demand it keeps versions, with Object Lock. `snapshot()` is what would survive if the process
 * ended now; a new store can start from it.
 */
import { type Clock, systemClock } from '../core/clock.ts'
import { limits } from '../core/limits.ts'
import { bodyLength, checkKey, checkPrefix, checkRange, clipRange, refuseRetention } from './checks.ts'
import { compareKeys } from './key-order.ts'
import { memoryVersions } from './memory-versions.ts'
import type { ObjectInfo, ObjectStore } from './object-store.ts'
import { absent, conflict, locked } from './store-errors.ts'

export interface StoredObject {
  readonly bytes: Uint8Array
  readonly modifiedAt: Date
}

export interface MemoryStore extends ObjectStore {
  /** A copy of the map; the bytes are shared and never changed, a put replaces them. Of versions, the present ones. */
  snapshot(): ReadonlyMap<string, StoredObject>
  /**
   * Puts exactly `bytes` under `key`, past all checks: how a test damages an object. Undefined removes it. With versions it
   * is what somebody with stolen credentials can do: a new version on top, or a delete marker.
   */
  tamper(key: string, bytes: Uint8Array | undefined): void
}

export interface MemoryOptions {
  readonly entries?: Iterable<readonly [string, StoredObject]>
  readonly clock?: Clock
  readonly pageKeys?: number
  /** Old versions of a key are kept, as in a versioned bucket. */
  readonly versioned?: boolean
  /** With `versioned`: retention by `clock`, and legal holds. */
  readonly objectLock?: boolean
}

export function memoryStore(options: MemoryOptions = {}): MemoryStore {
  const { clock = systemClock, pageKeys = limits.s3BatchKeys } = options
  const { versioned = false, objectLock = false } = options
  const objects = new Map<string, StoredObject>()
  const history = versioned ? memoryVersions({ clock, objectLock, pageKeys, show }) : undefined
  let sorted: readonly string[] | undefined
  for (const [key, object] of options.entries ?? []) replace(key, object)

  const store: MemoryStore = {
    url: 'memory:',

    async get(key, range, { signal } = {}) {
      checkKey(key)
      checkRange(range)
      signal?.throwIfAborted()
      const found = objects.get(key)
      if (!found) throw absent(key)
      const { offset, length } = clipRange(key, found.bytes.length, range)
      const { buffer } = Buffer.allocUnsafeSlow(length)
      const bytes = new Uint8Array(buffer)
      bytes.set(found.bytes.subarray(offset, offset + length))
      return bytes
    },

    async head(key, { signal } = {}) {
      checkKey(key)
      signal?.throwIfAborted()
      const found = objects.get(key)
      return found && describe(key, found)
    },

    async put(key, body, options = {}) {
      checkKey(key)
      if (!objectLock) refuseRetention(key, options)
      options.signal?.throwIfAborted()
      if (options.ifAbsent && objects.has(key)) throw conflict(key)
      const object = { bytes: concatenate(body), modifiedAt: clock.now() }
      if (!history) {
        show(key, object)
        return {}
      }
      const { retainUntil, lockMode: mode = 'governance' } = options
      return { versionId: history.add(key, object, retainUntil && { mode, retainUntil, legalHold: false }) }
    },

    async *list(prefix, { startAfter = '', signal } = {}) {
      checkPrefix(prefix)
      let after = startAfter
      for (;;) {
        signal?.throwIfAborted()
        const page = nextPage(prefix, after)
        yield* page
        if (page.length < pageKeys) return
        after = page.at(-1)!.key
      }
    },

    async delete(keys, { signal } = {}) {
      for (const key of keys) checkKey(key)
      signal?.throwIfAborted()
      if (!history) {
        for (const key of keys) show(key, undefined)
        return
      }
      const left = history.removeAll(keys)
      if (left.length > 0) throw locked(left)
    },

    async now() {
      return clock.now()
    },

    probe: async () => ({ versioning: versioned, objectLock }),
    ...(history ? { versioned: history.store } : {}),
    snapshot: () => new Map(objects),
    tamper: (key, bytes) => replace(key, bytes && { bytes, modifiedAt: clock.now() }),
    [Symbol.asyncDispose]: async () => {},
  }
  return store

  function replace(key: string, object: StoredObject | undefined): void {
    if (history) history.add(key, object)
    else show(key, object)
  }

  function show(key: string, object: StoredObject | undefined): void {
    if (objects.has(key) !== (object !== undefined)) sorted = undefined
    if (object) objects.set(key, object)
    else objects.delete(key)
  }

  function nextPage(prefix: string, after: string): ObjectInfo[] {
    sorted ??= [...objects.keys()].sort(compareKeys)
    const page: ObjectInfo[] = []
    for (let at = firstAfter(sorted, after, prefix); at < sorted.length && page.length < pageKeys; at++) {
      const key = sorted[at]!
      if (!key.startsWith(prefix)) break
      page.push(describe(key, objects.get(key)!))
    }
    return page
  }
}

/** The index of the first key that is above `after` and not below `prefix`. */
function firstAfter(sorted: readonly string[], after: string, prefix: string): number {
  let low = 0
  let high = sorted.length
  while (low < high) {
    const middle = (low + high) >>> 1
    const key = sorted[middle]!
    if (compareKeys(key, prefix) < 0 || (after !== '' && compareKeys(key, after) <= 0)) low = middle + 1
    else high = middle
  }
  return low
}

const describe = (key: string, { bytes, modifiedAt }: StoredObject): ObjectInfo => ({
  key,
  size: bytes.length,
  modifiedAt,
})

function concatenate(body: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(bodyLength(body))
  let offset = 0
  for (const part of body) {
    bytes.set(part, offset)
    offset += part.length
  }
  return bytes
}
