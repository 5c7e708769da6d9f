/**
 * Small sealed JSON documents: leases, pins, marks, records of GC runs (docs/repository-format.md, section 8). Each is
 * sealed for its full key, so that none can be forged or change places.
 */
import { isIntegrityError, isLifeboatError, LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import { openEnvelope, sealEnvelope } from '../crypto/envelope.ts'
import type { EnvelopeKind, RepositoryKeys } from '../crypto/keys.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { authentic } from './authentic.ts'
import { JsonFields, type JsonObject, parseJsonObject } from './json-fields.ts'

export type ControlKind = Exclude<EnvelopeKind, 'domain-metadata' | 'domain-data' | 'manifest' | 'index'>

const FOLDERS: Readonly<Record<ControlKind, string>> = {
  lease: 'leases/',
  pin: 'pins/',
  hold: 'holds/',
  forgotten: 'forgotten/',
  fence: 'fences/',
  gc: 'gc/',
  damaged: 'damaged/',
  audit: 'audit/',
  policy: 'policies/',
  'lock-ledger': 'locks/',
  claim: 'claims/',
  trace: 'traces/',
}

/** A run may condemn a good part of all packs, and a ledger name all that it extended. */
function maxBytesOf(kind: ControlKind): number {
  if (kind === 'damaged') return limits.damageMarkMax
  if (kind === 'trace') return limits.traceBytesMax + limits.controlObjectMax
  return kind === 'gc' || kind === 'lock-ledger' ? limits.runRecordMax : limits.controlObjectMax
}

export interface ControlObjects {
  put(kind: ControlKind, key: string, document: JsonObject, options?: AbortOptions): Promise<void>
  /** Undefined where it is absent; 'corrupt-object' where it does not authenticate. */
  get(kind: ControlKind, key: string, options?: AbortOptions): Promise<JsonFields | undefined>
  /** Keys only, those of `prefix` or of the whole kind: whether an object exists often says enough. */
  list(kind: ControlKind, options?: { prefix?: string } & AbortOptions): AsyncIterable<string>
  delete(keys: readonly string[], options?: AbortOptions): Promise<void>
}

export interface ControlOptions {
  /**
   * Marks and fences that do not authenticate count as absent: where points are locked, whoever may only write could otherwise
   * take every point away by planting them.
   */
  readonly ignoresPlanted?: boolean
}

export function controlObjects(
  store: ObjectStore,
  keys: RepositoryKeys,
  random: Random,
  { ignoresPlanted = false }: ControlOptions = {},
): ControlObjects {
  const placeOf = (kind: ControlKind, objectKey: string) => {
    if (!objectKey.startsWith(FOLDERS[kind]))
      throw new LifeboatError('internal', `${objectKey} is no place for a ${kind}`)
    return { repository: keys.repository, kind, objectKey }
  }
  const read = async (from: ObjectStore, kind: ControlKind, key: string, options: AbortOptions | undefined) => {
    const place = placeOf(kind, key)
    const bytes = await getBounded(from, key, maxBytesOf(kind), options)
    if (!bytes) return undefined
    return new JsonFields(parseJsonObject(openEnvelope(place, keys.metadata, bytes), key), key)
  }
  const get: ControlObjects['get'] = async (kind, key, options) => {
    try {
      return await authentic(store, key, from => read(from, kind, key, options), options)
    } catch (error) {
      if (ignoresPlanted && MARKS.has(kind) && isIntegrityError(error)) return undefined
      throw error
    }
  }
  return {
    async put(kind, key, document, options) {
      const plaintext = new TextEncoder().encode(JSON.stringify(document))
      await store.put(key, [sealEnvelope(placeOf(kind, key), keys.metadata, plaintext, random)], options)
    },

    get,

    async *list(kind, { prefix = FOLDERS[kind], signal } = {}) {
      const isDoubted = ignoresPlanted && MARKS.has(kind)
      for await (const { key } of store.list(prefix, { signal }))
        if (!isDoubted || (await get(kind, key, { signal }))) yield key
    },

    delete: (keys, options) => store.delete(keys, options),
  }
}

/** Kinds whose mere presence takes a point away. */
const MARKS: ReadonlySet<ControlKind> = new Set(['forgotten', 'fence'])

/** The object if it has at most `max` bytes, undefined if it is absent. Asks for one byte more than `max`, never for all. */
export async function getBounded(
  store: ObjectStore,
  key: string,
  max: number,
  options?: AbortOptions,
): Promise<Uint8Array | undefined> {
  let bytes: Uint8Array
  try {
    bytes = await store.get(key, { offset: 0, length: max + 1 }, options)
  } catch (error) {
    if (isLifeboatError(error, 'store-not-found')) return undefined
    throw error
  }
  if (bytes.length > max)
    throw new LifeboatError('absurd-object', `${key} has more than ${max} bytes`, { details: { object: key } })
  return bytes
}
