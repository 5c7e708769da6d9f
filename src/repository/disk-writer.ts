/**
 * One disk of a point that is being written: chunks are digested, compared with the base, looked for among what is stored, and
 * what is new goes into packs; the tree follows. Two windows of data are in memory: one fills while the other is worked on.
 */

import { abortable } from '../core/abortable.ts'
import { LifeboatError } from '../core/errors.ts'
import type { PointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { DigestResult } from '../native/pipeline.ts'
import type { BaseDisk } from './base-disk.ts'
import { BufferPool } from './buffer-pool.ts'
import type { TreeEntry } from './node-writer.ts'
import { idPrefixBytes } from './pack-codec.ts'
import type { PointPacks } from './point-packs.ts'
import type { ChunkRef, DiskStats, DiskWriter } from './repository.ts'
import { type TreeGeometry, treeGeometry } from './tree-geometry.ts'
import { TreeWriter } from './tree-writer.ts'
import type { WriteContext } from './write-context.ts'
import { WriteWindow } from './write-window.ts'

export interface PointDiskRequest {
  readonly name: string
  readonly size: number
  readonly base?: { readonly point: PointId; readonly disk: BaseDisk }
  readonly description: Readonly<Record<string, unknown>>
  /** Throws when going on would be in vain. */
  readonly throwIfLost: () => void
  /** Ends what goes on behind a call that has returned. */
  readonly signal: AbortSignal
}

export interface FinishedDisk {
  readonly request: PointDiskRequest
  readonly geometry: TreeGeometry
  readonly reason?: string
  readonly stats: DiskStats
  readonly top: readonly (TreeEntry | undefined)[]
}

const windowsInMemory = 2

export class PointDiskWriter implements DiskWriter {
  readonly #context: WriteContext
  readonly #packs: PointPacks
  readonly #request: PointDiskRequest
  readonly #geometry: TreeGeometry
  readonly #tree: TreeWriter
  readonly #pool: BufferPool
  #window: WriteWindow | undefined
  /** The first chunk that may still be written. */
  #next = 0
  #work: Promise<void> = Promise.resolve()
  #failure: { error: unknown } | undefined
  #finished: FinishedDisk | undefined
  #bytesChanged = 0
  #bytesNew = 0
  #bytesOfRecords = 0
  #bytesAudited = 0

  constructor(context: WriteContext, packs: PointPacks, request: PointDiskRequest) {
    this.#context = context
    this.#packs = packs
    this.#request = request
    this.#geometry = treeGeometry(request.size, context.chunkSize)
    this.#tree = new TreeWriter(this.#geometry, request.base?.disk.tree, packs.nodes)
    this.#pool = new BufferPool(windowsInMemory, Math.max(limits.writeWindowBytes, context.chunkSize))
  }

  get baseSize(): number {
    return this.#request.base?.disk.tree.geometry.size ?? 0
  }

  get finished(): FinishedDisk | undefined {
    return this.#finished
  }

  async write(offset: number, data: Uint8Array, options: AbortOptions = {}): Promise<void> {
    let chunk = this.#accept(offset, data.length)
    for (let at = 0; at < data.length; ) {
      const window = await this.#fillable(options)
      const taken = window.add(chunk, at === 0 ? data : data.subarray(at))
      at += taken
      chunk += Math.ceil(taken / this.#context.chunkSize)
      if (window.isFull) this.#dispatch()
    }
  }

  async zero(range: Range, options: AbortOptions = {}): Promise<void> {
    const first = this.#accept(range.offset, range.length)
    if (range.length === 0) return
    const window = await this.#fillable(options)
    window.addZeros(first, this.#next - first)
    if (window.isFull) this.#dispatch()
  }

  async matchesBase(offset: number, data: Uint8Array, options: AbortOptions = {}): Promise<boolean> {
    const { chunkSize, pipeline } = this.#context
    const first = this.#check(offset, data.length)
    const count = Math.ceil(data.length / chunkSize)
    const window = new WriteWindow(new Uint8Array(count * chunkSize), chunkSize)
    window.add(first, data)
    const digest = await pipeline.digestChunks(window.buffer, chunkSize, this.#chunkIdKey())
    const base = await this.#baseRefs(window.chunks, options)
    this.#bytesAudited += data.length
    return base.every((ref, n) => (digest.zero[n] ? ref === undefined : isContent(ref, digest.ids, n)))
  }

  async finish({ bytesRead, reason }: { bytesRead: number; reason?: string }, options: AbortOptions = {}) {
    if (this.#finished) throw new RangeError(`disk ${this.#request.name} is finished`)
    await this.#zeroTail(options)
    if (this.#window) this.#dispatch()
    await abortable(this.#work, options)
    this.#throwIfFailed()
    const top = await this.#packs.inTurn(() => this.#tree.finish(options))
    const stats: DiskStats = {
      bytesRead,
      bytesChanged: this.#bytesChanged,
      bytesNew: this.#bytesNew,
      bytesStored: this.#bytesOfRecords + this.#tree.bytesWritten,
      bytesAudited: this.#bytesAudited,
    }
    this.#finished = { request: this.#request, geometry: this.#geometry, reason, stats, top }
    return stats
  }

  /** Waits until nothing of this disk runs any more. */
  async settled(): Promise<void> {
    await this.#work
  }

  /** The chunk at `offset`, or a RangeError for what is not whole chunks of this disk. */
  #check(offset: number, length: number): number {
    const { chunkSize } = this.#context
    const end = offset + length
    const whole = offset % chunkSize === 0 && (end % chunkSize === 0 || end === this.#request.size)
    if (offset < 0 || length < 0 || end > this.#request.size || !whole)
      throw new RangeError(`[${offset}, ${end}) is not whole chunks of disk ${this.#request.name}`)
    return offset / chunkSize
  }

  #accept(offset: number, length: number): number {
    this.#throwIfFailed()
    this.#request.throwIfLost()
    if (this.#finished) throw new RangeError(`disk ${this.#request.name} is finished`)
    const first = this.#check(offset, length)
    if (length === 0) return first
    if (first < this.#next) throw new RangeError(`disk ${this.#request.name} is written out of order at ${offset}`)
    this.#next = Math.ceil((offset + length) / this.#context.chunkSize)
    return first
  }

  async #fillable(options: AbortOptions): Promise<WriteWindow> {
    this.#window ??= new WriteWindow(await this.#pool.acquire(options), this.#context.chunkSize)
    this.#throwIfFailed()
    return this.#window
  }

  /** Sends the window on its way: its digests begin at once, the rest when the window before is through. */
  #dispatch(): void {
    const window = this.#window
    if (!window) return
    this.#window = undefined
    const { pipeline, chunkSize } = this.#context
    const digest =
      window.chunks.length === 0
        ? Promise.resolve(undefined)
        : pipeline.digestChunks(window.data, chunkSize, this.#chunkIdKey())
    digest.catch(() => {})
    const before = this.#work
    this.#work = (async () => {
      await before
      try {
        const result = await digest
        this.#throwIfFailed()
        await this.#packs.inTurn(() => this.#process(window, result))
      } catch (error) {
        this.#failure ??= { error }
        this.#pool.fail(error)
      }
      this.#pool.release(window.buffer)
    })()
  }

  async #process(window: WriteWindow, digest: DigestResult | undefined): Promise<void> {
    const options = { signal: this.#request.signal }
    options.signal.throwIfAborted()
    const entries = digest ? await this.#decide(window, digest, options) : []
    let zeros = 0
    const clearUpTo = async (before: number) => {
      for (; zeros < window.zeros.length && window.zeros[zeros]!.before <= before; zeros++) {
        const { first, count } = window.zeros[zeros]!
        const cleared = await this.#tree.clear(first, count, options)
        this.#bytesChanged += Math.min(
          cleared * this.#context.chunkSize,
          this.#request.size - first * this.#context.chunkSize,
        )
      }
    }
    for (const [n, chunk] of window.chunks.entries()) {
      await clearUpTo(n)
      const entry = entries[n]
      if (entry !== 'same') await this.#tree.put(chunk, entry, options)
    }
    await clearUpTo(window.chunks.length)
  }

  /** For each chunk of the window: 'same' as in the base, undefined for zeros, or where its content lies now. */
  async #decide(
    window: WriteWindow,
    digest: DigestResult,
    options: AbortOptions,
  ): Promise<(TreeEntry | 'same' | undefined)[]> {
    const base = await this.#baseRefs(window.chunks, options)
    const idOf = (n: number) => digest.ids.subarray(n * 32, n * 32 + 32)
    const entries: (TreeEntry | 'same' | undefined)[] = base.map((ref, n) => {
      if (digest.zero[n]) return ref ? undefined : 'same'
      return isContent(ref, digest.ids, n) ? 'same' : undefined
    })
    for (const [n, entry] of entries.entries())
      if (entry !== 'same') this.#bytesChanged += this.#chunkBytes(window.chunks[n]!)
    this.#dropLost(entries, base)
    const changed = [...window.chunks.keys()].filter(n => !digest.zero[n] && entries[n] !== 'same')
    const stored = await this.#packs.dedup.look(changed.map(idOf), options)
    const fresh = new Map<string, number>()
    const repeated: (readonly [n: number, first: string])[] = []
    for (const n of changed) {
      const found = stored(idOf(n))
      const name = Buffer.from(idOf(n)).toString('latin1')
      if (found) entries[n] = found
      else if (fresh.has(name)) repeated.push([n, name])
      else fresh.set(name, n)
    }
    const positions = [...fresh.values()]
    const records = await this.#packs.store(window.data, digest.ids, positions, options)
    for (const [i, record] of records.entries()) {
      const n = positions[i]!
      entries[n] = record
      this.#bytesNew += this.#chunkBytes(window.chunks[n]!)
      this.#bytesOfRecords += record.length + idPrefixBytes + 3
    }
    for (const [n, first] of repeated) entries[n] = entries[fresh.get(first)!]
    for (const [n, entry] of entries.entries()) {
      const placed = entry === 'same' ? base[n] : entry
      if (placed && !digest.zero[n]) this.#packs.healing.found('data', placed.id, placed)
    }
    return entries
  }

  /** What the base has at a damaged place is stored anew although it has not changed. */
  #dropLost(entries: (TreeEntry | 'same' | undefined)[], base: readonly (ChunkRef | undefined)[]): void {
    const { healing } = this.#packs
    for (const [n, ref] of base.entries()) {
      if (entries[n] !== 'same' || !ref || !healing.isBad(ref)) continue
      healing.lost('data', ref)
      entries[n] = undefined
    }
  }

  /** What the base has for these chunks; all leaves that are not in memory are asked for at once. */
  async #baseRefs(chunks: readonly number[], options: AbortOptions): Promise<(ChunkRef | undefined)[]> {
    const tree = this.#request.base?.disk.tree
    if (!tree) return chunks.map(() => undefined)
    const width = limits.leafWidth
    const inBase = chunks.filter(chunk => chunk < tree.geometry.chunks)
    const indexes = [...new Set(inBase.map(chunk => Math.floor(chunk / width)))]
    const leaves = await tree.nodes(0, indexes, options)
    const byIndex = new Map(indexes.map((index, n) => [index, leaves[n]]))
    return chunks.map(chunk =>
      chunk < tree.geometry.chunks ? byIndex.get(Math.floor(chunk / width))?.ref(chunk % width) : undefined,
    )
  }

  /** A disk that became smaller ends within a chunk of the base: what lies behind its end must not come back when it grows. */
  async #zeroTail(options: AbortOptions): Promise<void> {
    const { size, base } = this.#request
    const { chunkSize } = this.#context
    const tail = size % chunkSize
    const last = this.#geometry.chunks - 1
    if (!base || tail === 0 || size >= this.baseSize || this.#next > last) return
    const [ref] = await this.#baseRefs([last], options)
    if (!ref) return
    const content = await base.disk.readChunk(ref, options)
    await this.write(last * chunkSize, content.subarray(0, tail), options)
  }

  #chunkBytes(chunk: number): number {
    const { chunkSize } = this.#context
    return Math.min(chunkSize, this.#request.size - chunk * chunkSize)
  }

  #chunkIdKey(): Uint8Array {
    const { chunkIdKey, domain } = this.#context.domain
    if (chunkIdKey) return chunkIdKey
    throw new LifeboatError('key-missing', `This key gives no right to write data of domain ${domain}`, {
      hint: 'Use a key that opens data too.',
    })
  }

  #throwIfFailed(): void {
    if (this.#failure) throw this.#failure.error
  }
}

function isContent(ref: ChunkRef | undefined, ids: Uint8Array, n: number): boolean {
  return ref !== undefined && Buffer.compare(ref.id, ids.subarray(n * 32, n * 32 + 32)) === 0
}
