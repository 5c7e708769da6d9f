/**
 * The chunks of one disk on this host's own disk, each at its place, decoded. What is told to be there is checked each time it is
 * read: the content has the sum that its entry names, and the entry the id that is asked for. So nothing needs to be written in any
 * order, whatever a crash leaves of it: what does not match counts as absent. Only `seal` and `sync` let a page speak for itself.
 */
import type { OverlayFile } from '../block/overlay-files.ts'
import { limits } from '../core/limits.ts'
import type { ChunkRef } from '../repository/repository.ts'
import { LocalTable, PAGE_CHUNKS, sumOf, type TablePage } from './local-table.ts'

export interface LocalCopyOptions {
  readonly data: OverlayFile
  readonly table: OverlayFile
  readonly size: number
  readonly chunkSize: number
  /** Of pages that are durable with all of their chunks. */
  readonly sums?: BigUint64Array
  /** For messages: a path. */
  readonly name: string
}

export class LocalCopy implements AsyncDisposable {
  readonly size: number
  readonly chunkSize: number
  readonly name: string
  readonly table: LocalTable
  /** False while there is hardly space: what guests fetch is not copied. */
  mayGrow = true
  readonly #options: LocalCopyOptions
  readonly #writing = new Set<Promise<unknown>>()
  #generation = {}
  #queuedBytes = 0
  #writtenBytes = 0

  constructor(options: LocalCopyOptions) {
    const { size, chunkSize, name } = options
    this.size = size
    this.chunkSize = chunkSize
    this.name = name
    this.table = new LocalTable(options.table, Math.ceil(size / chunkSize), options.sums)
    this.#options = options
  }

  /** Of whole pages, as bytes of the disk. */
  get wholeBytes(): number {
    const { wholePages, pageCount } = this.table
    const pageBytes = PAGE_CHUNKS * this.chunkSize
    const lastIsWhole = pageCount > 0 && this.table.isWhole(pageCount - 1)
    return lastIsWhole ? (wholePages - 1) * pageBytes + this.size - (pageCount - 1) * pageBytes : wholePages * pageBytes
  }
  get isWhole(): boolean {
    return this.table.wholePages === this.table.pageCount
  }
  /** So far. */
  get writtenBytes(): number {
    return this.#writtenBytes
  }
  /** Who writes shows the one that he began with: what is meant for an older point is not written. */
  get generation(): object {
    return this.#generation
  }

  /** Another point is copied from now on: what it shares with the one before is there already. */
  async begin(): Promise<object> {
    const generation = {}
    this.#generation = generation
    await Promise.allSettled([...this.#writing])
    this.table.forgetWhole({ keep: true })
    return generation
  }

  /** The content, if it is there and right. */
  async read(chunk: number, id: Uint8Array): Promise<Uint8Array | undefined> {
    const page = await this.table.page(Math.floor(chunk / PAGE_CHUNKS))
    const entry = page.entry(chunk % PAGE_CHUNKS)
    if (!entry || Buffer.compare(entry.id, id) !== 0) return undefined
    return this.readSummed(chunk, entry.sum)
  }

  /** A failing disk is one that does not have it. */
  async readSummed(chunk: number, sum: bigint): Promise<Uint8Array | undefined> {
    const content = new Uint8Array(this.chunkSize)
    const length = await this.#options.data.readAt(content, chunk * this.chunkSize).catch(() => -1)
    return length === this.chunkSize && sumOf(content) === sum ? content : undefined
  }

  /** `content` must not change until this resolves. Throws what the system says of a write. */
  async put(chunks: readonly number[], id: Uint8Array, content: Uint8Array, generation: object): Promise<void> {
    if (generation !== this.#generation) return
    const work = this.#put(chunks, id, content)
    this.#writing.add(work)
    try {
      await work
    } finally {
      this.#writing.delete(work)
    }
  }

  /** The same for what a guest has fetched: it waits for nothing, and nothing is lost where it fails. */
  putSoon(chunk: number, id: Uint8Array, content: Uint8Array, generation: object): void {
    if (!this.mayGrow || this.#queuedBytes + content.length > limits.hydrateQueueBytes) return
    this.#queuedBytes += content.length
    void this.put([chunk], id, content, generation)
      .catch(() => {})
      .finally(() => {
        this.#queuedBytes -= content.length
      })
  }

  async #put(chunks: readonly number[], id: Uint8Array, content: Uint8Array): Promise<void> {
    const sum = sumOf(content)
    for (const chunk of chunks) {
      const page = Math.floor(chunk / PAGE_CHUNKS)
      const index = chunk % PAGE_CHUNKS
      await this.#options.data.writeAt(content, chunk * this.chunkSize)
      this.#writtenBytes += content.length
      const known = (await this.table.page(page)).entry(index)
      if (known?.sum !== sum || Buffer.compare(known.id, id) !== 0) await this.table.set(page, index, { id, sum })
    }
  }

  /** The chunk is zeros in this point. */
  async drop(chunk: number): Promise<void> {
    await this.table.set(Math.floor(chunk / PAGE_CHUNKS), chunk % PAGE_CHUNKS, undefined)
    await this.#options.data.punch(chunk * this.chunkSize, this.chunkSize)
  }

  /** Says whether the page holds just these, and believes it from now on if it does. They were proven, or put by this process. */
  async seal(index: number, refs: readonly (ChunkRef | undefined)[]): Promise<boolean> {
    // What a guest has just fetched may be on its way into the file.
    if ((await this.table.page(index)).writing > 0) await Promise.allSettled([...this.#writing])
    const page = await this.table.page(index)
    if (!holdsAll(page, refs)) return false
    this.table.seal(index, page)
    return true
  }

  /** What is whole now is durable, with its sums as they are given. Where that fails nothing is believed that was not read again. */
  async sync(): Promise<BigUint64Array> {
    const sums = this.table.sums.slice()
    try {
      await this.#options.data.sync()
      await this.#options.table.sync()
    } catch (error) {
      this.table.forgetWhole({ keep: false })
      throw error
    }
    return sums
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#generation = {}
    await Promise.allSettled([...this.#writing])
    await this.#options.data.close()
    await this.#options.table.close()
  }
}

function holdsAll(page: TablePage, refs: readonly (ChunkRef | undefined)[]): boolean {
  for (const [index, ref] of refs.entries())
    if (ref ? !page.holds(index, ref.id) : page.entry(index) !== undefined) return false
  return true
}
