/**
 * Where the blocks of one disk are. A page tells of 512 blocks; it lies in a slot of the data file like any block, its place
 * and check in the directory, which is in memory, as is a bit for each block that is written. Pages are loaded when they are
 * asked for and let go when there are too many; those that were changed stay until the next map is stored.
 */
import { limits } from '../core/limits.ts'
import type { Range } from '../core/range.ts'
import type { BlockReader } from './block-device.ts'
import type { OverlayFile } from './overlay-files.ts'
import {
  BELOW,
  BLOCK,
  bitCount,
  FIRST_SLOT,
  type MapDisk,
  overlayDamaged,
  PAGE_BLOCKS,
  ZERO,
} from './overlay-format.ts'

const PAGE_WORDS = 2 * PAGE_BLOCKS

export interface MapPage {
  /** Location and check of each block, in turn. */
  words: Uint32Array
  dirty: boolean
  /** `words` is being stored: a change makes a copy first. */
  sealed: boolean
  recent: boolean
}

/** What all disks of an overlay share. */
export interface MapShare {
  readonly data: OverlayFile
  resident: number
  dirty: number
}

/** A page that is no part of the map any more, whose blocks' slots are still to be given up. */
export interface DetachedPage {
  readonly words: Uint32Array | undefined
  readonly location: number
  readonly check: number
}

export class DiskMap {
  readonly index: number
  readonly name: string
  readonly size: number
  readonly blocks: number
  /** What unwritten blocks are read from. */
  base: BlockReader
  readonly locations: Uint32Array
  readonly checks: Uint32Array
  /** A bit for each written block. */
  readonly bits: Uint8Array
  readonly resident = new Map<number, MapPage>()
  readonly #share: MapShare
  writtenBlocks = 0

  constructor(index: number, name: string, base: BlockReader, share: MapShare, stored?: MapDisk) {
    this.index = index
    this.name = name
    this.size = base.size
    this.base = base
    this.blocks = Math.ceil(base.size / BLOCK)
    this.#share = share
    const pages = Math.ceil(this.blocks / PAGE_BLOCKS)
    this.locations = new Uint32Array(pages)
    this.checks = new Uint32Array(pages)
    this.bits = new Uint8Array(pages * 64)
    stored?.indexes.forEach((page, n) => {
      if (page >= pages) throw overlayDamaged('map', `it has a page past the end of ${name}`)
      this.locations[page] = stored.locations[n]!
      this.checks[page] = stored.checks[n]!
      this.bits.set(stored.bits.subarray(n * 64, n * 64 + 64), page * 64)
    })
    this.writtenBlocks = stored === undefined ? 0 : bitCount(stored.bits)
  }

  isWritten(block: number): boolean {
    return (this.bits[block >>> 3]! & (1 << (block & 7))) !== 0
  }

  /** The end of the run of blocks, up to `end`, that are written as `block` is, or not. */
  runEnd(block: number, end: number): number {
    const written = this.isWritten(block)
    const whole = written ? 0xff : 0
    let at = block + 1
    while (at < end)
      if ((at & 7) === 0 && this.bits[at >>> 3] === whole) at += 8
      else if (this.isWritten(at) === written) at++
      else break
    return Math.min(at, end)
  }

  /** The page if no disk has to be asked for it. */
  page(index: number): MapPage | undefined {
    const page = this.resident.get(index)
    if (page !== undefined) {
      page.recent = true
      return page
    }
    const location = this.locations[index]!
    if (location >= FIRST_SLOT) return undefined
    const words = new Uint32Array(PAGE_WORDS)
    if (location === ZERO) for (let n = 0; n < PAGE_WORDS; n += 2) words[n] = ZERO
    return this.#admit(index, words)
  }

