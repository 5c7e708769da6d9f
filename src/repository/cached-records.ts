/** Records from this host's cache: opened like those of the store, and left to the store where they are not good. */
import { LifeboatError } from '../core/errors.ts'
import type { RepositoryId } from '../core/ids.ts'
import type { AbortOptions } from '../core/scope.ts'
import { packKey } from './object-keys.ts'
import type { RecordCache, RecordName } from './record-cache.ts'
import type { RecordOpener, RecordRequest } from './record-opener.ts'
import type { RecordReceiver } from './record-reader.ts'
import type { ChunkRef } from './repository.ts'

export interface CachedRecordsOptions {
  readonly cache: RecordCache
  readonly repository: RepositoryId
  readonly opener: RecordOpener
}

interface Found {
  readonly ref: ChunkRef
  readonly stored: Uint8Array
}

export class CachedRecords {
  readonly #cache: RecordCache
  readonly #repository: RepositoryId
  readonly #opener: RecordOpener

  constructor({ cache, repository, opener }: CachedRecordsOptions) {
    this.#cache = cache
    this.#repository = repository
    this.#opener = opener
  }

  has(request: RecordRequest, ref: ChunkRef): boolean {
    return this.#cache.has(this.#nameOf(request, ref))
  }

  keep(request: RecordRequest, ref: ChunkRef, stored: Uint8Array): void {
    this.#cache.keep(this.#nameOf(request, ref), stored)
  }

  /** Delivers what is there and opens; gives the others. An interruption and a missing key are for who asks the store. */
  async read(
    request: RecordRequest,
    refs: readonly ChunkRef[],
    receiver: RecordReceiver,
    options: AbortOptions,
  ): Promise<ChunkRef[]> {
    const there = await this.#find(request, refs, options)
    const opened = await this.#open(request, there, options)
    const left = new Set(refs)
    for (const [n, content] of opened.entries()) {
      const { ref } = there[n]!
      if (content instanceof LifeboatError) {
        this.#cache.refuse(this.#nameOf(request, ref))
        continue
      }
      left.delete(ref)
      receiver.deliver(ref, content, 'host')
    }
    return [...left]
  }

  async #find(request: RecordRequest, refs: readonly ChunkRef[], options: AbortOptions): Promise<Found[]> {
    const names = refs.map(ref => this.#nameOf(request, ref))
    const found = await this.#cache.read(names, options).catch(() => [])
    return refs.flatMap((ref, n) => (found[n] ? [{ ref, stored: found[n] }] : []))
  }

  async #open(request: RecordRequest, there: readonly Found[], options: AbortOptions) {
    if (there.length === 0) return []
    const sealed = there.map(({ ref, stored }) => {
      const object = packKey(request.kind, request.domain, ref.pack)
      const goesTo = { target: request.targetOf?.(ref), offsets: request.sink?.offsetsOf(ref) }
      return { object, pack: ref.pack, slot: ref.slot, id: ref.id, stored, ...goesTo }
    })
    return await this.#opener.open(request, sealed, options).catch(() => [])
  }

  #nameOf({ kind }: RecordRequest, { pack, slot }: ChunkRef): RecordName {
    return { repository: this.#repository, kind, pack, slot }
  }
}
