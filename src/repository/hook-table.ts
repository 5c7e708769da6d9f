import { hex, type PackId, packId, unhex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { idPrefixBytes } from './pack-codec.ts'

const PACK_BYTES = 16
const HOOK_BYTES = idPrefixBytes + 4

/**
 * From a sampled content id to the pack that holds it: a hash table in three flat columns, 24 to 48 bytes a hook. It keeps 8
 * bytes of an id, so that it may point to a wrong pack, which the pack's footer then tells. The first pack of an id stays.
 */
export class HookTable {
  #high = new Uint32Array(1024)
  #low = new Uint32Array(1024)
  /** Pack number + 1; 0 is an empty place. */
  #pack = new Uint32Array(1024)
  #count = 0
  #packs = new Uint8Array(64 * PACK_BYTES)
  #packCount = 0

  get isFull(): boolean {
    return this.#count >= limits.dedupHooksMax
  }

  addPack(pack: PackId): number {
    if (this.#packCount * PACK_BYTES === this.#packs.length) {
      const larger = new Uint8Array(this.#packs.length * 2)
      larger.set(this.#packs)
      this.#packs = larger
    }
    this.#packs.set(unhex(pack), this.#packCount * PACK_BYTES)
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
    if (this.isFull) return
    if (this.#count * 2 >= this.#pack.length) this.#grow()
    this.#insert(...wordsOf(id, at), pack + 1)
  }

  /** The pack number, or -1. */
  find(id: Uint8Array, at = 0): number {
    const [high, low] = wordsOf(id, at)
    const mask = this.#pack.length - 1
    for (let place = low & mask; this.#pack[place] !== 0; place = (place + 1) & mask)
      if (this.#high[place] === high && this.#low[place] === low) return this.#pack[place]! - 1
    return -1
  }

  #insert(high: number, low: number, value: number): void {
    const mask = this.#pack.length - 1
    let place = low & mask
    for (; this.#pack[place] !== 0; place = (place + 1) & mask)
      if (this.#high[place] === high && this.#low[place] === low) return
    this.#high[place] = high
    this.#low[place] = low
    this.#pack[place] = value
    this.#count++
  }

  #grow(): void {
    const [high, low, pack] = [this.#high, this.#low, this.#pack]
    this.#high = new Uint32Array(pack.length * 2)
    this.#low = new Uint32Array(pack.length * 2)
    this.#pack = new Uint32Array(pack.length * 2)
    this.#count = 0
    for (let place = 0; place < pack.length; place++)
      if (pack[place] !== 0) this.#insert(high[place]!, low[place]!, pack[place]!)
  }
}

/** The first byte's low bits are the same in all hooks, so the words begin after it. */
function wordsOf(id: Uint8Array, at: number): [number, number] {
  const word = (from: number) =>
    ((id[from]! << 24) | (id[from + 1]! << 16) | (id[from + 2]! << 8) | id[from + 3]!) >>> 0
  return [word(at + 1), word(at + 5)]
}
