/** A pack as a stored object, read with metadata keys alone: its rows, and for who copies it all of it. */
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { openFooter } from '../crypto/footer.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { getBounded } from './control-object.ts'
import type { Keyring } from './keyring.ts'
import { parsePackKey } from './object-keys.ts'
import {
  findRot,
  footerRange,
  type PackRows,
  type PackTrailer,
  parseRows,
  parseTrailer,
  trailerBytes,
} from './pack-codec.ts'

interface Context {
  readonly store: ObjectStore
  readonly keyring: Keyring
}

/** Footer, checksums and trailer of most packs in one GET. */
const TAIL_BYTES = 64 * 1024

export interface PackObject {
  readonly key: string
  readonly trailer: PackTrailer
  readonly rows: PackRows
}

export interface WholePack extends PackObject {
  readonly body: Uint8Array
  /** Of the object. */
  readonly size: number
}

/** Undefined where it is absent; an integrity error where it is damaged or not what its key says. */
export async function readPackRows(
  context: Context,
  key: string,
  options: AbortOptions,
): Promise<PackObject | undefined> {
  const info = await context.store.head(key, options)
  if (!info) return undefined
  const tailAt = Math.max(0, info.size - TAIL_BYTES)
  try {
    const tail = await context.store.get(key, { offset: tailAt, length: info.size - tailAt }, options)
    const trailer = trailerOf(key, tail, info.size)
    const { offset, length } = footerRange(trailer)
    const footer =
      offset >= tailAt
        ? tail.subarray(offset - tailAt, offset - tailAt + length)
        : await context.store.get(key, { offset, length }, options)
    return { key, trailer, rows: await rowsOf(context, key, trailer, footer, options) }
  } catch (error) {
    // A collection has removed it since the first question.
    if (isLifeboatError(error, 'store-not-found')) return undefined
    throw error
  }
}

/** The same with the body, every stored byte compared with the object's own checksums. */
export async function readWholePack(
  context: Context,
  key: string,
  options: AbortOptions,
): Promise<WholePack | undefined> {
  const bytes = await getBounded(context.store, key, limits.packObjectMax, options)
  if (!bytes) return undefined
  const trailer = trailerOf(key, bytes, bytes.length)
  const { offset, length } = footerRange(trailer)
  const body = bytes.subarray(0, offset)
  const footer = bytes.subarray(offset, offset + length)
  const checksums = bytes.subarray(offset + length, offset + length + trailer.checksumsLength)
  const rotten = findRot([body, footer], checksums, trailer, key)
  if (rotten.length > 0)
    throw new LifeboatError('corrupt-object', `pack ${key} is damaged in MiB ${rotten.join(', ')}`, {
      details: { object: key },
      hint: 'Run `lifeboat verify` to see which points it harms.',
    })
  return { key, trailer, rows: await rowsOf(context, key, trailer, footer, options), body, size: bytes.length }
}

function trailerOf(key: string, tail: Uint8Array, size: number): PackTrailer {
  const trailer = parseTrailer(tail.subarray(Math.max(0, tail.length - trailerBytes)), size, key)
  const place = parsePackKey(key)
  const isItself =
    trailer.pack === place?.pack && trailer.kind === place.kind && trailer.rewritten === (place.run !== undefined)
  if (isItself) return trailer
  throw new LifeboatError('absurd-object', `${key} holds another pack`, { details: { object: key } })
}

async function rowsOf(
  { keyring }: Context,
  key: string,
  trailer: PackTrailer,
  footer: Uint8Array,
  options: AbortOptions,
): Promise<PackRows> {
  const place = parsePackKey(key)
  if (!place) throw new LifeboatError('internal', `${key} is no pack`)
  const { metadataKey } = await keyring.domainKeys(place.domain, trailer.epoch, options)
  const sealed = { repository: keyring.repository.repository, objectKey: key }
  return parseRows(openFooter(sealed, metadataKey, footer), trailer, key)
}
