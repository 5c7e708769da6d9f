/**
 * A journal as it grows: one record behind the other, in space that is reserved ahead of them. The file ends a few zeros behind
 * its last record, at least: so one that was cut off, even where a record ended, can be told from one that never was longer.
 */
import { limits } from '../core/limits.ts'
import type { OverlayFile } from './overlay-files.ts'
import * as F from './overlay-format.ts'
import { type OverlayPlace, wholeFile } from './overlay-place.ts'
import { journalName } from './overlay-recovery.ts'

export class Journal {
  readonly number: number
  readonly file: OverlayFile
  /** Where the next record goes. */
  position: number
  /** The file's end: up to here its space is certain. */
  #reserved: number
  #torn = false

  constructor(number: number, file: OverlayFile, position: number) {
    this.number = number
    this.file = file
    this.position = position
    this.#reserved = position
  }

  /** Whether a record may be written without asking the filesystem. */
  hasRoom(bytes: number): boolean {
    return !this.#torn && this.position + bytes + F.JOURNAL_TAIL <= this.#reserved
  }

  async reserve(bytes: number): Promise<void> {
    const { file, position } = this
    if (this.#torn) {
      this.#reserved = position + F.JOURNAL_TAIL
      await file.truncate(this.#reserved)
      this.#torn = false
    }
    if (this.hasRoom(bytes)) return
    const least = bytes + F.JOURNAL_TAIL
    let length = Math.max(least, limits.overlayJournalReserve)
    await file.reserve(position, length).catch(() => {
      length = least
      return file.reserve(position, least)
    })
    await file.truncate(position + length)
    this.#reserved = position + length
  }

  /** It counts when `position` has been moved behind it. */
  async write(record: Uint8Array): Promise<void> {
    await this.reserve(record.length)
    await this.file.writeAt(record, this.position)
  }

  async append(record: Uint8Array): Promise<void> {
    await this.write(record)
    this.position += record.length
  }

  /** A write failed: what is there of it must not stand behind a later record. */
  spoil(): void {
    this.#torn = true
  }
}

/** An empty journal, durable with its name before anything in it is. */
export async function createJournal(place: OverlayPlace, number: number, after: number): Promise<Journal> {
  const { id, bootId } = place
  const head = Buffer.alloc(F.JOURNAL_HEAD + F.JOURNAL_TAIL)
  F.encodeOpening({ version: F.OVERLAY_VERSION, id, number, bootId, after }).copy(head)
  return new Journal(number, await wholeFile(place, journalName(number), head), F.JOURNAL_HEAD)
}
