/**
 * The writing side of an overlay: all disks of a session in one queue. What arrived while the last batch was written becomes
 * the next batch: its blocks go to fresh slots, then one record in the journal names them, then the map in memory changes,
 * then the writes are acknowledged. A killed process leaves all three steps to the page cache, so that nothing acknowledged
 * is lost; after a power cut the journal counts up to its last mark, which a sync writes when all blocks before it are durable.
 */
import type { Clock } from '../core/clock.ts'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import {
  applyBatch,
  type BlocksWrite,
  blocksOf,
  pagesAreThere,
  pagesOf,
  planBatch,
  recordBytes,
} from './overlay-batch.ts'
import type { OverlayFile } from './overlay-files.ts'
import * as F from './overlay-format.ts'
import type { Journal } from './overlay-journal.ts'
import type { DiskMap, MapShare } from './overlay-map.ts'
import { applyZero, edgePages, putBlock } from './overlay-pages.ts'
import { type BlocksOp, WriteQueue, type ZeroOp } from './overlay-queue.ts'
import { PageReclaimer } from './overlay-reclaim.ts'
import type { SlotRun, SlotSpace } from './overlay-space.ts'
import { OverlaySync } from './overlay-sync.ts'

export class OverlayStore {
  readonly data: OverlayFile
  readonly space: SlotSpace
  readonly disks: readonly DiskMap[]
  readonly share: MapShare
  readonly sync: OverlaySync
  readonly reclaimer: PageReclaimer
  readonly #clock: Clock
  readonly #queue: WriteQueue
  /** The last one takes records; older ones are kept until a map makes them needless. */
  journals: Journal[]
  /** Of the last record. */
  sequence: number
  #slowUntilMs = 0
  #stalls = 0
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
    this.sync = new OverlaySync(this)
    this.reclaimer = new PageReclaimer(data, space, () => this.sync.flush())
    this.#queue = new WriteQueue({
      write: batch => (this.#writeOps(batch) ? undefined : this.#writeSlowly(batch)),
      zero: op => this.#zero(op),
    })
  }

  get journal(): Journal {
    return this.journals.at(-1)!
  }

  // What the disks call

  writeBlocks(disk: DiskMap, block: number, source: Uint8Array): Promise<void> {
    const count = source.length / F.BLOCK
    return new Promise((resolve, reject) =>
      this.#queue.push({ kind: 'blocks', disk, block, count, source, resolve, reject }),
    )
  }

  zeroBlocks(disk: DiskMap, block: number, count: number): Promise<void> {
    return new Promise((resolve, reject) => this.#queue.push({ kind: 'zero', disk, block, count, resolve, reject }))
  }

  /** All of them in this turn, or none: then false, and `writeBlocks` may do it, or say why not. */
  writeNow(writes: readonly BlocksWrite[]): boolean {
    return this.#queue.idle && this.#writeNow(writes)
  }

  /** Resolves when nothing that was asked for before is under way any more. */
  drained(): Promise<void> {
    return this.alone(async () => {})
  }

  alone<T>(run: () => Promise<T>): Promise<T> {
    return this.#queue.alone(run)
  }

  // Writing

  /**
   * In this turn, if nothing has to be waited for: small writes go to the page cache in microseconds, less than it takes to
   * hand them to another thread. A disk that makes writers wait is noticed, and gets its own thread for a while.
   */
  #writeNow(writes: readonly BlocksWrite[]): boolean {
    const count = blocksOf(writes)
    const started = this.#clock.monotonicMs()
    if (count > limits.overlayBlocksNow || started < this.#slowUntilMs) return false
    if (!this.journal.hasRoom(recordBytes(count)) || this.share.dirty > 2 * limits.overlayPagesDirty) return false
    for (const write of writes) if (!pagesAreThere(write)) return false
    const runs = this.space.take(count)
    if (runs === undefined) return false
    try {
      const plan = planBatch(writes, runs, count, this.sequence + 1, this.journal)
      this.data.writeBlocks(plan, true)
      this.#wrote(plan.record)
      applyBatch(writes, plan, this.space)
    } catch {
      this.#undo(runs)
      return false
    }
    this.#took(started)
    this.#grown()
    return true
  }

  #took(startedMs: number): void {
    const now = this.#clock.monotonicMs()
    this.#stalls = now - startedMs > limits.overlayStallMs ? this.#stalls + 1 : 0
    if (this.#stalls < limits.overlayStallsInRow) return
    this.#stalls = 0
    this.#slowUntilMs = now + limits.overlayStallCoolMs
  }

  #writeOps(batch: readonly BlocksOp[]): boolean {
    const written = this.#writeNow(batch)
    if (written) for (const { resolve } of batch) resolve()
    return written
  }

  async #writeSlowly(batch: readonly BlocksOp[]): Promise<void> {
    let runs: readonly SlotRun[] = []
    try {
      const count = blocksOf(batch)
      if (this.share.dirty > 2 * limits.overlayPagesDirty) await this.wantsMap()
      await this.journal.reserve(recordBytes(count))
      runs = await this.take(count)
      const plan = planBatch(batch, runs, count, this.sequence + 1, this.journal)
      await this.data.writeBlocks(plan, false)
      // Others may let go of a page while the next one is read.
      while (!batch.every(pagesAreThere)) for (const op of batch) await op.disk.load(pagesOf(op))
      this.#wrote(plan.record)
      applyBatch(batch, plan, this.space)
      for (const { resolve } of batch) resolve()
      this.#grown()
      for (const disk of this.disks) disk.evict()
    } catch (error) {
      this.#undo(runs)
      for (const { reject } of batch) reject(error)
    }
  }

  async #zero({ disk, block, count, resolve, reject }: ZeroOp): Promise<void> {
    try {
      const end = block + count
      const edges = edgePages(block, end)
      const record = F.newRecord(F.KIND_ZERO, this.sequence + 1, 1, 16)
      const words = new Uint32Array(record.buffer, F.RECORD_HEAD, 4)
      putBlock(words, 0, disk.index, block)
      putBlock(words, 2, 0, count)
      await this.journal.write(F.sealRecord(record))
      while (edges.some(page => disk.page(page) === undefined)) await disk.load(edges)
      this.#wrote(record)
      for (const page of applyZero(disk, block, end, slot => this.space.free(slot))) this.reclaimer.add(page)
      resolve()
      this.#grown()
    } catch (error) {
      this.#undo([])
      reject(error)
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
      if (this.space.freedCount > 0 && this.sync.failure === undefined) {
        await this.sync.beside()
        const after = this.space.take(count, true)
        if (after !== undefined) return after
      }
      throw error
    }
    const runs = this.space.take(count, true)
    if (runs === undefined) throw new LifeboatError('internal', 'space that was reserved is not there')
    return runs
  }

  /** A record is in the journal and counts. */
  #wrote(record: Uint8Array): void {
    this.sequence++
    this.journal.position += record.length
  }

  #undo(runs: readonly SlotRun[]): void {
    for (const { first, count } of runs) for (let slot = first; slot < first + count; slot++) this.space.free(slot)
    this.journal.spoil()
  }

  #grown(): void {
    if (this.space.freedCount > limits.overlayFreedSlots && !this.sync.running) void this.sync.flush().catch(() => {})
    if (this.journal.position > limits.overlayJournalBytes || this.share.dirty > limits.overlayPagesDirty)
      void this.wantsMap().catch(() => {})
  }
}
