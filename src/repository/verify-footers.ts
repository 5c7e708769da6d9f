/** Packs' own descriptions against those in the trees: readers use the trees, writers and collectors the packs. */
import { isIntegrityError, LifeboatError } from '../core/errors.ts'
import type { PackId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { openFooter } from '../crypto/footer.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { authentic } from './authentic.ts'
import { type EntrySums, footerAgrees, type PackSum } from './entry-sums.ts'
import { packKey } from './object-keys.ts'
import { footerRange, idPrefixBytes, parseRows, parseTrailer, trailerBytes } from './pack-codec.ts'
import type { PlaceSet } from './place-set.ts'
import { epochOf, RecordKeys } from './record-keys.ts'
import type { ReadContext } from './recovery-point.ts'
import type { ChunkRef } from './repository.ts'
import { RewrittenPacks } from './rewritten-packs.ts'

export interface BadFooter {
  readonly object: string
  readonly error: unknown
  /** Content id prefixes by slot: what points need of this pack, and no other object of it has. */
  readonly records: ReadonlyMap<number, Uint8Array>
}

interface Bad {
  readonly sum: PackSum
  readonly error: unknown
  readonly records: Map<number, Uint8Array>
}

export class FooterCheck {
  readonly #context: ReadContext
  readonly #sums: EntrySums
  readonly #seen: PlaceSet
  readonly #recordKeys: RecordKeys
  readonly #bad = new Map<PackId, Bad>()

  constructor(context: ReadContext, sums: EntrySums, seen: PlaceSet) {
    this.#context = context
    this.#sums = sums
    this.#seen = seen
    this.#recordKeys = new RecordKeys(context.keyring)
  }

  get hasBad(): boolean {
    return this.#bad.size > 0
  }

  async run(options: AbortOptions): Promise<void> {
    const check = async ([pack, sum]: [PackId, PackSum], signal: AbortSignal) => {
      try {
        const { store } = this.#context
        const object = packKey(sum.kind, sum.domain, pack)
        await authentic(store, object, from => this.#check(from, pack, sum, { signal }), { signal })
      } catch (error) {
        signal.throwIfAborted()
        this.#bad.set(pack, { sum, error, records: new Map() })
      }
    }
    await forEachLimited(this.#sums, limits.getsInFlight, check, options)
  }

  /** A record that some point needs, told in a second walk. */
  note({ pack, slot, id }: ChunkRef): void {
    this.#bad.get(pack)?.records.set(slot, id.slice(0, idPrefixBytes))
  }

  async unhealed(options: AbortOptions): Promise<readonly BadFooter[]> {
    const { store, keyring } = this.#context
    const left: BadFooter[] = []
    for (const [pack, { sum, error, records }] of this.#bad) {
      const { kind, domain } = sum
      const object = packKey(kind, domain, pack)
      const { repository } = keyring.repository
      const rewritten = new RewrittenPacks({ store, repository, recordKeys: this.#recordKeys })
      if (isIntegrityError(error)) await rewritten.refresh(kind, domain, pack, options)
      const lost = [...records].filter(([, id]) => rewritten.copies(kind, domain, pack, id).length === 0)
      if (lost.length > 0) left.push({ object, error, records: new Map(lost) })
    }
    return left
  }

  async #check(store: ObjectStore, pack: PackId, sum: PackSum, options: AbortOptions): Promise<void> {
    const { keyring } = this.#context
    const object = packKey(sum.kind, sum.domain, pack)
    const info = await store.head(object, options)
    // Its records were found in rewritten objects, or are reported as missing.
    if (!info) return
    const tail = { offset: Math.max(0, info.size - trailerBytes), length: trailerBytes }
    const trailer = parseTrailer(await store.get(object, tail, options), info.size, object)
    if (trailer.kind !== sum.kind || trailer.pack !== pack || trailer.rewritten || trailer.epoch !== epochOf(pack))
      throw disagrees(object, 'is another pack than its name says')
    const { metadataKey } = await this.#recordKeys.domain(sum.domain, pack, options)
    const footer = await store.get(object, footerRange(trailer), options)
    const sealedFor = { repository: keyring.repository.repository, objectKey: object }
    const rows = parseRows(openFooter(sealedFor, metadataKey, footer), trailer, object)
    if (!footerAgrees(rows, sum, slot => this.#seen.has({ pack, slot })))
      throw disagrees(object, 'lists other records than the trees that point to it')
  }
}

const disagrees = (object: string, what: string): LifeboatError =>
  new LifeboatError('corrupt-object', `${object} ${what}`, { details: { object } })
