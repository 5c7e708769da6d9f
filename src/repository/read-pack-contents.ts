import { isIntegrityError, isLifeboatError } from '../core/errors.ts'
import { hex, type PackId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { packKey, rewrittenPrefix } from './object-keys.ts'
import { idPrefixBytes, type PackRows } from './pack-codec.ts'
import { PackContents } from './pack-contents.ts'
import { type PackObject, readPackRows } from './pack-object.ts'
import { epochOf } from './record-keys.ts'
import type { WriteContext } from './write-context.ts'

type Context = Pick<WriteContext, 'store' | 'keyring' | 'domain'>

export interface StoredContents {
  /** Key of the object in which they lie. */
  readonly object: string
  readonly contents: PackContents
}

/**
 * The look at a pack that WRITER step 2 asks for. Undefined where the pack is missing, damaged, of another kind or of
 * another epoch: then nothing in it is reused, which costs space and nothing else. Where it was rewritten, what is left of it is
 * reused under the names that it had: whoever reads them looks where they went (READER step 5).
 */
export async function readPackContents(
  context: Context,
  pack: PackId,
  options: AbortOptions,
): Promise<StoredContents | undefined> {
  if (epochOf(pack) !== context.domain.epoch) return undefined
  const { domain } = context.domain
  const original = await look(context, packKey('data', domain, pack), options)
  if (original === 'damaged') return undefined
  if (original) return { object: original.key, contents: new PackContents(pack, original.rows) }
  let listed = 0
  for await (const { key } of context.store.list(rewrittenPrefix('data', domain, pack), options)) {
    if (++listed > limits.rewrittenObjectsMax) return undefined
    const rewritten = await look(context, key, options)
    const rows = rewritten && rewritten !== 'damaged' && rowsOf(rewritten, pack)
    if (rows) return { object: key, contents: new PackContents(pack, rows) }
  }
  return undefined
}

async function look(context: Context, key: string, options: AbortOptions): Promise<PackObject | 'damaged' | undefined> {
  try {
    return await readPackRows(context, key, options)
  } catch (error) {
    if (isIntegrityError(error)) return 'damaged'
    if (isLifeboatError(error, 'store-not-found')) return undefined
    throw error
  }
}

/** Without records of other packs, which a repair has put there: they count for those, which may be gone. */
function rowsOf({ rows }: PackObject, pack: PackId): PackRows | undefined {
  const { origins } = rows
  if (!origins) return undefined
  const own = Array.from({ length: rows.count }, (_, row) => row).filter(
    row => hex(origins.packs.subarray(row * 16, row * 16 + 16)) === pack,
  )
  if (own.length === 0) return undefined
  if (own.length === rows.count) return rows
  const idPrefixes = new Uint8Array(own.length * idPrefixBytes)
  for (const [at, row] of own.entries())
    idPrefixes.set(rows.idPrefixes.subarray(row * idPrefixBytes, (row + 1) * idPrefixBytes), at * idPrefixBytes)
  const pick = (column: Uint32Array) => Uint32Array.from(own, row => column[row]!)
  return {
    count: own.length,
    idPrefixes,
    lengths: pick(rows.lengths),
    offsets: pick(rows.offsets),
    origins: { packs: new Uint8Array(0), slots: Uint16Array.from(own, row => origins.slots[row]!) },
  }
}
