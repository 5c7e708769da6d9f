/**
 * Which chunk of a point lies where in a local copy: an entry of 40 bytes a chunk, in pages of 256. A page counts as a whole, and
 * says by itself what the disk holds there, where it matches the sum that was taken of it when each of its chunks was there.
 */
import type { OverlayFile } from '../block/overlay-files.ts'
import { sum64 } from '../block/overlay-format.ts'
import { limits } from '../core/limits.ts'

export const PAGE_CHUNKS = 256
const ID_BYTES = 32
const ENTRY_BYTES = ID_BYTES + 8
const PAGE_BYTES = PAGE_CHUNKS * ENTRY_BYTES
const NOTHING = Buffer.alloc(PAGE_BYTES)

export const sumOf = (bytes: Uint8Array): bigint => sum64(bytes).readBigUInt64LE(0)
const SUM_OF_NOTHING = sumOf(NOTHING)

export const pageCountOf = (size: number, chunkSize: number): number =>
  Math.ceil(Math.ceil(size / chunkSize) / PAGE_CHUNKS)

export interface LocalEntry {
  /** The chunk's content id. */
  readonly id: Uint8Array
  /** XXH3-64 of its content. */
  readonly sum: bigint
}

/** Entries in memory as they are in the file, or will be when `writing` has ended. */
export class TablePage {
  /** Its entries are all that the disk holds there. */
  isWhole: boolean
  /** Its entries were proven by this process, or made durable with the chunks that they name. */
  isTrusted: boolean
  writing = 0
  readonly bytes: Buffer

  constructor(bytes: Buffer, isWhole: boolean, isTrusted: boolean) {
    this.bytes = bytes
    this.isWhole = isWhole
    this.isTrusted = isTrusted
  }

  /** Undefined where there is none: in a whole page these are zeros. Views of the page. */
  entry(index: number): LocalEntry | undefined {
    const at = index * ENTRY_BYTES
    const bytes = this.bytes.subarray(at, at + ENTRY_BYTES)
    if (bytes.compare(NOTHING, 0, ENTRY_BYTES) === 0) return undefined
    return { id: bytes.subarray(0, ID_BYTES), sum: bytes.readBigUInt64LE(ID_BYTES) }
  }

  holds(index: number, id: Uint8Array): boolean {
    const at = index * ENTRY_BYTES
    return this.bytes.compare(id, 0, ID_BYTES, at, at + ID_BYTES) === 0
  }
}

export class LocalTable {
  readonly pageCount: number
  readonly #file: OverlayFile
  readonly #chunkCount: number
  /** Of whole pages; 0 for others. */
  #sums: BigUint64Array
  /** Of the point before this one, whose entries hold where nothing was written since. */
  #trusted: BigUint64Array
  #wholePages = 0
  /** The least recently used one first. */
  readonly #pages = new Map<number, TablePage>()
  readonly #loading = new Map<number, Promise<TablePage>>()

  constructor(file: OverlayFile, chunkCount: number, sums?: BigUint64Array) {
    this.#file = file
    this.#chunkCount = chunkCount
    this.pageCount = Math.ceil(chunkCount / PAGE_CHUNKS)
    this.#sums = sums ?? new BigUint64Array(this.pageCount)
    this.#trusted = new BigUint64Array(this.pageCount)
    for (const sum of this.#sums) if (sum !== 0n) this.#wholePages++
  }

  get sums(): BigUint64Array {
    return this.#sums
  }
  get wholePages(): number {
    return this.#wholePages
  }
  isWhole(page: number): boolean {
    return this.#sums[page] !== 0n
  }

  /** Chunks [first, first + count) of a page. */
  chunksOf(page: number): { readonly first: number; readonly count: number } {
    const first = page * PAGE_CHUNKS
    return { first, count: Math.min(PAGE_CHUNKS, this.#chunkCount - first) }
  }

  /** No page is whole any longer: another point is copied. With `keep` entries are believed that were. */
  forgetWhole({ keep }: { readonly keep: boolean }): void {
    const nothing = new BigUint64Array(this.pageCount)
    if (keep) for (const [page, sum] of this.#trusted.entries()) this.#sums[page] ||= sum
    this.#trusted = keep ? this.#sums : nothing
    this.#sums = new BigUint64Array(this.pageCount)
    this.#wholePages = 0
    for (const page of this.#pages.values()) page.isWhole = false
    // What is in memory may have been lost on its way to the file.
    if (!keep) this.#pages.clear()
  }

  pageNow(index: number): TablePage | undefined {
    return this.#pages.get(index)
  }

  async page(index: number): Promise<TablePage> {
    const known = this.#pages.get(index)
    if (known) {
      this.#pages.delete(index)
      this.#pages.set(index, known)
      return known
    }
    const loading = this.#loading.get(index) ?? this.#load(index).finally(() => this.#loading.delete(index))
    this.#loading.set(index, loading)
    return loading
  }

  async #load(index: number): Promise<TablePage> {
    const bytes = Buffer.alloc(PAGE_BYTES)
    // Behind the end of the file there are zeros as well.
    if (this.#sums[index] !== SUM_OF_NOTHING) await this.#file.readAt(bytes, index * PAGE_BYTES)
    const sum = sumOf(bytes)
    const isWhole = sum === this.#sums[index]
    if (!isWhole) this.#notWhole(index)
    const page = new TablePage(bytes, isWhole, isWhole || sum === this.#trusted[index])
    this.#keep(index, page)
    return page
  }

  /** Resolves when it is in the file; where that fails, nothing has changed. */
  async set(page: number, index: number, entry: LocalEntry | undefined): Promise<void> {
    const loaded = await this.page(page)
    const at = index * ENTRY_BYTES
    const before = Uint8Array.from(loaded.bytes.subarray(at, at + ENTRY_BYTES))
    if (entry) {
      loaded.bytes.set(entry.id, at)
      loaded.bytes.writeBigUInt64LE(entry.sum, at + ID_BYTES)
    } else loaded.bytes.fill(0, at, at + ENTRY_BYTES)
    loaded.writing++
    try {
      await this.#file.writeAt(Uint8Array.from(loaded.bytes.subarray(at, at + ENTRY_BYTES)), page * PAGE_BYTES + at)
    } catch (error) {
      loaded.bytes.set(before, at)
      throw error
    } finally {
      loaded.writing--
    }
  }

  /** All of its chunks are there. From now on the page is believed. */
  seal(index: number, page: TablePage): void {
    if (!page.isWhole) this.#wholePages++
    page.isWhole = true
    page.isTrusted = true
    this.#sums[index] = sumOf(page.bytes)
  }

  #notWhole(index: number): void {
    if (this.#sums[index] === 0n) return
    this.#sums[index] = 0n
    this.#wholePages--
  }

  #keep(index: number, page: TablePage): void {
    this.#pages.set(index, page)
    if (this.#pages.size <= limits.hydratePagesKept) return
    for (const [other, { writing }] of this.#pages) {
      if (writing > 0 || other === index) continue
      this.#pages.delete(other)
      return
    }
  }
}
