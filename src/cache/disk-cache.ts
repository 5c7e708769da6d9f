/**
 * The cache on local disk, under the one in memory and shared by all processes of a user: sealed records as the store has
 * them (docs/cache-format.md). It never fails a read and is never believed: a record is checked here and authenticated by
 * whoever opens it; what is damaged is dropped, fetched again and counted.
 */
import type { Clock } from '../core/clock.ts'
import { messageOf } from '../core/errors.ts'
import { hex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { RecordCache, RecordName } from '../repository/record-cache.ts'
import { planRuns } from '../repository/record-runs.ts'
import { type CacheFiles, nodeCacheFiles } from './disk-cache-files.ts'
import { parseRecord, type RecordKey, recordHeadBytes, recordKey } from './disk-cache-format.ts'
import { type Segment, Segments } from './disk-cache-segments.ts'
import { DiskCacheWriter } from './disk-cache-writer.ts'

export interface DiskCacheOptions {
  /** The cache's own; made if it is not there. */
  readonly folder: string
  /** Of all segments together, whoever wrote them. Where processes differ, each keeps to its own bound when it writes. */
  readonly maxBytes: number
  readonly clock: Clock
  readonly random: Random
  /** Said once: the cache does without what failed. */
  readonly onTrouble?: (message: string) => void
  readonly files?: CacheFiles
}

/** Counted since it was opened. */
export interface DiskCacheFigures {
  /** Records that were read from it, and their stored bytes. */
  readonly hits: number
  readonly bytesRead: number
  readonly misses: number
  /** Records that failed their check, whose segment then goes as a whole, or did not authenticate after it: fetched again. */
  readonly damaged: number
  /** Reads that the disk failed. */
  readonly readFailures: number
  readonly kept: number
  readonly bytesKept: number
  /** Not kept: the writer was behind, the disk full or failing, the record too large. */
  readonly leftOut: number
  readonly writeFailures: number
  readonly segmentsEvicted: number
  /** Of its index in memory. */
  readonly indexBytes: number
}

export interface DiskCache extends RecordCache, AsyncDisposable {
  figures(): DiskCacheFigures
  /** Resolves when what was offered so far is written or left out. */
  settled(): Promise<void>
  /** Looks for what is there and what other processes have added. It happens by itself, after the start and after misses. */
  refresh(): Promise<void>
}

/** Begins to read the indexes of the segments, a thousandth of their bytes; `refresh` waits for it. Undefined where the folder cannot be used, which `onTrouble` is told. */
export async function openDiskCache(options: DiskCacheOptions): Promise<DiskCache | undefined> {
  const { folder, files = nodeCacheFiles, onTrouble = () => {} } = options
  try {
    await files.ownFolder(folder)
  } catch (error) {
    onTrouble(`there is no cache on disk: ${messageOf(error)}`)
    return undefined
  }
  return new KeptRecords({ ...options, files, onTrouble })
}

/** A record that was asked for, at its place in a segment. */
interface Wanted {
  readonly index: number
  readonly key: RecordKey
  readonly offset: number
  /** With its head. */
  readonly length: number
}

class KeptRecords implements DiskCache {
  readonly #segments: Segments
  readonly #writer: DiskCacheWriter
  readonly #clock: Clock
  readonly #closed = new AbortController()
  readonly #attendance: Promise<void>
  readonly #figures = { hits: 0, bytesRead: 0, misses: 0, damaged: 0, readFailures: 0 }
  readonly #background = new Set<Promise<void>>()
  #refreshedMs = 0

  constructor({ folder, maxBytes, clock, random, files, onTrouble }: Required<DiskCacheOptions>) {
    this.#clock = clock
    this.#segments = new Segments({ folder, maxBytes, clock, files, newName: () => hex(random(10)) })
    this.#writer = new DiskCacheWriter({ segments: this.#segments, clock, onTrouble })
    this.#attendance = this.#attend()
  }

  figures(): DiskCacheFigures {
    const { failures: writeFailures, ...written } = this.#writer.figures
    const { evicted: segmentsEvicted, table } = this.#segments
    return { ...this.#figures, ...written, writeFailures, segmentsEvicted, indexBytes: table.bytes }
  }

  settled(): Promise<void> {
    return this.#writer.settled()
  }

  async refresh(): Promise<void> {
    this.#refreshedMs = this.#clock.monotonicMs()
    await this.#segments.refresh()
  }

  has(name: RecordName): boolean {
    if (this.#segments.table.get(recordKey(name))) return true
    this.#figures.misses++
    // Perhaps another process has fetched it in the meantime: not for this reader, but for the next.
    if (this.#clock.monotonicMs() - this.#refreshedMs > limits.diskCacheRefreshMs) this.#inBackground(this.refresh())
    return false
  }

  keep(name: RecordName, stored: Uint8Array): void {
    const key = recordKey(name)
    if (!this.#segments.table.get(key)) this.#writer.offer(key, stored)
  }

  refuse(name: RecordName): void {
    const key = recordKey(name)
    const place = this.#segments.table.get(key)
    if (place) this.#segments.table.delete(key, place)
    this.#figures.damaged++
  }

  async read(
    names: readonly RecordName[],
    { signal }: AbortOptions = {},
  ): Promise<readonly (Uint8Array | undefined)[]> {
    const found: (Uint8Array | undefined)[] = names.map(() => undefined)
    const bySegment = new Map<Segment, Wanted[]>()
    for (const [index, name] of names.entries()) {
      const key = recordKey(name)
      const place = this.#segments.table.get(key)
      const segment = place && this.#segments.get(place.segment)
      if (!segment) continue
      const wanted = { index, key, offset: place.offset, length: recordHeadBytes + place.length }
      const others = bySegment.get(segment)
      if (others) others.push(wanted)
      else bySegment.set(segment, [wanted])
    }
    const tasks: Promise<void>[] = []
    for (const [segment, wanted] of bySegment) {
      for (const run of planRuns(wanted, RUN_LIMITS)) tasks.push(this.#readRun(segment, run, found))
      this.#inBackground(this.#segments.used(segment))
    }
    await Promise.all(tasks)
    signal?.throwIfAborted()
    return found
  }

  /** Writes what it still has to, and leaves the segments to the others. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed.abort()
    await this.#attendance
    await this.#writer[Symbol.asyncDispose]()
    await Promise.all(this.#background)
    await this.#segments.closeFiles()
  }

  async #readRun(
    segment: Segment,
    { offset, length, records }: { offset: number; length: number; records: readonly Wanted[] },
    found: (Uint8Array | undefined)[],
  ): Promise<void> {
    const bytes = new Uint8Array(Buffer.allocUnsafeSlow(length).buffer)
    let read = 0
    try {
      read = await this.#segments.use(segment, file => file.readAt(bytes, offset))
    } catch {
      // Evicted by another process a moment ago, or the disk fails: the store has it too.
      if (this.#segments.get(segment.number)) this.#figures.readFailures++
      return
    }
    let isDamaged = false
    for (const wanted of records) {
      const at = wanted.offset - offset
      const stored = parseRecord(bytes.subarray(at, Math.min(read, at + wanted.length)), wanted.key)
      if (stored) {
        found[wanted.index] = stored
        this.#figures.hits++
        this.#figures.bytesRead += stored.length
        continue
      }
      this.#figures.damaged++
      isDamaged = true
    }
    if (isDamaged) this.#inBackground(this.#segments.condemn(segment))
  }

  /**
   * At the start and now and then, also when nothing is asked: removed segments give their space back, and a disk that fills up gets
   * some. A power cut may have brought back segments that were removed.
   */
  async #attend(): Promise<void> {
    const { signal } = this.#closed
    while (!signal.aborted) {
      await this.refresh()
      await this.#segments.makeRoom().catch(() => {})
      await this.#segments.closeFiles()
      await this.#clock.sleep(limits.diskCacheAttendMs, { signal }).catch(() => {})
    }
  }

  #inBackground(work: Promise<void>): void {
    const tracked: Promise<void> = work.finally(() => this.#background.delete(tracked))
    this.#background.add(tracked)
  }
}

/** Records that were fetched together lie together; a gap is cheaper to read than another call. */
const RUN_LIMITS = {
  gapBytes: limits.diskCacheGapBytes,
  runBytes: limits.diskCacheWriteBytes,
  runRecords: limits.diskCacheRunRecords,
}