  /** Brings pages into memory. They stay at least until the caller's turn ends. */
  async load(indexes: readonly number[]): Promise<void> {
    const missing = indexes.filter(index => this.page(index) === undefined)
    for (let at = 0; at < missing.length; at += limits.overlayPagesPerRead) {
      const some = missing.slice(at, at + limits.overlayPagesPerRead)
      const pages = some.map(index => ({ index, location: this.locations[index]!, check: this.checks[index]! }))
      const all = await readPages(this.#share.data, pages)
      for (const [n, { index, location, check }] of pages.entries()) {
        if (this.resident.has(index) || this.locations[index] !== location) continue
        const words = all[n]
        if (words === undefined)
          throw overlayDamaged('data', `a page of the map of ${this.name} does not match its checksum`, {
            slot: location - FIRST_SLOT,
            check,
          })
        this.#admit(index, words)
      }
    }
    // One was moved while it was read: once more.
    if (missing.some(index => this.page(index) === undefined)) await this.load(missing)
  }

  locationOf(block: number): number {
    return this.page(Math.floor(block / PAGE_BLOCKS))!.words[2 * (block % PAGE_BLOCKS)]!
  }

  checkOf(block: number): number {
    return this.page(Math.floor(block / PAGE_BLOCKS))!.words[2 * (block % PAGE_BLOCKS) + 1]!
  }

  /** The page is in memory. Gives the block's former location. */
  set(block: number, location: number, check: number): number {
    const page = this.page(Math.floor(block / PAGE_BLOCKS))!
    if (page.sealed) {
      page.words = page.words.slice()
      page.sealed = false
    }
    if (!page.dirty) {
      page.dirty = true
      this.#share.dirty++
    }
    const at = 2 * (block % PAGE_BLOCKS)
    const former = page.words[at]!
    page.words[at] = location
    page.words[at + 1] = check
    if ((former === BELOW) !== (location === BELOW)) {
      this.bits[block >>> 3]! ^= 1 << (block & 7)
      this.writtenBlocks += former === BELOW ? 1 : -1
    }
    return former
  }

  /** All blocks of a page become zeros, or are read from below again. What it told before is the result, if anything. */
  detach(index: number, location: typeof BELOW | typeof ZERO): DetachedPage | undefined {
    const former = this.locations[index]!
    const page = this.resident.get(index)
    const detached =
      page === undefined && former < FIRST_SLOT
        ? undefined
        : { words: page?.words, location: former, check: this.checks[index]! }
    if (page !== undefined) this.#drop(index, page)
    this.locations[index] = location
    this.checks[index] = 0
    this.writtenBlocks -= this.#countIn(index)
    // A page of zeros is a whole one: the last page of a disk, if it is none, is changed block by block.
    this.bits.fill(location === ZERO ? 0xff : 0, index * 64, index * 64 + 64)
    if (location === ZERO) this.writtenBlocks += PAGE_BLOCKS
    return detached
  }

  *written({ offset, length }: Range): Generator<Range> {
    const end = Math.min(this.blocks, Math.ceil((offset + length) / BLOCK))
    for (let at = Math.floor(offset / BLOCK); at < end; ) {
      const next = this.runEnd(at, end)
      if (this.isWritten(at)) yield { offset: at * BLOCK, length: Math.min(next * BLOCK, this.size) - at * BLOCK }
      at = next
    }
  }

  get writtenBytes(): number {
    const last = this.blocks - 1
    const beyond = last >= 0 && this.isWritten(last) ? this.blocks * BLOCK - this.size : 0
    return this.writtenBlocks * BLOCK - beyond
  }

  clean(page: MapPage): void {
    page.dirty = false
    page.sealed = false
    this.#share.dirty--
  }

  #admit(index: number, words: Uint32Array): MapPage {
    const page = { words, dirty: false, sealed: false, recent: true }
    this.resident.set(index, page)
    this.#share.resident++
    return page
  }

  #drop(index: number, page: MapPage): void {
    this.resident.delete(index)
    this.#share.resident--
    if (page.dirty) this.#share.dirty--
    page.dirty = false
  }

  /** Lets go of clean pages that were not asked for lately, as long as there are too many. */
  evict(): void {
    for (const [index, page] of this.resident) {
      if (this.#share.resident <= limits.overlayPagesKept) return
      if (page.dirty || page.sealed) continue
      if (page.recent) page.recent = false
      else this.#drop(index, page)
    }
  }

  #countIn(page: number): number {
    return bitCount(this.bits.subarray(page * 64, page * 64 + 64))
  }
}

/** Pages from the data file; undefined where one does not match its check. */
export async function readPages(
  data: OverlayFile,
  pages: readonly { readonly location: number; readonly check: number }[],
): Promise<(Uint32Array | undefined)[]> {
  const words = pages.map(() => new Uint32Array(PAGE_WORDS))
  const parts = words.map(({ buffer }) => new Uint8Array(buffer))
  const checks = new Uint32Array(pages.length)
  await data.readBlocks(
    parts,
    Float64Array.from(pages, ({ location }) => (location - FIRST_SLOT) * BLOCK),
    checks,
  )
  return words.map((page, n) => (checks[n] === pages[n]!.check ? page : undefined))
}
