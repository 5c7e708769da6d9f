/**
 * A store that answers every change as if it had been made, and makes none: what a dry run works on, so that it cannot write
 * whatever it calls. Small objects that were put can be read again (a lease looks for itself); large ones are absent, and no
 * listing shows any of them.
 */
import { limits } from '../core/limits.ts'
import { bodyLength, checkKey, checkRange, clipRange } from './checks.ts'
import type { ObjectInfo, ObjectStore } from './object-store.ts'
import { absent } from './store-errors.ts'
import type { VersionedStore } from './versioned-store.ts'

export interface WithheldWrites {
  readonly store: ObjectStore
  /** Of objects that were put and not deleted again. */
  bytesKept(): number
}

interface Withheld {
  readonly info: ObjectInfo
  /** Undefined: too large to keep. */
  readonly bytes: Uint8Array | undefined
}

export function withoutWrites(inner: ObjectStore): WithheldWrites {
  const own = new Map<string, Withheld>()
  const store: ObjectStore = {
    url: inner.url,
    ...(inner.versioned ? { versioned: withoutVersionWrites(inner.versioned) } : {}),
    async get(key, range, options) {
      const withheld = own.get(key)
      if (!withheld) return inner.get(key, range, options)
      checkRange(range)
      if (!withheld.bytes) throw absent(key)
      const { offset, length } = clipRange(key, withheld.bytes.length, range)
      return withheld.bytes.slice(offset, offset + length)
    },
    head: async (key, options) => own.get(key)?.info ?? inner.head(key, options),
    async put(key, body, options) {
      checkKey(key)
      options?.signal?.throwIfAborted()
      const size = bodyLength(body)
      const bytes = size <= limits.controlObjectMax ? new Uint8Array(Buffer.concat(body)) : undefined
      own.set(key, { info: { key, size, modifiedAt: new Date(0) }, bytes })
      return {}
    },
    list: (prefix, options) => inner.list(prefix, options),
    async delete(keys, options) {
      options?.signal?.throwIfAborted()
      for (const key of keys) own.delete(key)
    },
    now: options => inner.now(options),
    probe: options => inner.probe(options),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
  return { store, bytesKept: () => [...own.values()].reduce((sum, { info }) => sum + info.size, 0) }
}

const withoutVersionWrites = (versioned: VersionedStore): VersionedStore => ({
  ...versioned,
  async deleteVersion() {},
  async retain() {},
  async legalHold() {},
})
