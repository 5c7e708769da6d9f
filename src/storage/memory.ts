/**
 * An object store in memory with the manners of S3: whole-object puts, listings in pages of 1,000 that each see one
 * instant, ranges clipped. `snapshot()` is what would survive if the process ended now; a new store can start from it.
 */
import { type Clock, systemClock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type Random, systemRandom } from '../core/random.ts'
import { bodyLength, checkKey, checkPrefix, checkRange, clipRange, refuseRetention } from './checks.ts'
import { compareKeys } from './key-order.ts'
import type { ObjectInfo, ObjectStore } from './object-store.ts'
import { probeStore } from './probe.ts'
import { conflict } from './store-errors.ts'

export interface StoredObject {
  readonly bytes: Uint8Array
  readonly modifiedAt: Date
}

export interface MemoryStore extends ObjectStore {
  /** A copy of the map; the bytes are shared and never changed, a put replaces them. */
  snapshot(): ReadonlyMap<string, StoredObject>
  /** Puts exactly `bytes` under `key`, past all checks: how a test damages an object. Undefined removes it. */
  tamper(key: string, bytes: Uint8Array | undefined): void
}

export interface MemoryOptions {
  readonly entries?: Iterable<readonly [string, StoredObject]>
  readonly clock?: Clock
  readonly random?: Random
  readonly pageKeys?: number
}

export function memoryStore(options: MemoryOptions = {}): MemoryStore {
  const { clock = systemClock, random = systemRandom, pageKeys = limits.s3BatchKeys } = options
  const objects = new Map(options.entries)
  let sorted: readonly string[] | undefined

  const store: MemoryStore = {
    url: 'memory:',

    async get(key, range, { signal } = {}) {
      checkKey(key)
      checkRange(range)
      signal?.throwIfAborted()
      const found = objects.get(key)
      if (!found) throw new LifeboatError('store-not-found', `There is no object ${key}`, { details: { object: key } })
      const { offset, length } = clipRange(key, found.bytes.length, range)
      return found.bytes.slice(offset, offset + length)
    },

    async head(key, { signal } = {}) {
      checkKey(key)
      signal?.throwIfAborted()
      const found = objects.get(key)
      return found && describe(key, found)
    },

    async put(key, body, options = {}) {
      checkKey(key)
      refuseRetention(key, options)
      options.signal?.throwIfAborted()
      if (options.ifAbsent && objects.has(key)) throw conflict(key)
      replace(key, { bytes: concatenate(body), modifiedAt: clock.now() })
      return {}
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
      for (const key of keys) replace(key, undefined)
    },

    async now() {
      return clock.now()
    },

    probe: (prefix, options) => probeStore(store, prefix, random, options),
    snapshot: () => new Map(objects),
    tamper: (key, bytes) => replace(key, bytes && { bytes, modifiedAt: clock.now() }),
    [Symbol.asyncDispose]: async () => {},
  }
  return store

  function replace(key: string, object: StoredObject | undefined): void {
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
