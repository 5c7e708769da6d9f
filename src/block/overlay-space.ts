/**
 * The slots of the data file: 4 KiB each, written once and then left alone until nothing that could come back refers to them.
 *
 * A slot that is given up goes through this: one that was taken after the last sync began was never durable, and is free at
 * once. Any other is named by what a power cut would bring back, so that it is free when the next sync has ended; one that
 * held a page of the map, when the next map is durable. While a freeze stands, what it shows is kept besides.
 */
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { OverlayFile } from './overlay-files.ts'
import { BLOCK, bitCount } from './overlay-format.ts'

/** Space is asked for and given back in these: 256 KiB. */
const GROUP = 64
/** Whether a group's space is certain. */
const UNBACKED = 0
const BACKED = 1
const LEAVING = 2
/** Of a file that was there already: it may have space. */
const UNKNOWN = 3
const SLOTS_MAX = 2 ** 32 - 4

export interface SlotRun {
  readonly first: number
  readonly count: number
}

export class SlotSpace {
  readonly #file: OverlayFile
  readonly #reserveGroups: number
  /** A bit each; those at or past `slots` are not there. */
  #used: Uint8Array
  /** Taken since the last sync began. */
  #young: Uint8Array
  /** A byte for each group: its space is certain. */
  #backed: Uint8Array
  /** What a freeze shows. */
  #frozen: Uint8Array | undefined
  #frozenFreed: number[] = []
  #freed: number[] = []
  #freedPages: number[] = []
  #cursor = 0
  /** Slots that may be taken: used or not. */
  slots: number
  usedCount = 0
  #fallocate = true
  /** Free slots whose space is certain. */
  #available = 0
  #cleared = 0
  #givingBack = false
  readonly #forgone = new Set<number>()

