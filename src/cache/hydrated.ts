/**
 * A point's disk that is being copied to this host: what is there is read there, what is not comes from `source` and is copied on
 * the way. Where a page of the copy is whole, its source is not asked at all, not even where chunks lie.
 */
import { LifeboatError, messageOf } from '../core/errors.ts'
import { packId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import type { ChunkRef, ChunkSource, ChunkSpan, ContentOrigin } from '../repository/repository.ts'
import type { LocalCopy } from './local-copy.ts'
import { PAGE_CHUNKS, type TablePage } from './local-table.ts'

/** A chunk that the copy itself tells of; its place in the disk is `slot`. */
interface LocalRef extends ChunkRef {
  readonly sum: bigint
}

/** No pack of a store: these are random. */
const LOCAL = packId('00'.repeat(16))

const isLocal = (ref: ChunkRef): ref is LocalRef => ref.pack === LOCAL

type Deliver = (ref: ChunkRef, content: Uint8Array, from?: ContentOrigin) => void

/** `source` shows the point that the copy was last begun for. It stays the caller's, as the copy does. */
export const hydrated = (source: ChunkSource, copy: LocalCopy): ChunkSource => new HydratedChunks(source, copy)

class HydratedChunks implements ChunkSource {
  readonly size: number
  readonly chunkSize: number
  readonly #source: ChunkSource
  readonly #copy: LocalCopy
  readonly #generation: object
  /** Where the chunks lie that the source has told of. One that lies at several places is copied to one of them. */
  readonly #places = new WeakMap<ChunkRef, number>()
  readonly #refs = new WeakMap<TablePage, (LocalRef | undefined)[]>()

  constructor(source: ChunkSource, copy: LocalCopy) {
    this.size = source.size
    this.chunkSize = source.chunkSize
    this.#source = source
    this.#copy = copy
    this.#generation = copy.generation
  }

  locateNow(first: number, count: number): readonly (ChunkRef | undefined)[] | undefined {
    if (first < 0 || first + count > Math.ceil(this.size / this.chunkSize)) return this.#source.locateNow(first, count)
    const refs: (ChunkRef | undefined)[] = []
    for (const part of pagesOf(first, count)) {
      const page = this.#copy.table.pageNow(part.page)
      if (!page && this.#copy.table.isWhole(part.page)) return undefined
      const found =
        page && this.#mayBelieve(page)
          ? this.#refsOf(page, part)
          : this.#placed(part.first, this.#source.locateNow(part.first, part.count))
      if (!found) return undefined
      for (const ref of found) refs.push(ref)
    }
    return refs
  }

  async locate(first: number, count: number, options: AbortOptions = {}): Promise<readonly (ChunkRef | undefined)[]> {
    if (first < 0 || first + count > Math.ceil(this.size / this.chunkSize))
      return this.#source.locate(first, count, options)
    const refs: (ChunkRef | undefined)[] = []
    for (const part of pagesOf(first, count)) {
      const page = await this.#wholePage(part.page)
      const found = page
        ? this.#refsOf(page, part)
        : this.#placed(part.first, await this.#source.locate(part.first, part.count, options))
      for (const ref of found ?? []) refs.push(ref)
    }
    return refs
  }

  async *spans(first: number, count: number, options: AbortOptions = {}): AsyncIterable<ChunkSpan> {
    for (const part of pagesOf(first, count)) {
      const page = await this.#wholePage(part.page)
      if (!page && this.#source.spans) yield* this.#source.spans(part.first, part.count, options)
      else
        for (const [i, ref] of (await this.locate(part.first, part.count, options)).entries())
          yield { first: part.first + i, count: 1, isPresent: ref !== undefined }
    }
  }

  async fetch(refs: readonly ChunkRef[], deliver: Deliver, options: AbortOptions = {}): Promise<void> {
    const absent: ChunkRef[] = []
    const { signal } = options
    const read = async (ref: ChunkRef) => {
      const content = await this.#read(ref)
      signal?.throwIfAborted()
      if (content) deliver(ref, content, 'host')
      else absent.push(ref)
    }
    await forEachLimited(refs, limits.hydrateReadsInFlight, read, { signal })
    const damaged = absent.filter(isLocal)
    const others = absent.filter(ref => !isLocal(ref))
    await Promise.all([
      others.length > 0 && this.#source.fetch(others, this.#copying(deliver), { signal }),
      damaged.length > 0 && this.#fetchDamaged(damaged, deliver, { signal }),
    ])
  }

  #read(ref: ChunkRef): Promise<Uint8Array | undefined> {
    if (isLocal(ref)) return this.#copy.readSummed(ref.slot, ref.sum)
    const chunk = this.#places.get(ref)
    return chunk === undefined ? Promise.resolve(undefined) : this.#copy.read(chunk, ref.id)
  }

  /** What the copy says that it has and has not: from the source after all, and put right. */
  async #fetchDamaged(refs: readonly LocalRef[], deliver: Deliver, options: AbortOptions): Promise<void> {
    try {
      const wanted = new Map<ChunkRef, LocalRef>()
      for (const ref of refs) {
        const [found] = await this.#source.locate(ref.slot, 1, options)
        if (!found || Buffer.compare(found.id, ref.id) !== 0) throw new Error('the point has another chunk there')
        this.#places.set(found, ref.slot)
        wanted.set(found, ref)
      }
      const deliverAs: Deliver = (found, content, from) => deliver(wanted.get(found) ?? found, content, from)
      await this.#source.fetch([...wanted.keys()], this.#copying(deliverAs), options)
    } catch (cause) {
      options.signal?.throwIfAborted()
      const { slot } = refs[0]!
      const { name } = this.#copy
      const message = `chunk ${slot} in ${name} is damaged, and cannot be fetched again: ${messageOf(cause)}`
      throw new LifeboatError('local-copy-damaged', message, {
        details: { object: name, chunk: slot },
        hint: 'Check the disk below it. When the repository can be reached, the chunk is fetched anew by the next read.',
        cause,
      })
    }
  }

  #copying(deliver: Deliver): Deliver {
    return (ref, content, from) => {
      const chunk = this.#places.get(ref)
      if (chunk !== undefined) this.#copy.putSoon(chunk, ref.id, content, this.#generation)
      deliver(ref, content, from)
    }
  }

  /** A point that came after this one may have begun to be copied. */
  #mayBelieve(page: TablePage): boolean {
    return page.isWhole && this.#copy.generation === this.#generation
  }

  async #wholePage(index: number): Promise<TablePage | undefined> {
    if (!this.#copy.table.isWhole(index)) return undefined
    // A table that cannot be read is one that says nothing.
    const page = await this.#copy.table.page(index).catch(() => undefined)
    return page && this.#mayBelieve(page) ? page : undefined
  }

  #placed(first: number, refs: readonly (ChunkRef | undefined)[] | undefined) {
    if (refs) for (const [i, ref] of refs.entries()) if (ref && !this.#places.has(ref)) this.#places.set(ref, first + i)
    return refs
  }

  #refsOf(page: TablePage, { first, count }: PagePart): readonly (ChunkRef | undefined)[] {
    const start = first % PAGE_CHUNKS
    const known = this.#refs.get(page) ?? []
    this.#refs.set(page, known)
    const refs: (ChunkRef | undefined)[] = []
    for (let index = start; index < start + count; index++) {
      const chunk = first - start + index
      known[index] ??= this.#refOf(page, index, chunk)
      refs.push(known[index])
    }
    return refs
  }

  #refOf(page: TablePage, index: number, chunk: number): LocalRef | undefined {
    const entry = page.entry(index)
    if (!entry) return undefined
    const { chunkSize } = this
    // The page's memory may come to tell of another point.
    return {
      sum: entry.sum,
      id: Uint8Array.from(entry.id),
      pack: LOCAL,
      slot: chunk,
      offset: chunk * chunkSize,
      length: chunkSize,
    }
  }
}

interface PagePart {
  readonly page: number
  readonly first: number
  readonly count: number
}

function* pagesOf(first: number, count: number): Generator<PagePart> {
  for (let at = first; at < first + count; ) {
    const page = Math.floor(at / PAGE_CHUNKS)
    const end = Math.min(first + count, (page + 1) * PAGE_CHUNKS)
    yield { page, first: at, count: end - at }
    at = end
  }
}
