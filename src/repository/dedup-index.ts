/**
 * Finds contents that are stored already, here or by other backups (docs/repository-format.md, section 7). Sparse: one id in 64
 * leads to a pack, the pack's footer tells of all its contents. Decided for a window of chunks at a time, because
 * one hook found vouches for its neighbours.
 */
import { LRUCache } from 'lru-cache'
import { isIntegrityError, isLifeboatError } from '../core/errors.ts'
import type { DomainId, PackId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { openEnvelope } from '../crypto/envelope.ts'
import type { ObjectInfo } from '../storage/object-store.ts'
import { getBounded } from './control-object.ts'
import { HookTable } from './hook-table.ts'
import { IndexBuilder, isHook, parseIndex } from './index-codec.ts'
import type { TreeEntry } from './node-writer.ts'
import { indexPrefix } from './object-keys.ts'
import type { PlacedRecord } from './open-pack.ts'
import { idPrefixBytes } from './pack-codec.ts'
import { PackContents } from './pack-contents.ts'
import type { ClosedPack } from './pack-writer.ts'
import type { PointLocks } from './point-locks.ts'
import { readPackContents } from './read-pack-contents.ts'
import type { ReuseRules } from './reuse-rules.ts'
import type { WriteContext } from './write-context.ts'

export interface DedupOptions {
  readonly rules: ReuseRules
  /** Where the repository promises locks. */
  readonly locks: PointLocks | undefined
  /** Settles when a pack of this backup that is on its way is stored. */
  readonly whenStored: (pack: PackId) => Promise<void>
  /** New chunks that are stored without asking others' indexes first: reading those does not pay for a small increment. */
  readonly chunksBeforeLoading: number
}

type Place = (id: Uint8Array) => TreeEntry | undefined

export class DedupIndex {
  readonly #context: WriteContext
  readonly #options: DedupOptions
  readonly #hooks = new HookTable()
  readonly #own = new IndexBuilder()
  /** The open pack's records, all of them. */
  readonly #open = new Map<string, PlacedRecord>()
  /** With each pack's number in the table, where successors follow each other. Nothing else is kept by pack: a TiB has 65,000. */
  readonly #contents = new LRUCache<PackId, { readonly number: number; readonly contents: PackContents }>({
    max: limits.footerCacheCount,
  })
  /** Numbers of packs that were looked at once: missing or unusable. */
  readonly #unusable = new Set<number>()
  /** Numbers of others' packs; those before and after are our own. */
  #others: { readonly first: number; readonly end: number } = { first: 0, end: 0 }
  #asked = 0
  #isLoaded = false

  constructor(context: WriteContext, options: DedupOptions) {
    this.#context = context
    this.#options = options
  }

  /** Prepares answers for these ids (32 bytes each), which follow each other in a disk. The function is good until the next call. */
  async look(ids: readonly Uint8Array[], options: AbortOptions = {}): Promise<Place> {
    this.#asked += ids.length
    if (!this.#isLoaded && this.#asked > this.#options.chunksBeforeLoading) await this.#load(options)
    const wanted = new Set<number>()
    for (const id of ids) {
      const pack = isHook(id) && !this.#open.has(nameOf(id)) ? this.#hooks.find(id) : -1
      if (pack >= 0) wanted.add(pack)
    }
    for (const number of [...wanted].slice(0, limits.footerCacheCount)) await this.#read(number, options)
    await this.#readSuccessors(ids, wanted, options)
    return id => this.#find(id)
  }

  /** A record that was entered into the open pack. */
  added(record: PlacedRecord): void {
    this.#open.set(nameOf(record.id), record)
  }

  closed(pack: ClosedPack): void {
    this.#open.clear()
    this.#own.add(pack.id, pack.ids)
    const number = this.#hooks.addPack(pack.id)
    for (let at = 0; at < pack.ids.length; at += 32) if (isHook(pack.ids, at)) this.#hooks.add(pack.ids, at, number)
    this.#contents.set(pack.id, { number, contents: contentsOf(pack) })
  }

  /** What goes to `index/<lease>`; undefined where this backup stored no chunk. */
  encode(domain: DomainId): Uint8Array | undefined {
    return this.#own.packCount === 0 ? undefined : this.#own.encode(domain)
  }

  #find(id: Uint8Array): TreeEntry | undefined {
    const open = this.#open.get(nameOf(id))
    if (open) return open
    for (const { contents } of this.#contents.values()) {
      const ref = contents.find(id)
      if (ref && this.#options.rules.mayReuse(ref.pack, ref.slot)) return ref
    }
    return undefined
  }

  /** Duplicates come in the order in which they were written: when the end of a pack is reached, its successor is next. */
  async #readSuccessors(ids: readonly Uint8Array[], seen: ReadonlySet<number>, options: AbortOptions): Promise<void> {
    const last = ids.at(-1)
    if (!last) return
    for (const { number, contents } of this.#contents.values()) {
      const ref = contents.find(last)
      if (!ref || ref.slot + ids.length < contents.count) continue
      if (!seen.has(number + 1)) await this.#read(number + 1, options)
      return
    }
  }

  async #read(number: number, options: AbortOptions): Promise<void> {
    const pack = this.#hooks.packAt(number)
    if (pack === undefined || this.#unusable.has(number) || !this.#options.rules.mayReadPack(pack)) return
    if (this.#contents.get(pack)) return
    // Whether a pack of our own has arrived must not decide what is written: the same input gives the same objects.
    const isOwn = number < this.#others.first || number >= this.#others.end
    if (isOwn) await this.#options.whenStored(pack)
    const stored = await readPackContents(this.#context, pack, options)
    if (stored && (await this.#keepsItsLock(stored.object, options)))
      this.#contents.set(pack, { number, contents: stored.contents })
    else this.#unusable.add(number)
  }

  /** To be asked after the look at the pack: one that is gone has no lock. */
  async #keepsItsLock(object: string, options: AbortOptions): Promise<boolean> {
    return (await this.#options.locks?.mayReuse(object, options)) ?? true
  }

  async #load(options: AbortOptions): Promise<void> {
    this.#isLoaded = true
    const first = this.#hooks.packCount
    await this.#loadAll(options)
    this.#others = { first, end: this.#hooks.packCount }
  }

  async #loadAll(options: AbortOptions): Promise<void> {
    const { store, keys, domain } = this.#context
    const found: ObjectInfo[] = []
    for await (const info of store.list(indexPrefix, options)) found.push(info)
    // Newest first: they vouch for what most likely still exists.
    found.sort((a, b) => b.modifiedAt.getTime() - a.modifiedAt.getTime() || (a.key < b.key ? -1 : 1))
    for (const { key, size } of found) {
      if (this.#hooks.isFull) return
      if (size > limits.indexObjectMax) continue
      try {
        const bytes = await getBounded(store, key, limits.indexObjectMax, options)
        if (!bytes) continue
        const place = { repository: keys.repository, kind: 'index', objectKey: key } as const
        const index = parseIndex(openEnvelope(place, keys.metadata, bytes), key)
        if (index.domain !== domain.domain) continue
        const numbers = index.packs.map(pack => this.#hooks.addPack(pack))
        this.#hooks.addAll(index.hooks, numbers[0] ?? 0)
      } catch (error) {
        // A damaged index costs duplicates and nothing else; verify reports it.
        if (!isIntegrityError(error) && !isLifeboatError(error, 'store-not-found')) throw error
      }
    }
  }
}

const nameOf = (id: Uint8Array): string => Buffer.from(id.buffer, id.byteOffset, id.length).toString('latin1')

function contentsOf({ id, count, ids, lengths }: ClosedPack): PackContents {
  const idPrefixes = new Uint8Array(count * idPrefixBytes)
  const offsets = new Uint32Array(count)
  for (let slot = 0, offset = 0; slot < count; slot++) {
    idPrefixes.set(ids.subarray(slot * 32, slot * 32 + idPrefixBytes), slot * idPrefixBytes)
    offsets[slot] = offset
    offset += lengths[slot]!
  }
  return new PackContents(id, { count, idPrefixes, lengths, offsets })
}
