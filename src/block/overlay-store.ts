/**
 * The writing side of an overlay: all disks of a session in one queue. What arrived while the last batch was written becomes
 * the next batch: its blocks go to fresh slots, then one record in the journal names them, then the map in memory changes,
 * then the writes are acknowledged. A killed process leaves all three steps to the page cache, so that nothing acknowledged
 * is lost; after a power cut the journal counts up to its last mark, which a sync writes when all blocks before it are durable.
 */
import type { Clock } from '../core/clock.ts'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { OverlayFile } from './overlay-files.ts'
import * as F from './overlay-format.ts'
import type { Journal } from './overlay-journal.ts'
import type { DetachedPage, DiskMap, MapShare } from './overlay-map.ts'
import { applyZero, edgePages, freeAll, putBlock, wordsOf } from './overlay-pages.ts'
import type { SlotRun, SlotSpace } from './overlay-space.ts'

interface BlocksOp {
  readonly kind: typeof F.KIND_BLOCKS
  readonly disk: DiskMap
  readonly block: number
  readonly count: number
  readonly source: Uint8Array
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

interface ZeroOp {
  readonly kind: typeof F.KIND_ZERO
  readonly disk: DiskMap
  readonly block: number
  readonly count: number
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

/** Something that must not meet a batch. */
interface AloneOp {
  readonly kind: 'alone'
  readonly run: () => Promise<void>
}

type Op = BlocksOp | ZeroOp | AloneOp

export class OverlayStore {
  readonly data: OverlayFile
  readonly space: SlotSpace
  readonly disks: readonly DiskMap[]
  readonly share: MapShare
  readonly #clock: Clock
  /** The last one takes records; older ones are kept until a map makes them needless. */
  journals: Journal[]
  /** Of the last record. */
  sequence: number
  #queue: Op[] = []
  #busy = false
  #scheduled = false
  #waiting: { resolve: () => void; reject: (error: unknown) => void }[] = []
  #syncing = false
  #notes = 0
  #slowUntilMs = 0
  #failure: LifeboatError | undefined
  #detached: DetachedPage[] = []
  #reclaiming: Promise<void> | undefined
  /** Called when so much has changed that a map should be stored; gives when that is done. */
  wantsMap: () => Promise<void> = async () => {}

  constructor(
    data: OverlayFile,
    space: SlotSpace,
    disks: readonly DiskMap[],
    share: MapShare,
    journals: readonly Journal[],
    sequence: number,
    clock: Clock,
  ) {
    this.data = data
    this.space = space
    this.disks = disks
    this.share = share
    this.journals = [...journals]
    this.sequence = sequence
    this.#clock = clock
  }

  get journal(): Journal {
    return this.journals.at(-1)!
  }

  // What the disks call

  writeBlocks(disk: DiskMap, block: number, source: Uint8Array): Promise<void> {
    const count = source.length / F.BLOCK
    return new Promise((resolve, reject) =>
      this.#push({ kind: F.KIND_BLOCKS, disk, block, count, source, resolve, reject }),
    )
  }

  zeroBlocks(disk: DiskMap, block: number, count: number): Promise<void> {
    return new Promise((resolve, reject) => this.#push({ kind: F.KIND_ZERO, disk, block, count, resolve, reject }))
  }

  /** Resolves when nothing that was asked for before is under way any more. */
  drained(): Promise<void> {
    return this.alone(async () => {})
  }

  alone<T>(run: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => this.#push({ kind: 'alone', run: () => run().then(resolve, reject) }))
  }

  /** Everything that was acknowledged before is durable. Joins the next sync, for the running one may have passed it by. */
  flush(): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure)
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
      if (!this.#syncing) void this.#syncAll()
    })
  }

  // The queue

  #push(op: Op): void {
    this.#queue.push(op)
    if (this.#busy || this.#scheduled) return
    this.#scheduled = true
    // Behind what this turn still reads from its socket: that is one batch.
    process.nextTick(() => {
      this.#scheduled = false
      this.#pump()
    })
  }

