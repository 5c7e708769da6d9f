/**
 * The segments in the cache's folder: which there are, what they hold, which goes next. Each has one writer and is only ever
 * appended to; it is removed as a whole by any process, and who has it open reads on. So nothing here needs a lock.
 */
import path from 'node:path'
import pLimit from 'p-limit'
import type { Clock } from '../core/clock.ts'
import { limits } from '../core/limits.ts'
import type { CacheFiles, SegmentFile, SegmentStatus } from './disk-cache-files.ts'
import {
  dataOffset,
  encodeHeader,
  entryBytes,
  entryOffset,
  headerBytes,
  parseEntries,
  parseHeader,
  type SegmentShape,
  shapeOf,
} from './disk-cache-format.ts'
import { OpenSegments } from './disk-cache-open-segments.ts'
import { RecordTable } from './disk-cache-table.ts'

const ENDING = '.segment'

export interface Segment {
  /** In this process; never used twice. */
  readonly number: number
  readonly name: string
  readonly path: string
  readonly shape: SegmentShape
  /** Entries that are in the table. */
  entries: number
  modifiedMs: number
  readonly isOwn: boolean
}

/** One that this process writes. */
export interface OwnSegment extends Segment {
  readonly file: SegmentFile
}

export interface SegmentsOptions {
  readonly folder: string
  readonly maxBytes: number
  readonly clock: Clock
  readonly files: CacheFiles
  readonly newName: () => string
}

export class Segments {
  readonly table: RecordTable
  readonly segmentBytes: number
  evicted = 0
  readonly #options: SegmentsOptions
  readonly #byNumber = new Map<number, Segment>()
  readonly #byName = new Map<string, Segment>()
  readonly #open: OpenSegments
  #numbers = 0
  #refreshing: Promise<void> | undefined

  constructor(options: SegmentsOptions) {
    this.#options = options
    this.table = new RecordTable(number => this.#byNumber.has(number))
    this.#open = new OpenSegments(options.files)
    const part = Math.floor(options.maxBytes / limits.diskCacheSegmentsUsual)
    this.segmentBytes = Math.max(limits.diskCacheSegmentMin, Math.min(limits.diskCacheSegmentMax, part))
  }

  get(number: number): Segment | undefined {
    return this.#byNumber.get(number)
  }

  /** What other processes have added and removed since. Does not throw: what cannot be read is not there. */
  refresh(): Promise<void> {
    this.#refreshing ??= this.#refresh()
      .catch(() => {})
      .finally(() => {
        this.#refreshing = undefined
      })
    return this.#refreshing
  }

  /** Reads of a segment's file while `work` runs. Throws what opening and `work` throw; one that is gone is forgotten. */
  async use<T>(segment: Segment, work: (file: SegmentFile) => Promise<T>): Promise<T> {
    try {
      return await this.#open.use(segment.path, work)
    } catch (error) {
      if (isGone(error)) this.forget(segment)
      throw error
    }
  }

  /** Says to all processes that it was read from; the least recently used one goes first. */
  async used(segment: Segment): Promise<void> {
    const now = this.#options.clock.now()
    if (now.getTime() - segment.modifiedMs < limits.diskCacheTouchMs) return
    segment.modifiedMs = now.getTime()
    await this.#options.files.touch(segment.path, now).catch(() => {})
  }

  /**
   * A segment to write to, or undefined where the disk has no room for one. It is made before the others are counted, so that of
   * two processes that do this at once the later one sees both; nothing is written before everything fits.
   */
  async create(): Promise<OwnSegment | undefined> {
    const { folder, files, newName, clock } = this.#options
    const name = `${newName()}${ENDING}`
    const shape = shapeOf(this.segmentBytes)
    const file = await files.create(path.join(folder, name), shape.bytes)
    try {
      const fits = await this.makeRoom(name)
      if (fits) {
        await file.writeAt(encodeHeader(shape), 0)
        const modifiedMs = clock.now().getTime()
        return this.#know({ name, path: path.join(folder, name), shape, entries: 0, modifiedMs, isOwn: true, file })
      }
    } catch (error) {
      await this.#discard(name, file)
      throw error
    }
    await this.#discard(name, file)
    return undefined
  }

  /** Removes the least recently used segments until the bound holds and the disk has its reserve. `keep` was made for what comes. */
  async makeRoom(keep?: string): Promise<boolean> {
    const { folder, files, maxBytes } = this.#options
    const found = await this.#list()
    let bytes = 0
    for (const { size } of found.values()) bytes += size
    const oldest = [...found].filter(([name]) => name !== keep).sort(([, a], [, b]) => a.modifiedMs - b.modifiedMs)
    for (const [name, { size }] of oldest) {
      const { freeBytes, totalBytes } = await files.space(folder)
      const reserve = Math.min(limits.diskCacheFreeMax, totalBytes / limits.diskCacheFreeShare)
      if (bytes <= maxBytes && freeBytes >= reserve + (keep ? this.segmentBytes : 0)) return true
      await files.unlink(path.join(folder, name)).catch(ignoreGone)
      this.evicted++
      bytes -= size
      const known = this.#byName.get(name)
      if (known) this.forget(known)
    }
    const { freeBytes, totalBytes } = await files.space(folder)
    const reserve = Math.min(limits.diskCacheFreeMax, totalBytes / limits.diskCacheFreeShare)
    return bytes <= maxBytes && freeBytes >= reserve + (keep ? this.segmentBytes : 0)
  }

  /** It is gone, or nobody shall read it any more. */
  forget(segment: Segment): void {
    this.#byNumber.delete(segment.number)
    this.#byName.delete(segment.name)
    this.table.segmentGone()
    this.#open.close(segment.path)
  }

  /** It holds damage: kept, it would be found again by every process that opens the cache. Its writer notices and goes on in another. */
  async condemn(segment: Segment): Promise<void> {
    this.forget(segment)
    await this.#options.files.unlink(segment.path).catch(() => {})
  }

  async remove(segment: OwnSegment): Promise<void> {
    this.forget(segment)
    await this.#discard(segment.name, segment.file)
  }

  /** Gives back the space of removed segments that are still open here. */
  closeFiles(): Promise<void> {
    return this.#open.closeAll()
  }

  async #discard(name: string, file: SegmentFile): Promise<void> {
    await file.close().catch(() => {})
    await this.#options.files.unlink(path.join(this.#options.folder, name)).catch(() => {})
  }

