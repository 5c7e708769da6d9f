/**
 * All packs of a repository in memory: which objects each has, and which of its slots are live. 100 TiB are 6.5 million packs
 * with 1.7 billion slots; here they take about 92 bytes each (44 in columns, 10 to 20 in the index, the rest its bits), where a
 * Map of strings and arrays would take ten times that.
 */
import { type DomainId, hex, type PackId, packId } from '../core/ids.ts'
import { packKey } from '../repository/object-keys.ts'
import type { PackKind } from '../repository/pack-codec.ts'
import type { ObjectInfo } from '../storage/object-store.ts'
import { BitmapSlabs } from './bitmap-slabs.ts'

/** Columns grow by pages, so that nothing is copied and no piece of memory is large. */
const PAGE_ROWS = 16_384
const DAY_MS = 24 * 3_600_000
/** More than this and a probe becomes a walk. */
const LOAD_MAX = 0.6
const INDEX_MIN = 1024

interface Page {
  /** 16 bytes a row, as four words. */
  readonly ids: Uint32Array
  readonly place: Uint32Array
  readonly size: Uint8Array
  readonly liveCount: Uint16Array
  readonly liveBytes: Float64Array
  readonly storedBytes: Float64Array
  /** Which of `#homes`; 0 where no object was listed. */
  readonly home: Uint16Array
  /** When its youngest object was stored, in days since 1970; 0 where none was listed. */
  readonly storedDay: Uint16Array
  /** 1 where the pack as first written was listed. */
  readonly original: Uint8Array
}

/** Of a listing. */
type StoredObjectInfo = Pick<ObjectInfo, 'size' | 'modifiedAt'>

interface Home {
  readonly kind: PackKind
  readonly domain: DomainId
}

export class PackTable {
  readonly #pages: Page[] = []
  readonly #bitmaps = new BitmapSlabs()
  /** Row + 1, open addressing. */
  #index = new Uint32Array(INDEX_MIN)
  #count = 0
  /** A repository has few domains; a tenth of a million would still fit. */
  readonly #homes: Home[] = [{ kind: 'data', domain: '' as DomainId }]
  readonly #homeNumbers = new Map<string, number>()
  /** Run ids of rewritten objects, where there are any: compaction leaves one for few packs. */
  readonly #runs = new Map<number, string[]>()
  #objects = 0

  /** Packs that were seen, listed or named. */
  get count(): number {
    return this.#count
  }

  /** Objects that were listed. */
  get objects(): number {
    return this.#objects
  }

  get memoryBytes(): number {
    return this.#pages.length * PAGE_ROWS * 44 + this.#index.byteLength + this.#bitmaps.memoryBytes
  }