  #pump(): void {
    while (!this.#busy && this.#queue.length > 0) {
      const first = this.#queue[0]!
      if (first.kind === 'alone') {
        this.#queue.shift()
        this.#occupy(first.run())
      } else if (first.kind === F.KIND_ZERO) {
        this.#queue.shift()
        this.#occupy(this.#zero(first))
      } else {
        const batch = this.#nextBatch()
        if (!this.#writeNow(batch)) this.#occupy(this.#writeSlowly(batch))
      }
    }
  }

  #occupy(work: Promise<void>): void {
    this.#busy = true
    void work.then(() => {
      this.#busy = false
      this.#pump()
    })
  }

  /** Writes that stand one behind the other, up to a bound. */
  #nextBatch(): BlocksOp[] {
    const batch: BlocksOp[] = []
    let count = 0
    for (const op of this.#queue) {
      if (op.kind !== F.KIND_BLOCKS || (count > 0 && count + op.count > limits.overlayBatchBlocks)) break
      batch.push(op)
      count += op.count
    }
    this.#queue = batch.length === this.#queue.length ? [] : this.#queue.slice(batch.length)
    return batch
  }

  /**
   * In this turn, if nothing has to be waited for: small writes go to the page cache in microseconds, less than it takes to
   * hand them to another thread. A disk that makes writers wait is noticed, and gets its own thread for a while.
   */
  #writeNow(batch: readonly BlocksOp[]): boolean {
    const count = blocksOf(batch)
    if (count > limits.overlayBlocksNow || this.#clock.monotonicMs() < this.#slowUntilMs) return false
    if (!this.journal.hasRoom(recordBytes(count)) || this.share.dirty > 2 * limits.overlayPagesDirty) return false
    for (const op of batch) if (!pagesAreThere(op)) return false
    const runs = this.space.take(count)
    if (runs === undefined) return false
    const started = this.#clock.monotonicMs()
    try {
      const plan = this.#plan(batch, runs, count)
      this.data.writeBlocks(plan, true)
      this.#apply(batch, plan)
    } catch (error) {
      this.#refuse(batch, runs, error)
    }
    const now = this.#clock.monotonicMs()
    if (now - started > limits.overlayStallMs) this.#slowUntilMs = now + limits.overlayStallCoolMs
    return true
  }

  async #writeSlowly(batch: readonly BlocksOp[]): Promise<void> {
    let runs: readonly SlotRun[] = []
    try {
      const count = blocksOf(batch)
      if (this.share.dirty > 2 * limits.overlayPagesDirty) await this.wantsMap()
      await this.journal.reserve(recordBytes(count))
      runs = await this.take(count)
      const plan = this.#plan(batch, runs, count)
      await this.data.writeBlocks(plan, false)
      // Others may let go of a page while the next one is read.
      while (!batch.every(pagesAreThere)) for (const op of batch) await op.disk.load(pagesOf(op))
      this.#apply(batch, plan)
      for (const disk of this.disks) disk.evict()
    } catch (error) {
      this.#refuse(batch, runs, error)
    }
  }

  /** Slots for blocks; when the disk is full, what the next sync gives back may do. */
  async take(count: number): Promise<readonly SlotRun[]> {
    const there = this.space.take(count)
    if (there !== undefined) return there
    try {
      await this.space.back(count)
    } catch (error) {
      if (!isLifeboatError(error, 'disk-full')) throw error
      const anywhere = this.space.take(count, true)
      if (anywhere !== undefined) return anywhere
      if (this.space.freedCount > 0 && this.#failure === undefined) {
        await this.#syncBeside()
        const after = this.space.take(count, true)
        if (after !== undefined) return after
      }
      throw error
    }
    const runs = this.space.take(count, true)
    if (runs === undefined) throw new LifeboatError('internal', 'space that was reserved is not there')
    return runs
  }

  #plan(batch: readonly BlocksOp[], runs: readonly SlotRun[], count: number) {
    const record = F.newRecord(F.KIND_BLOCKS, this.sequence + 1, count, 16 * count)
    const words = new Uint32Array(record.buffer, F.RECORD_HEAD, 3 * count)
    const checks = new Uint32Array(record.buffer, F.RECORD_HEAD + 12 * count, count)
    const parts: Uint8Array[] = []
    const positions: number[] = []
    let run = 0
    let slot = runs[0]!.first
    let end = slot + runs[0]!.count
    let at = 0
    for (const { disk, block, count: blocks, source } of batch)
      for (let done = 0; done < blocks; ) {
        if (slot === end) {
          run++
          slot = runs[run]!.first
          end = slot + runs[run]!.count
        }
        const some = Math.min(end - slot, blocks - done)
        parts.push(some === blocks ? source : source.subarray(done * F.BLOCK, (done + some) * F.BLOCK))
        positions.push(slot * F.BLOCK)
        for (let n = 0; n < some; n++, at++) {
          putBlock(words, 2 * at, disk.index, block + done + n)
          words[2 * count + at] = slot + n + F.FIRST_SLOT
        }
        slot += some
        done += some
      }
    const { file: log, position: recordPosition } = this.journal
    return { parts, positions: Float64Array.from(positions), checks, log, record, recordPosition, words }
  }

  #apply(
    batch: readonly BlocksOp[],
    { record, checks, words }: { record: Buffer; checks: Uint32Array; words: Uint32Array },
  ): void {
    this.sequence++
    this.journal.position += record.length
    let at = 2 * checks.length
    let n = 0
    for (const { disk, block, count, resolve } of batch) {
      for (let done = 0; done < count; done++) {
        const former = disk.set(block + done, words[at++]!, checks[n++]!)
        if (former >= F.FIRST_SLOT) this.space.free(former - F.FIRST_SLOT)
      }
      resolve()
    }
    this.#grown()
  }

  #refuse(batch: readonly BlocksOp[], runs: readonly SlotRun[], error: unknown): void {
    for (const { first, count } of runs) for (let slot = first; slot < first + count; slot++) this.space.free(slot)
    this.journal.spoil()
    for (const op of batch) op.reject(error)
  }

  async #zero({ disk, block, count, resolve, reject }: ZeroOp): Promise<void> {
    try {
      const end = block + count
      const edges = edgePages(block, end)
      const record = F.newRecord(F.KIND_ZERO, this.sequence + 1, 1, 16)
      const words = new Uint32Array(record.buffer, F.RECORD_HEAD, 4)
      putBlock(words, 0, disk.index, block)
      putBlock(words, 2, 0, count)
      const { journal } = this
      await journal.write(F.sealRecord(record))
      while (edges.some(page => disk.page(page) === undefined)) await disk.load(edges)
      this.sequence++
      journal.position += record.length
      for (const page of applyZero(disk, block, end, slot => this.space.free(slot))) this.reclaim(page)
      resolve()
      this.#grown()
    } catch (error) {
      this.#refuse([], [], error)
      reject(error)
    }
  }

  #grown(): void {
    if (this.space.freedCount > limits.overlayFreedSlots && !this.#syncing) void this.flush().catch(() => {})
    if (this.journal.position > limits.overlayJournalBytes || this.share.dirty > limits.overlayPagesDirty)
      void this.wantsMap().catch(() => {})
  }

  // Slots of pages that are gone

  /** Gives up the slots of a page's blocks, and later its own. */
  reclaim(page: DetachedPage): void {
    this.#detached.push(page)
    this.#reclaiming ??= this.#reclaimAll().finally(() => {
      this.#reclaiming = undefined
    })
  }

  /** Undefined where nothing waits to be given up. */
  reclaimed(): Promise<void> | undefined {
    return this.#reclaiming
  }

  async #reclaimAll(): Promise<void> {
    while (this.#detached.length > 0) {
      const some = this.#detached.splice(0, limits.overlayPagesPerRead)
      for (const words of await wordsOf(this.data, some))
        if (words !== undefined) freeAll(words, slot => this.space.free(slot))
      for (const { location } of some) if (location >= F.FIRST_SLOT) this.space.freePage(location - F.FIRST_SLOT)
      if (this.space.freedCount > limits.overlayFreedSlots) await this.flush().catch(() => {})
      await new Promise(resolve => setImmediate(resolve))
    }
    if (this.#failure === undefined) await this.flush().catch(() => {})
  }

  // Durability

  async #syncAll(): Promise<void> {
    this.#syncing = true
    while (this.#waiting.length > 0) {
      const waiting = this.#waiting
      this.#waiting = []
      try {
        await this.#sync(run => this.alone(run))
        for (const { resolve } of waiting) resolve()
      } catch (error) {
        for (const { reject } of waiting) reject(error)
      }
    }
    this.#syncing = false
  }

  /** A sync from inside the queue, which its mark could not wait for. It may run beside another one. */
  async #syncBeside(): Promise<void> {
    await this.#sync(run => run())
  }

  async #sync(alone: (run: () => Promise<void>) => Promise<void>): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure
    const synced = this.sequence
    const freed = this.space.syncBegins()
    try {
      await this.syncFiles([this.data, ...this.journals.map(({ file }) => file)])
      let marked = this.journal
      let end = 0
      await alone(async () => {
        marked = this.journal
        await marked.append(F.encodeMark(this.sequence, synced))
        end = marked.position
      })
      await this.syncFiles([marked.file])
      this.#notes++
      await marked.file.writeAt(F.encodeNote(this.#notes, end), F.NOTE_POSITIONS[this.#notes & 1]!).catch(() => {})
    } catch (error) {
      this.space.keepFreed(freed)
      throw error
    }
    this.space.release(freed)
    await this.space.giveBack().catch(() => {})
  }

  /**
   * After a failed fsync the kernel may have dropped the pages and would report success the next time. So it is never
   * forgotten: nothing is called durable any more, and the next opening goes back to what was.
   */
  async syncFiles(files: readonly OverlayFile[]): Promise<void> {
    const results = await Promise.allSettled(files.map(file => file.sync()))
    const failed = results.find(result => result.status === 'rejected')
    if (failed === undefined && this.#failure === undefined) return
    if (this.#failure === undefined) {
      this.#failure = new LifeboatError('file-failed', 'an fsync of the overlay failed: written data may be lost', {
        cause: failed?.reason,
        hint: 'Check the disk below the overlay, then start the session again: it says what was lost.',
      })
      void this.alone(async () => {
        const { file, position } = this.journal
        await file.writeAt(F.encodeFailure(this.sequence), position).catch(() => {})
        this.journal.position += F.RECORD_HEAD
      })
    }
    throw this.#failure
  }

  get failure(): LifeboatError | undefined {
    return this.#failure
  }
}

const blocksOf = (batch: readonly BlocksOp[]): number => {
  let count = 0
  for (const op of batch) count += op.count
  return count
}

const recordBytes = (blocks: number): number => F.RECORD_HEAD + 16 * blocks

function pagesAreThere({ disk, block, count }: BlocksOp): boolean {
  const last = Math.floor((block + count - 1) / F.PAGE_BLOCKS)
  for (let page = Math.floor(block / F.PAGE_BLOCKS); page <= last; page++)
    if (disk.page(page) === undefined) return false
  return true
}

function pagesOf({ block, count }: { readonly block: number; readonly count: number }): number[] {
  const first = Math.floor(block / F.PAGE_BLOCKS)
  const last = Math.floor((block + count - 1) / F.PAGE_BLOCKS)
  return Array.from({ length: last - first + 1 }, (_, n) => first + n)
}