  async #list(): Promise<Map<string, SegmentStatus>> {
    const { folder, files } = this.#options
    const names = (await files.names(folder)).filter(name => name.endsWith(ENDING))
    const gate = pLimit(limits.diskCacheCallsInFlight)
    const found = await gate.map(names, name => files.status(path.join(folder, name)).catch(ignoreGone))
    const statuses = new Map<string, SegmentStatus>()
    for (const [n, name] of names.entries()) if (found[n]) statuses.set(name, found[n])
    return statuses
  }

  async #refresh(): Promise<void> {
    const found = await this.#list()
    for (const segment of [...this.#byNumber.values()]) if (!found.has(segment.name)) this.forget(segment)
    // The newest first: where the table is full, it is the oldest that are left out.
    const newest = [...found].sort(([, a], [, b]) => b.modifiedMs - a.modifiedMs)
    const gate = pLimit(limits.diskCacheCallsInFlight)
    await gate.map(newest, ([name, status]) => this.#load(name, status).catch(() => {}))
  }

  async #load(name: string, { size, modifiedMs }: SegmentStatus): Promise<void> {
    const known = this.#byName.get(name)
    if (known && (known.isOwn || known.modifiedMs === modifiedMs || known.entries === known.shape.entriesMax)) return
    const segment = known ?? (await this.#recognise(name, size))
    if (!segment) return
    await this.#loadEntries(segment)
    segment.modifiedMs = modifiedMs
  }

  async #recognise(name: string, size: number): Promise<Segment | undefined> {
    const file = path.join(this.#options.folder, name)
    const header = new Uint8Array(headerBytes)
    await this.#open.use(file, handle => handle.readAt(header, 0))
    const shape = parseHeader(header, size)
    // Without a header it is being made, or was left by one who died at that: it holds nothing, and ages like the others.
    return shape && this.#know({ name, path: file, shape, entries: 0, modifiedMs: 0, isOwn: false })
  }

  #know<T extends Omit<Segment, 'number'>>(segment: T): T & Segment {
    const numbered = { ...segment, number: ++this.#numbers }
    this.#byNumber.set(numbered.number, numbered)
    this.#byName.set(numbered.name, numbered)
    return numbered
  }

  /** From the last known entry to the first that was not written, or not wholly: its writer died, or is at it. */
  async #loadEntries(segment: Segment): Promise<void> {
    const { shape, number } = segment
    const end = dataOffset(shape)
    for (;;) {
      const from = entryOffset(segment.entries)
      const piece = new Uint8Array(Math.min(limits.diskCacheIndexPieceBytes, end - from))
      const length = await this.#open.use(segment.path, file => file.readAt(piece, from))
      const count = parseEntries(piece.subarray(0, length), shape, (low, high, offset, stored) =>
        this.table.add(low, high, number, offset, stored),
      )
      segment.entries += count
      if (count * entryBytes < piece.length || segment.entries >= shape.entriesMax) return
    }
  }
}

const isGone = (error: unknown): boolean => error instanceof Error && 'code' in error && error.code === 'ENOENT'

function ignoreGone(error: unknown): undefined {
  if (!isGone(error)) throw error
}
