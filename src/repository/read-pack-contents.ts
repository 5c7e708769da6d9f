import { isIntegrityError, isLifeboatError } from '../core/errors.ts'
import type { PackId } from '../core/ids.ts'
import { KiB } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { openFooter } from '../crypto/footer.ts'
import { packKey } from './object-keys.ts'
import { footerRange, parseRows, parseTrailer, trailerBytes } from './pack-codec.ts'
import { PackContents } from './pack-contents.ts'
import type { WriteContext } from './write-context.ts'

/** Footer, checksums and trailer of a pack of 2,700 records: in most cases everything with one GET. */
const TAIL_BYTES = 64 * KiB

/**
 * The look at a pack that WRITER step 2 asks for. Undefined where the pack is missing, damaged, of another kind or of
 * another epoch: then nothing in it is reused, which costs space and nothing else.
 */
export async function readPackContents(
  { store, keys, domain }: Pick<WriteContext, 'store' | 'keys' | 'domain'>,
  pack: PackId,
  options: AbortOptions,
): Promise<PackContents | undefined> {
  if (Number.parseInt(pack.slice(0, 2), 16) !== domain.epoch) return undefined
  const object = packKey('data', domain.domain, pack)
  try {
    const info = await store.head(object, options)
    if (!info) return undefined
    const tailAt = Math.max(0, info.size - TAIL_BYTES)
    const tail = await store.get(object, { offset: tailAt, length: info.size - tailAt }, options)
    const trailer = parseTrailer(tail.subarray(Math.max(0, tail.length - trailerBytes)), info.size, object)
    if (trailer.kind !== 'data' || trailer.pack !== pack || trailer.rewritten) return undefined
    const range = footerRange(trailer)
    const footer =
      range.offset >= tailAt
        ? tail.subarray(range.offset - tailAt, range.offset - tailAt + range.length)
        : await store.get(object, range, options)
    const place = { repository: keys.repository, objectKey: object }
    return new PackContents(pack, parseRows(openFooter(place, domain.metadataKey, footer), trailer, object))
  } catch (error) {
    if (isIntegrityError(error) || isLifeboatError(error, 'store-not-found')) return undefined
    throw error
  }
}
