/**
 * Looks for rot without any key: every pack is compared with the checksums that it carries (docs/repository-format.md,
 * section 4). It finds what a disk, a line or a full file system has done. It does not find tampering: whoever changes a pack can
 * change its checksums as well, and only `verify` with a key notices.
 */
import { crc32 } from 'node:zlib'
import { isIntegrityError, isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { metaPrefix, packsPrefix, parsePackKey } from '../repository/object-keys.ts'
import { checksumBytes, checksumUnit, type PackTrailer, parseTrailer, trailerBytes } from '../repository/pack-codec.ts'
import type { ObjectInfo, ObjectStore } from '../storage/object-store.ts'

export interface ScrubProblem {
  readonly object: string
  /** 'unchecked': it could not be found out, for instance because the store did not answer. */
  readonly kind: 'corrupt' | 'absurd' | 'unchecked'
  readonly message: string
  /** Numbers of the MiB of the object that differ; absent where the object as a whole is torn. */
  readonly rotten?: readonly number[]
  /** Where the object's own description is whole. */
  readonly trailer?: PackTrailer
}

export interface ScrubResult {
  /** Packs whose every byte was read and compared. */
  readonly checked: number
  readonly bytes: number
  readonly problems: readonly ScrubProblem[]
  /** Keys in the folders of packs that no pack has. */
  readonly unknown: readonly string[]
}

export interface ScrubRequest extends AbortOptions {
  readonly store: ObjectStore
  readonly random: Random
  /** Of the packs; each that is chosen is read whole. 100 by default. */
  readonly samplePercent?: number
  readonly progress?: (done: { readonly checked: number; readonly bytes: number }) => void
}

/** Packs under way at once, a range of each in memory. */
const PACKS_AT_ONCE = 8
/** Strangers that are named; there may be any number of them. */
const UNKNOWN_NAMED = 1000

export async function scrubStored({
  store,
  random,
  samplePercent = 100,
  progress,
  signal,
}: ScrubRequest): Promise<ScrubResult> {
  const problems: ScrubProblem[] = []
  const unknown: string[] = []
  let checked = 0
  let bytes = 0
  const scrub = async (info: ObjectInfo, inner: AbortSignal) => {
    const found = await scrubPack(store, info, { signal: inner })
    if (found === 'gone') return
    if (found) problems.push(found)
    checked++
    bytes += info.size
    progress?.({ checked, bytes })
  }
  const chosen = async function* () {
    for (const prefix of [packsPrefix, metaPrefix])
      for await (const info of store.list(prefix, { signal })) {
        if (!parsePackKey(info.key)) {
          if (unknown.length < UNKNOWN_NAMED) unknown.push(info.key)
        } else if (isChosen(random, samplePercent)) yield info
      }
  }
  await forEachLimited(chosen(), PACKS_AT_ONCE, scrub, { signal })
  problems.sort((a, b) => (a.object < b.object ? -1 : 1))
  return { checked, bytes, problems, unknown }
}

function isChosen(random: Random, samplePercent: number): boolean {
  if (samplePercent >= 100) return true
  const [high = 0, low = 0] = random(2)
  return (high * 256 + low) / 65_536 < samplePercent / 100
}

async function scrubPack(
  store: ObjectStore,
  { key, size }: ObjectInfo,
  options: AbortOptions,
): Promise<ScrubProblem | 'gone' | undefined> {
  let trailer: PackTrailer | undefined
  try {
    trailer = await readTrailer(store, key, size, options)
    const rotten = await findRottenUnits(store, key, trailer, options)
    if (rotten.length === 0) return undefined
    const message = `${key} has rotted: MiB ${rotten.join(', ')} ${rotten.length === 1 ? 'is' : 'are'} not what was stored`
    return { object: key, kind: 'corrupt', message, rotten, trailer }
  } catch (error) {
    options.signal?.throwIfAborted()
    // A collector has removed it since it was listed.
    if (isLifeboatError(error, 'store-not-found')) return 'gone'
    return { object: key, kind: kindOf(error), message: messageOf(error), ...(trailer ? { trailer } : {}) }
  }
}

async function readTrailer(store: ObjectStore, key: string, size: number, options: AbortOptions): Promise<PackTrailer> {
  const range = { offset: Math.max(0, size - trailerBytes), length: trailerBytes }
  const trailer = parseTrailer(await store.get(key, range, options), size, key)
  const place = parsePackKey(key)
  const isRewritten = place?.run !== undefined
  if (place?.pack === trailer.pack && place.kind === trailer.kind && isRewritten === trailer.rewritten) return trailer
  throw torn(key, 'it is another pack than its name says')
}

async function findRottenUnits(
  store: ObjectStore,
  key: string,
  { bodyLength, footerLength, checksumsLength, checksumsCrc }: PackTrailer,
  options: AbortOptions,
): Promise<number[]> {
  const length = bodyLength + footerLength
  const checksums = await store.get(key, { offset: length, length: checksumsLength }, options)
  if (checksums.length !== checksumsLength || crc32(checksums) !== checksumsCrc)
    throw torn(key, 'its checksums are damaged')
  const rotten: number[] = []
  for (let at = 0; at < length; at += limits.getBytesMax) {
    const wanted = Math.min(limits.getBytesMax, length - at)
    const bytes = await store.get(key, { offset: at, length: wanted }, options)
    if (bytes.length !== wanted) throw torn(key, 'it is cut short')
    for (let from = 0; from < wanted; from += checksumUnit) {
      const unit = (at + from) / checksumUnit
      // On libuv's pool: the packs that are read meanwhile keep coming.
      const digest = await crypto.subtle.digest('SHA-256', bytes.subarray(from, from + checksumUnit))
      const stored = checksums.subarray(unit * checksumBytes, (unit + 1) * checksumBytes)
      if (Buffer.compare(new Uint8Array(digest), stored) !== 0) rotten.push(unit)
    }
  }
  return rotten
}

const torn = (object: string, what: string): LifeboatError =>
  new LifeboatError('corrupt-object', `pack ${object} is damaged: ${what}`, { details: { object } })

function kindOf(error: unknown): ScrubProblem['kind'] {
  if (!isIntegrityError(error)) return 'unchecked'
  return error.code === 'absurd-object' ? 'absurd' : 'corrupt'
}
