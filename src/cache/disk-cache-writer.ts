/**
 * Appends records to a segment of this process, behind everybody's back: what does not fit into its queue is left out, and a
 * disk that is full or fails ends the writing for a while and nothing else.
 */

import type { Clock } from '../core/clock.ts'
import { messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import {
  dataOffset,
  encodeEntry,
  encodeRecord,
  entryBytes,
  entryOffset,
  type RecordKey,
  recordHeadBytes,
} from './disk-cache-format.ts'
import type { OwnSegment, Segments } from './disk-cache-segments.ts'

export interface WriterOptions {
  readonly segments: Segments
  readonly clock: Clock
  readonly onTrouble: (message: string) => void
}

interface Waiting {
  readonly key: RecordKey
  readonly stored: Uint8Array
}

export class DiskCacheWriter {
  readonly figures = { kept: 0, bytesKept: 0, leftOut: 0, failures: 0 }
  readonly #segments: Segments
  readonly #clock: Clock
  readonly #onTrouble: (message: string) => void
  #queue: Waiting[] = []
  #queuedBytes = 0
  #writing: Promise<void> | undefined
  #segment: OwnSegment | undefined
  /** Next free byte of it. */
  #end = 0
  #restUntilMs = Number.NEGATIVE_INFINITY
  #isTold = false
  #isClosed = false

  constructor({ segments, clock, onTrouble }: WriterOptions) {
    this.#segments = segments
    this.#clock = clock
    this.#onTrouble = onTrouble
  }

  offer(key: RecordKey, stored: Uint8Array): void {
    const isTooLarge = (recordHeadBytes + stored.length) * 4 > this.#segments.segmentBytes
    const isFull = this.#queuedBytes + stored.length > limits.diskCacheQueueBytes
    if (this.#isClosed || isTooLarge || isFull || this.#clock.monotonicMs() < this.#restUntilMs) {
      this.figures.leftOut++
      return
    }
    this.#queue.push({ key, stored })
    this.#queuedBytes += stored.length
    this.#writing ??= this.#write().finally(() => {
      this.#writing = undefined
    })
  }

  /** What was offered is on the disk, or left out. */
  async settled(): Promise<void> {
    await this.#writing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true
    await this.#writing
    await this.#segment?.file.close().catch(() => {})
  }

  async #write(): Promise<void> {
    try {
      // Whoever is served in this turn goes first, and what comes with it goes into one write.
      await new Promise<void>(resolve => setImmediate(resolve))
      while (this.#queue.length > 0) {
        const segment = await this.#current()
        if (!segment) return this.#rest('its disk is nearly full')
        await this.#append(segment, this.#take(segment))
      }
    } catch (error) {
      this.figures.failures++
      if (this.#segment) await this.#segments.remove(this.#segment)
      this.#segment = undefined
      this.#rest(messageOf(error))
    }
  }

  /** The open segment if the next record fits into it, else a new one. One that somebody has removed is written to no more. */
  async #current(): Promise<OwnSegment | undefined> {
    const next = this.#queue[0]!
    if (this.#segment) {
      const { shape, file, entries } = this.#segment
      const fits = entries < shape.entriesMax && this.#end + recordHeadBytes + next.stored.length <= shape.bytes
      const isThere = (await file.status()).links > 0
      if (fits && isThere) return this.#segment
      if (!isThere) this.#segments.forget(this.#segment)
      this.#segment = undefined
      await file.close()
    }
    this.#segment = await this.#segments.create()
    if (this.#segment) this.#end = dataOffset(this.#segment.shape)
    return this.#segment
  }

  /** As many of the queue as fit into the segment and into one write. */
  #take({ shape, entries }: OwnSegment): Waiting[] {
    let bytes = 0
    let count = 0
    for (const { stored } of this.#queue) {
      const length = recordHeadBytes + stored.length
      if (entries + count >= shape.entriesMax || this.#end + bytes + length > shape.bytes) break
      if (count > 0 && bytes + length > limits.diskCacheWriteBytes) break
      bytes += length
      count++
      this.#queuedBytes -= stored.length
    }
    return this.#queue.splice(0, count)
  }

  /** The records before the entries that lead to them: an entry without its record costs a reader a check and a fetch. */
  async #append(segment: OwnSegment, batch: readonly Waiting[]): Promise<void> {
    const places: { key: RecordKey; offset: number; length: number }[] = []
    let end = this.#end
    for (const { key, stored } of batch) {
      places.push({ key, offset: end, length: stored.length })
      end += recordHeadBytes + stored.length
    }
    const records = Buffer.allocUnsafe(end - this.#end)
    const entries = Buffer.alloc(batch.length * entryBytes)
    for (const [n, { key, offset, length }] of places.entries()) {
      const at = offset - this.#end
      encodeRecord(key, batch[n]!.stored, records.subarray(at, at + recordHeadBytes + length))
      encodeEntry({ key, offset, length }, entries.subarray(n * entryBytes, (n + 1) * entryBytes))
    }
    await segment.file.writeAt(records, this.#end)
    await segment.file.writeAt(entries, entryOffset(segment.entries))
    for (const { key, offset, length } of places)
      this.#segments.table.set(key, { segment: segment.number, offset, length })
    segment.entries += batch.length
    this.#end = end
    this.figures.kept += batch.length
    this.figures.bytesKept += records.length
  }

  #rest(reason: string): void {
    this.figures.leftOut += this.#queue.length
    this.#queue = []
    this.#queuedBytes = 0
    this.#restUntilMs = this.#clock.monotonicMs() + limits.diskCacheRestMs
    if (!this.#isTold) this.#onTrouble(`nothing is added to the cache on disk for now: ${reason}`)
    this.#isTold = true
  }
}
