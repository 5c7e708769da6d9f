import { hex, type PackId, packId, unhex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { idPrefixBytes } from './pack-codec.ts'

const PACK_BYTES = 16
const HOOK_BYTES = idPrefixBytes + 4
const SEGMENTS = 16
/** Of a pack word: number + 1. The two bits above are those of byte 0 of the id that tell one hook in four from the others. */
const NUMBER_MASK = 0x3fffffff
/** Where larger buffers would double, they grow by this much: a doubled one of 8 MiB is 8 MiB for nothing. */
const GROWTH_MAX = 1 << 20

/**
 * From a sampled content id to the pack that holds it: a hash table in flat columns, 11 to 21 bytes a hook, cut into segments
 * so that only a sixteenth is there twice while it grows. It keeps 4 bytes of an id, so that it may point to a wrong pack,
 * which the pack's footer then tells. The first pack of an id stays. When it is full it keeps one hook in four, and takes no
 * others from then on: a coarser index of everything finds more than a fine one of the newest quarter.
 */
export class HookTable {
  readonly #segments = Array.from({ length: SEGMENTS }, () => new Segment(64))
  readonly #hooksMax: number
  #count = 0
  #isThinned = false
  #packs = new Uint8Array(64 * PACK_BYTES)
  #packCount = 0

  constructor(hooksMax: number = limits.dedupHooksMax) {
    this.#hooksMax = hooksMax
  }

  get isFull(): boolean {
    return this.#isThinned && this.#count >= this.#hooksMax
  }

  get count(): number {
    return this.#count
  }

  get packCount(): number {
    return this.#packCount
  }

  get memoryBytes(): number {
    return this.#segments.reduce((sum, segment) => sum + segment.memoryBytes, this.#packs.length)
  }

  addPack(pack: PackId): number {
    const used = this.#packCount * PACK_BYTES
    if (used === this.#packs.length) {
      const larger = new Uint8Array(used + Math.min(used, GROWTH_MAX))
      larger.set(this.#packs)
      this.#packs = larger
    }
    this.#packs.set(unhex(pack), used)
    return this.#packCount++
  }

  packAt(number: number): PackId | undefined {
    if (number < 0 || number >= this.#packCount) return undefined
    return packId(hex(this.#packs.subarray(number * PACK_BYTES, (number + 1) * PACK_BYTES)))
  }

  /** `hooks` as in an index object, positions relative to pack number `firstPack`. */
  addAll(hooks: Uint8Array, firstPack: number): void {
    const view = new DataView(hooks.buffer, hooks.byteOffset, hooks.length)
    for (let at = 0; at < hooks.length && !this.isFull; at += HOOK_BYTES)
      this.add(hooks, at, firstPack + view.getUint32(at + idPrefixBytes))
  }

  add(id: Uint8Array, at: number, pack: number): void {
    const isCoarse = id[at]! >> 6 === 0
    if (this.isFull || (this.#isThinned && !isCoarse)) return
    const word = (((id[at]! >> 6) << 30) | (pack + 1)) >>> 0
    if (!this.#segments[segmentOf(id, at)]!.insert(tagOf(id, at), word)) return
    this.#count++
    if (this.#count >= this.#hooksMax && !this.#isThinned) this.#thin()
  }

  /** The pack number, or -1. */
  find(id: Uint8Array, at = 0): number {
    return this.#segments[segmentOf(id, at)]!.find(tagOf(id, at))
  }

  #thin(): void {
    this.#isThinned = true
    this.#count = 0
    for (const [n, segment] of this.#segments.entries()) {
      const kept = segment.thinned()
      this.#segments[n] = kept
      this.#count += kept.count
    }
  }
}

class Segment {
  count = 0
  #tags: Uint32Array
  /** 0 is an empty place. */
  #words: Uint32Array

  constructor(places: number) {
    this.#tags = new Uint32Array(places)
    this.#words = new Uint32Array(places)
  }

  get memoryBytes(): number {
    return this.#tags.byteLength + this.#words.byteLength
  }

  find(tag: number): number {
    const mask = this.#words.length - 1
    for (let place = tag & mask; this.#words[place] !== 0; place = (place + 1) & mask)
      if (this.#tags[place] === tag) return (this.#words[place]! & NUMBER_MASK) - 1
    return -1
  }

  /** False where the tag was there. */
  insert(tag: number, word: number): boolean {
    if (this.count * 4 >= this.#words.length * 3) this.#grow()
    const mask = this.#words.length - 1
    let place = tag & mask
    for (; this.#words[place] !== 0; place = (place + 1) & mask) if (this.#tags[place] === tag) return false
    this.#tags[place] = tag
    this.#words[place] = word
    this.count++
    return true
  }

  thinned(): Segment {
    const kept = new Segment(64)
    for (const [place, word] of this.#words.entries())
      if (word !== 0 && word >>> 30 === 0) kept.insert(this.#tags[place]!, word)
    return kept
  }

  #grow(): void {
    const [tags, words] = [this.#tags, this.#words]
    this.#tags = new Uint32Array(words.length * 2)
    this.#words = new Uint32Array(words.length * 2)
    this.count = 0
    for (let place = 0; place < words.length; place++) if (words[place] !== 0) this.insert(tags[place]!, words[place]!)
  }
}

/** Byte 0 is nearly the same in all hooks, so these begin after it. */
const tagOf = (id: Uint8Array, at: number): number =>
  ((id[at + 1]! << 24) | (id[at + 2]! << 16) | (id[at + 3]! << 8) | id[at + 4]!) >>> 0
const segmentOf = (id: Uint8Array, at: number): number => id[at + 5]! & (SEGMENTS - 1)
