/**
 * Where a record went when its pack was rewritten: objects `<pack>.<run>` hold copies of records, each naming the pack and
 * slot that it was sealed for (docs/repository-format.md, sections 4 and 5).
 */
import { LRUCache } from 'lru-cache'
import { isIntegrityError, isLifeboatError, LifeboatError } from '../core/errors.ts'
import { type DomainId, hex, type PackId, packId, type RepositoryId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { openFooter } from '../crypto/footer.ts'
import type { ObjectInfo, ObjectStore } from '../storage/object-store.ts'
import { authentic } from './authentic.ts'
import { rewrittenPrefix } from './object-keys.ts'
import {
  footerRange,
  idPrefixBytes,
  type PackKind,
  type PackRows,
  parseRows,
  parseTrailer,
  trailerBytes,
} from './pack-codec.ts'
import { epochOf, type RecordKeys } from './record-keys.ts'

/** A record in a rewritten object. `pack` and `slot` are those that it was sealed for. */
export interface RecordCopy {
  readonly object: string
  readonly pack: PackId
  readonly slot: number
  readonly offset: number
  readonly length: number
}

interface RewrittenObject {
  readonly object: string
  /** Absent where the object could not be used; it is tried again at each refresh. */
  readonly rows?: PackRows
  readonly failure?: LifeboatError
  /** Content id prefix -> row. A copy of the same content under another origin is as good. */
  readonly byContent: ReadonlyMap<string, number>
  /** The other rows of a content that is there more than once: what was repaired and then compacted. */
  readonly more: ReadonlyMap<string, readonly number[]>
}

export interface RewrittenSource {
  readonly store: ObjectStore
  readonly repository: RepositoryId
  readonly recordKeys: RecordKeys
}

export class RewrittenPacks {
  readonly #source: RewrittenSource
  readonly #known = new LRUCache<string, readonly RewrittenObject[]>({ max: limits.footerCacheCount })

  constructor(source: RewrittenSource) {
    this.#source = source
  }

  /** Whether objects of this pack are at hand, so that the original need not be asked for first. */
  isKnown(kind: PackKind, domain: DomainId, pack: PackId): boolean {
    return this.#known.has(rewrittenPrefix(kind, domain, pack))
  }

  /** Copies of a content in the objects that are known; none without `refresh`. */
  copies(kind: PackKind, domain: DomainId, pack: PackId, id: Uint8Array): readonly RecordCopy[] {
    const name = prefixOf(id)
    return (this.#known.get(rewrittenPrefix(kind, domain, pack)) ?? []).flatMap(({ object, rows, byContent, more }) => {
      const row = byContent.get(name)
      if (row === undefined || !rows) return []
      return [row, ...(more.get(name) ?? [])].map(each => copyOf(object, rows, each, pack))
    })
  }

  /** Why a known object of this pack could not be used, if one could not: a copy in it may be what is looked for. */
  failure(kind: PackKind, domain: DomainId, pack: PackId): LifeboatError | undefined {
    return this.#known.get(rewrittenPrefix(kind, domain, pack))?.find(object => object.failure)?.failure
  }

  /**
   * Lists the pack's objects and reads the footers of those that are new; whether there was any. A damaged one is passed
   * over (another may hold the same record). One that is gone before it could be read is news as well: a compaction has put
   * its records elsewhere, perhaps under a name that this listing had passed already.
   */
  async refresh(kind: PackKind, domain: DomainId, pack: PackId, options: AbortOptions): Promise<boolean> {
    const prefix = rewrittenPrefix(kind, domain, pack)
    const before = new Map((this.#known.get(prefix) ?? []).map(object => [object.object, object]))
    const now: RewrittenObject[] = []
    let isNew = false
    for await (const info of this.#source.store.list(prefix, options)) {
      if (now.length >= limits.rewrittenObjectsMax)
        throw new LifeboatError('absurd-object', `${prefix}* names more than ${limits.rewrittenObjectsMax} objects`, {
          details: { object: info.key },
        })
      const known = before.get(info.key)
      const read = known?.rows ? known : await this.#read(kind, domain, pack, info, options)
      if (read) now.push(read)
      if (read && !known) isNew = true
    }
    this.#known.set(prefix, now)
    return isNew
  }

  async #read(
    kind: PackKind,
    domain: DomainId,
    pack: PackId,
    { key: object, size }: ObjectInfo,
    options: AbortOptions,
  ): Promise<RewrittenObject | undefined> {
    try {
      return await authentic(
        this.#source.store,
        object,
        (store, version) =>
          this.#open(store, kind, domain, pack, { key: object, size: version?.size ?? size }, options),
        options,
      )
    } catch (error) {
      if (isLifeboatError(error, 'store-not-found')) return { object, byContent: new Map(), more: new Map() }
      if (isIntegrityError(error)) return { object, failure: error, byContent: new Map(), more: new Map() }
      throw error
    }
  }

  /** Throws an integrity error. */
  async #open(
    store: ObjectStore,
    kind: PackKind,
    domain: DomainId,
    pack: PackId,
    { key: object, size }: Pick<ObjectInfo, 'key' | 'size'>,
    options: AbortOptions,
  ): Promise<RewrittenObject | undefined> {
    const { repository, recordKeys } = this.#source
    const tail = { offset: Math.max(0, size - trailerBytes), length: trailerBytes }
    const trailer = parseTrailer(await store.get(object, tail, options), size, object)
    if (trailer.kind !== kind || trailer.pack !== pack || trailer.epoch !== epochOf(pack)) return undefined
    const footer = await store.get(object, footerRange(trailer), options)
    const { metadataKey } = await recordKeys.domain(domain, pack, options)
    const rows = parseRows(openFooter({ repository, objectKey: object }, metadataKey, footer), trailer, object)
    return { object, rows, ...indexRows(rows) }
  }
}

const prefixOf = (id: Uint8Array, at = 0): string =>
  Buffer.from(id.buffer, id.byteOffset + at, idPrefixBytes).toString('latin1')

function indexRows(rows: PackRows): Pick<RewrittenObject, 'byContent' | 'more'> {
  const byContent = new Map<string, number>()
  const more = new Map<string, number[]>()
  for (let row = 0; row < rows.count; row++) {
    const name = prefixOf(rows.idPrefixes, row * idPrefixBytes)
    if (!byContent.has(name)) byContent.set(name, row)
    else more.set(name, [...(more.get(name) ?? []), row])
  }
  return { byContent, more }
}

function copyOf(object: string, rows: PackRows, row: number, pack: PackId): RecordCopy {
  const { origins } = rows
  return {
    object,
    pack: origins ? packId(hex(origins.packs.subarray(row * 16, row * 16 + 16))) : pack,
    slot: origins ? origins.slots[row]! : row,
    offset: rows.offsets[row]!,
    length: rows.lengths[row]!,
  }
}