  /** The row of a pack, made if it is new. */
  row(pack: PackId): number {
    const words = wordsOf(pack)
    const found = this.#find(words)
    if (found >= 0) return found
    if ((this.#count + 1) / this.#index.length > LOAD_MAX) this.#grow()
    const row = this.#count++
    if (row % PAGE_ROWS === 0) this.#pages.push(newPage())
    this.#page(row).ids.set(words, (row % PAGE_ROWS) * 4)
    this.#enter(row, words)
    return row
  }

  /** -1 where the pack was never seen. */
  find(pack: PackId): number {
    return this.#find(wordsOf(pack))
  }

  packAt(row: number): PackId {
    const page = this.#page(row)
    const bytes = new Uint8Array(16)
    const view = new DataView(bytes.buffer)
    for (let word = 0; word < 4; word++) view.setUint32(word * 4, page.ids[(row % PAGE_ROWS) * 4 + word]!)
    return packId(hex(bytes))
  }

  /** An object of the pack was listed. */
  addObject(
    kind: PackKind,
    domain: DomainId,
    pack: PackId,
    run: string | undefined,
    { size, modifiedAt }: StoredObjectInfo,
  ): void {
    const row = this.row(pack)
    const page = this.#page(row)
    const at = row % PAGE_ROWS
    page.home[at] = this.#homeOf(kind, domain)
    page.storedBytes[at]! += size
    page.storedDay[at] = Math.max(page.storedDay[at]!, Math.floor(modifiedAt.getTime() / DAY_MS))
    this.#objects++
    if (run === undefined) page.original[at] = 1
    else this.#runs.set(row, [...(this.#runs.get(row) ?? []), run])
  }

  /** A root reaches this slot. Whether that is new; then `length` counts as live. */
  addLive(row: number, slot: number, length: number): boolean {
    const page = this.#page(row)
    const at = row % PAGE_ROWS
    const bitmap = this.#bitmaps.grown({ place: page.place[at]!, size: page.size[at]! }, slot)
    page.place[at] = bitmap.place
    page.size[at] = bitmap.size
    if (!this.#bitmaps.set(bitmap, slot)) return false
    page.liveCount[at]!++
    page.liveBytes[at]! += length
    return true
  }

  isLive(row: number, slot: number): boolean {
    const page = this.#page(row)
    const at = row % PAGE_ROWS
    return this.#bitmaps.has({ place: page.place[at]!, size: page.size[at]! }, slot)
  }

  liveCount(row: number): number {
    return this.#page(row).liveCount[row % PAGE_ROWS]!
  }

  /** Stored bytes of live records. */
  liveBytes(row: number): number {
    return this.#page(row).liveBytes[row % PAGE_ROWS]!
  }

  /** Sizes of all objects of the pack. */
  storedBytes(row: number): number {
    return this.#page(row).storedBytes[row % PAGE_ROWS]!
  }

  /** Days since 1970 by the store's clock. */
  storedDay(row: number): number {
    return this.#page(row).storedDay[row % PAGE_ROWS]!
  }

  objectCount(row: number): number {
    return this.#page(row).original[row % PAGE_ROWS]! + (this.#runs.get(row)?.length ?? 0)
  }

  /** Keys of the objects that were listed, the original first. */
  objectKeys(row: number): string[] {
    const page = this.#page(row)
    const { kind, domain } = this.#homes[page.home[row % PAGE_ROWS]!]!
    const pack = this.packAt(row)
    const keys = page.original[row % PAGE_ROWS] ? [packKey(kind, domain, pack)] : []
    for (const run of this.#runs.get(row) ?? []) keys.push(packKey(kind, domain, pack, run))
    return keys
  }

  homeOf(row: number): Home {
    return this.#homes[this.#page(row).home[row % PAGE_ROWS]!]!
  }

  #page(row: number): Page {
    return this.#pages[Math.floor(row / PAGE_ROWS)]!
  }

  #homeOf(kind: PackKind, domain: DomainId): number {
    const name = `${kind}/${domain}`
    const known = this.#homeNumbers.get(name)
    if (known !== undefined) return known
    if (this.#homes.length > 65_535) throw new RangeError('a repository with so many domains is not supported')
    const number = this.#homes.push({ kind, domain }) - 1
    this.#homeNumbers.set(name, number)
    return number
  }

  #find(words: Uint32Array): number {
    const mask = this.#index.length - 1
    for (let at = startOf(words) & mask; this.#index[at] !== 0; at = (at + 1) & mask) {
      const row = this.#index[at]! - 1
      const { ids } = this.#page(row)
      const from = (row % PAGE_ROWS) * 4
      if (
        ids[from] === words[0] &&
        ids[from + 1] === words[1] &&
        ids[from + 2] === words[2] &&
        ids[from + 3] === words[3]
      )
        return row
    }
    return -1
  }

  #enter(row: number, words: Uint32Array): void {
    const mask = this.#index.length - 1
    let at = startOf(words) & mask
    while (this.#index[at] !== 0) at = (at + 1) & mask
    this.#index[at] = row + 1
  }

  #grow(): void {
    this.#index = new Uint32Array(this.#index.length * 2)
    for (let row = 0; row < this.#count; row++) {
      const from = (row % PAGE_ROWS) * 4
      this.#enter(row, this.#page(row).ids.subarray(from, from + 4))
    }
  }
}

const newPage = (): Page => ({
  storedDay: new Uint16Array(PAGE_ROWS),
  ids: new Uint32Array(PAGE_ROWS * 4),
  place: new Uint32Array(PAGE_ROWS),
  size: new Uint8Array(PAGE_ROWS),
  liveCount: new Uint16Array(PAGE_ROWS),
  liveBytes: new Float64Array(PAGE_ROWS),
  storedBytes: new Float64Array(PAGE_ROWS),
  home: new Uint16Array(PAGE_ROWS),
  original: new Uint8Array(PAGE_ROWS),
})

/** The first byte of a pack id is its epoch; all others are uniformly distributed. */
const startOf = (words: Uint32Array): number => words[1]!

function wordsOf(pack: PackId): Uint32Array {
  const words = new Uint32Array(4)
  for (let word = 0; word < 4; word++) words[word] = Number.parseInt(pack.slice(word * 8, word * 8 + 8), 16)
  return words
}