  constructor(file: OverlayFile, used: Uint8Array, slots: number, reserveBytes: number) {
    this.#file = file
    this.#reserveGroups = Math.max(1, Math.floor(reserveBytes / BLOCK / GROUP))
    this.slots = Math.ceil(slots / GROUP) * GROUP
    this.#used = grown(used, this.slots)
    this.#young = new Uint8Array(this.#used.length)
    this.#backed = new Uint8Array(this.#used.length / 8).fill(UNKNOWN)
    this.usedCount = bitCount(this.#used)
    // Taking begins behind what is there, where runs are long.
    this.#cursor = this.slots
  }

  get freedCount(): number {
    return this.#freed.length
  }

  isUsed(slot: number): boolean {
    return (this.#used[slot >>> 3]! & (1 << (slot & 7))) !== 0
  }

  /** For replaying a journal: the slot is named by it. */
  claim(slot: number): void {
    if (slot >= this.slots) this.#grow(slot + 1 - this.slots)
    this.#forgone.delete(slot)
    if (!this.isUsed(slot)) this.#set(slot)
  }

  /** `count` slots if they can be had without asking the filesystem; all or nothing. Not far back where little is free there. */
  take(count: number, anywhere = false): SlotRun[] | undefined {
    if (this.#available < count) return undefined
    const mayWrap = anywhere || this.slots - this.usedCount >= this.usedCount / 4
    const runs: { first: number; count: number }[] = []
    let missing = count
    let at = this.#cursor
    // One sweep, from the cursor to where it began.
    for (let left = this.slots; missing > 0 && left > 0; ) {
      if (at >= this.slots) {
        if (!mayWrap) return undefined
        at = 0
      }
      if ((at & (GROUP - 1)) === 0 && this.#backed[at / GROUP] !== BACKED) {
        at += GROUP
        left -= GROUP
      } else if (this.#used[at >>> 3] === 0xff && (at & 7) === 0) {
        at += 8
        left -= 8
      } else {
        if (!this.isUsed(at) && this.#backed[Math.floor(at / GROUP)] === BACKED) {
          const last = runs.at(-1)
          if (last !== undefined && last.first + last.count === at) last.count++
          else runs.push({ first: at, count: 1 })
          missing--
        }
        at++
        left--
      }
    }
    if (missing > 0) return undefined
    this.#cursor = at
    for (const { first, count } of runs) for (let slot = first; slot < first + count; slot++) this.#setYoung(slot)
    return runs
  }

  /** Makes sure of space for at least `count` more slots. Throws 'disk-full'. */
  async back(count: number): Promise<void> {
    let missing = count
    const most = Math.max(this.#reserveGroups, Math.ceil(count / GROUP))
    for (let group = 0; missing > 0 && group * GROUP < this.slots; group++) {
      if (!this.#isUncertain(group)) continue
      let end = group
      let free = 0
      for (; end * GROUP < this.slots && this.#isUncertain(end) && end - group < most; end++) free += this.#freeIn(end)
      if (free === 0) continue
      await this.#backGroups(group, end - group)
      this.#cursor = Math.min(this.#cursor, group * GROUP)
      missing -= free
    }
    while (missing > 0) {
      const group = this.slots / GROUP
      const least = Math.ceil(missing / GROUP)
      const groups = Math.max(this.#reserveGroups, least)
      if ((group + groups) * GROUP > SLOTS_MAX) throw full('the overlay has reached its 16 TiB')
      const got = await this.#backGroups(group, groups).then(
        () => groups,
        () => this.#backGroups(group, least).then(() => least),
      )
      this.#grow(got * GROUP)
      for (let at = group; at < group + got; at++) this.#setBacked(at)
      this.#cursor = group * GROUP
      missing -= got * GROUP
    }
  }

  async #backGroups(group: number, groups: number): Promise<void> {
    if (this.#fallocate) this.#fallocate = await this.#file.reserve(group * GROUP * BLOCK, groups * GROUP * BLOCK)
    for (let at = group; at < group + groups && at * GROUP < this.slots; at++) this.#setBacked(at)
  }

  #setBacked(group: number): void {
    if (this.#backed[group] === BACKED) return
    this.#backed[group] = BACKED
    this.#available += this.#freeIn(group)
  }

  /** Replaying: given up by one record, and perhaps taken again by a later one. */
  forgo(slot: number): void {
    if (!this.isUsed(slot)) return
    this.#clear(slot)
    this.#forgone.add(slot)
  }

  /** The records are through: what they gave up is still named by what the last sync has left. */
  replayed(): void {
    for (const slot of this.#forgone) {
      this.#set(slot)
      this.#freed.push(slot)
    }
    this.#forgone.clear()
  }

  free(slot: number): void {
    if (this.#isYoung(slot)) this.#clear(slot)
    else this.#freed.push(slot)
  }

  /** A page of the map that the next map does not name. */
  freePage(slot: number): void {
    this.#freedPages.push(slot)
  }

  /** A sync begins: it makes durable what has been taken until now. What it gives back at its end is the result. */
  syncBegins(): readonly number[] {
    this.#young.fill(0)
    const freed = this.#freed
    this.#freed = []
    return freed
  }

  takeFreedPages(): readonly number[] {
    const freed = this.#freedPages
    this.#freedPages = []
    return freed
  }

  /** What was given up and is not named by anything durable any more. */
  release(slots: readonly number[]): void {
    for (const slot of slots)
      if (this.#frozen !== undefined && bitAt(this.#frozen, slot)) this.#frozenFreed.push(slot)
      else this.#clear(slot)
  }

  /** Of slots whose sync failed: they stay as they are. */
  keepFreed(slots: readonly number[]): void {
    for (const slot of slots) this.#freed.push(slot)
  }

  /** The slots that a map made now names: used ones without what has been given up. */
  image(): Uint8Array {
    const image = this.#used.slice()
    for (const list of [this.#freed, this.#freedPages, this.#frozenFreed])
      for (const slot of list) image[slot >>> 3]! &= ~(1 << (slot & 7))
    return image
  }

  freeze(image: Uint8Array): void {
    this.#frozen = image
  }

  thaw(): void {
    this.#frozen = undefined
    const freed = this.#frozenFreed
    this.#frozenFreed = []
    this.release(freed)
  }

  /** Gives groups back to the filesystem that hold nothing, but for some that are kept for what comes next. */
  async giveBack(): Promise<void> {
    if (this.#givingBack || this.#cleared < GROUP) return
    if ((this.slots - this.usedCount) * BLOCK <= limits.overlaySpaceKept) return
    this.#givingBack = true
    this.#cleared = 0
    let keep = limits.overlaySpaceKept / BLOCK / GROUP
    try {
      for (let group = 0; group * GROUP < this.slots; group++) {
        if (!this.#isIdle(group) || keep-- > 0) continue
        let end = group
        while (end * GROUP < this.slots && this.#isIdle(end)) end++
        await this.#punch(group, end)
        group = end
      }
    } finally {
      this.#givingBack = false
    }
  }

  #isIdle(group: number): boolean {
    const state = this.#backed[group]
    return (state === BACKED || state === UNKNOWN) && this.#freeIn(group) === GROUP
  }

  #isUncertain(group: number): boolean {
    return this.#backed[group] === UNBACKED || this.#backed[group] === UNKNOWN
  }

  /** Nobody takes a slot of these groups, or reserves their space, until they are punched. */
  async #punch(group: number, end: number): Promise<void> {
    for (let at = group; at < end; at++) if (this.#backed[at] === BACKED) this.#available -= GROUP
    this.#backed.fill(LEAVING, group, end)
    try {
      await this.#file.punch(group * GROUP * BLOCK, (end - group) * GROUP * BLOCK)
    } finally {
      this.#backed.fill(UNBACKED, group, end)
    }
  }

  #freeIn(group: number): number {
    let used = 0
    for (let at = group * 8; at < group * 8 + 8; at++) used += POPCOUNT[this.#used[at]!]!
    return GROUP - used
  }

  #isYoung(slot: number): boolean {
    return bitAt(this.#young, slot)
  }

  #setYoung(slot: number): void {
    this.#set(slot)
    this.#young[slot >>> 3]! |= 1 << (slot & 7)
  }

  #set(slot: number): void {
    this.#used[slot >>> 3]! |= 1 << (slot & 7)
    this.usedCount++
    if (this.#backed[Math.floor(slot / GROUP)] === BACKED) this.#available--
  }

  #clear(slot: number): void {
    this.#used[slot >>> 3]! &= ~(1 << (slot & 7))
    this.#young[slot >>> 3]! &= ~(1 << (slot & 7))
    this.usedCount--
    if (this.#backed[Math.floor(slot / GROUP)] === BACKED) this.#available++
    this.#cleared++
  }

  #grow(count: number): void {
    this.slots = Math.ceil((this.slots + count) / GROUP) * GROUP
    const bytes = this.slots / 8
    if (bytes <= this.#used.length) return
    const room = Math.max(bytes, this.#used.length * 2)
    this.#used = grown(this.#used, room * 8)
    this.#young = grown(this.#young, room * 8)
    this.#backed = grown(this.#backed, room)
  }
}

const POPCOUNT = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll('0', '').length)

const bitAt = (bits: Uint8Array, index: number): boolean => (bits[index >>> 3]! & (1 << (index & 7))) !== 0

function grown(bits: Uint8Array, count: number): Uint8Array {
  const bytes = new Uint8Array(Math.max(8, count / 8))
  bytes.set(bits.subarray(0, bytes.length))
  return bytes
}

const full = (message: string) =>
  new LifeboatError('disk-full', message, { hint: 'Commit or migrate the session, or discard what is not needed.' })
