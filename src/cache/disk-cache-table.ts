/**
 * Where the kept records lie: open addressing over typed arrays, 20 bytes a place, since a Map with a string for each of a
 * million records would take ten times that. Eight bytes of a key tell records apart; the head of the record has the rest.
 */
import { limits } from '../core/limits.ts'
import type { RecordKey } from './disk-cache-format.ts'

export interface Place {
  /** Number of the segment in this process. */
  readonly segment: number
  readonly offset: number
  readonly length: number
}

/** Key low, key high, segment (0: free), offset, length. */
const WORDS = 5
const FIRST_PLACES = 1024

export class RecordTable {
  #words = new Uint32Array(FIRST_PLACES * WORDS)
  #places = FIRST_PLACES
  /** Places that are not free, those of segments that are gone included. */
  #taken = 0
  #isFull = false
  readonly #isLive: (segment: number) => boolean
  readonly #entriesMax: number

  /** Entries of segments that are not live count as absent. */
  constructor(isLive: (segment: number) => boolean, entriesMax: number = limits.diskCacheEntriesMax) {
    this.#isLive = isLive
    this.#entriesMax = entriesMax
  }

  get bytes(): number {
    return this.#words.byteLength
  }

  get(key: RecordKey): Place | undefined {
    const at = this.#find(key)
    const segment = this.#words[at + 2]!
    if (segment === 0 || !this.#isLive(segment)) return undefined
    return { segment, offset: this.#words[at + 3]!, length: this.#words[at + 4]! }
  }

  set(key: RecordKey, { segment, offset, length }: Place): void {
    this.add(word(key, 0), word(key, 4), segment, offset, length)
  }

  /** By the first words of the key. Where the table is full of others, the record is not found until segments go. */
  add(low: number, high: number, segment: number, offset: number, length: number): void {
    let at = this.#place(low, high)
    if (this.#words[at + 2] === 0) {
      if (this.#isFull) return
      if (this.#taken >= this.#entriesMax || this.#taken * 4 >= this.#places * 3) {
        this.#rebuild()
        this.#isFull = this.#taken >= this.#entriesMax
        if (this.#isFull) return
        at = this.#place(low, high)
      }
      this.#taken++
    }
    const words = this.#words
    words[at] = low
    words[at + 1] = high
    words[at + 2] = segment
    words[at + 3] = offset
    words[at + 4] = length
  }

  /** A segment does not live any more: its places may be had again. */
  segmentGone(): void {
    this.#isFull = false
  }

  /** Forgets a record if it still lies there. */
  delete(key: RecordKey, { segment, offset }: Place): void {
    const at = this.#find(key)
    // The place stays taken, by a segment that never lives, so that probes go on behind it.
    if (this.#words[at + 2] === segment && this.#words[at + 3] === offset) this.#words[at + 2] = GONE
  }

  #find(key: RecordKey): number {
    return this.#place(word(key, 0), word(key, 4))
  }

  /** The word where that key is, or where it would be put. */
  #place(low: number, high: number): number {
    const words = this.#words
    const mask = this.#places - 1
    for (let place = low & mask; ; place = (place + 1) & mask) {
      const at = place * WORDS
      if (words[at + 2] === 0 || (words[at] === low && words[at + 1] === high)) return at
    }
  }

  /** Leaves out what is gone, and doubles when what is left fills more than three eighths. */
  #rebuild(): void {
    const old = this.#words
    let live = 0
    for (let at = 2; at < old.length; at += WORDS) if (old[at] !== 0 && this.#isLive(old[at]!)) live++
    if (live * 8 > this.#places * 3) this.#places *= 2
    this.#words = new Uint32Array(this.#places * WORDS)
    this.#taken = live
    const mask = this.#places - 1
    for (let at = 0; at < old.length; at += WORDS) {
      const segment = old[at + 2]!
      if (segment === 0 || !this.#isLive(segment)) continue
      let place = old[at]! & mask
      while (this.#words[place * WORDS + 2] !== 0) place = (place + 1) & mask
      for (let n = 0; n < WORDS; n++) this.#words[place * WORDS + n] = old[at + n]!
    }
  }
}

const GONE = 0xff_ff_ff_ff

const word = (key: RecordKey, at: number): number =>
  (key[at]! | (key[at + 1]! << 8) | (key[at + 2]! << 16) | (key[at + 3]! << 24)) >>> 0
