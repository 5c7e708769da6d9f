/**
 * Counts what is asked of a store, as a store bills it: a listing is a request for each page of 1,000 keys, a delete one for
 * each 1,000. A store that knows what it really sends (versions of keys, batches that were refused) says so itself, by
 * `sentRequests`. Beneath `retrying` attempts are counted, above it calls.
 */
import { limits } from '../core/limits.ts'
import { bodyLength } from './checks.ts'
import type { ObjectStore } from './object-store.ts'
import type { VersionedStore } from './versioned-store.ts'

export interface VerbFigures {
  readonly requests: number
  readonly failures: number
  /** Of the object: read by get, stored by put. */
  readonly bytes: number
  /** Listed or deleted keys; for the other verbs the requests that succeeded. */
  readonly objects: number
}

/** Requests about versions count as their plain kin; 'lock' asks for or sets retention, legal hold and the bucket's features. */
export const storeVerbs = ['get', 'head', 'put', 'list', 'delete', 'lock', 'now', 'probe'] as const
export type StoreVerb = (typeof storeVerbs)[number]

export type StoreFigures = Readonly<Record<StoreVerb, VerbFigures>>

export type RequestCounts = Readonly<Record<StoreVerb, number>>

/** A store whose calls take other numbers of requests than can be told from outside. */
export interface SendingStore {
  /** Since it was opened. */
  readonly sentRequests?: () => RequestCounts
}

export interface Meter {
  /** A copy of the figures at this instant. */
  figures(): StoreFigures
}

interface Counter {
  requests: number
  failures: number
  bytes: number
  objects: number
}

const counter = (): Counter => ({ requests: 0, failures: 0, bytes: 0, objects: 0 })

export function metered(inner: ObjectStore & SendingStore): { readonly store: ObjectStore; readonly meter: Meter } {
  const counters = {
    get: counter(),
    head: counter(),
    put: counter(),
    list: counter(),
    delete: counter(),
    lock: counter(),
    now: counter(),
    probe: counter(),
  } satisfies Record<StoreVerb, Counter>

  async function count<T>(
    verb: StoreVerb,
    work: () => Promise<T>,
    bytes: (result: T) => number,
    objects = 1,
    requests = 1,
  ): Promise<T> {
    const figure = counters[verb]
    figure.requests += requests
    try {
      const result = await work()
      figure.bytes += bytes(result)
      figure.objects += objects
      return result
    } catch (error) {
      figure.failures++
      throw error
    }
  }
  const none = () => 0

  async function* counted<T>(listing: AsyncIterable<T>): AsyncGenerator<T> {
    counters.list.requests++
    let found = 0
    try {
      for await (const entry of listing) {
        if (found > 0 && found % limits.s3BatchKeys === 0) counters.list.requests++
        found++
        counters.list.objects++
        yield entry
      }
    } catch (error) {
      counters.list.failures++
      throw error
    }
  }

  const meteredVersions = (versioned: VersionedStore): VersionedStore => ({
    features: options => count('lock', () => versioned.features(options), none),
    versions: (prefix, options) => counted(versioned.versions(prefix, options)),
    getVersion: (key, versionId, range, options) =>
      count(
        'get',
        () => versioned.getVersion(key, versionId, range, options),
        read => read.length,
      ),
    deleteVersion: (key, versionId, options) =>
      count('delete', () => versioned.deleteVersion(key, versionId, options), none),
    lockOf: (key, versionId, options) => count('lock', () => versioned.lockOf(key, versionId, options), none),
    retain: (key, versionId, mode, until, options) =>
      count('lock', () => versioned.retain(key, versionId, mode, until, options), none),
    legalHold: (key, versionId, on, options) =>
      count('lock', () => versioned.legalHold(key, versionId, on, options), none),
  })

  const store: ObjectStore = {
    url: inner.url,
    ...(inner.versioned ? { versioned: meteredVersions(inner.versioned) } : {}),
    get: (key, range, options) =>
      count(
        'get',
        () => inner.get(key, range, options),
        read => read.length,
      ),
    head: (key, options) => count('head', () => inner.head(key, options), none),
    put: (key, body, options) => {
      const length = bodyLength(body)
      return count(
        'put',
        () => inner.put(key, body, options),
        () => length,
      )
    },
    list: (prefix, options) => counted(inner.list(prefix, options)),
    delete: (keys, options) => {
      const batches = Math.ceil(keys.length / limits.s3BatchKeys)
      return count('delete', () => inner.delete(keys, options), none, keys.length, batches)
    },
    now: options => count('now', () => inner.now(options), none),
    probe: options => count('probe', () => inner.probe(options), none),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
  return { store, meter: { figures: () => asSent(structuredClone(counters), inner.sentRequests?.()) } }
}

function asSent(counted: Record<StoreVerb, Counter>, sent: RequestCounts | undefined): StoreFigures {
  if (sent) for (const verb of storeVerbs) counted[verb].requests = sent[verb]
  return counted
}
