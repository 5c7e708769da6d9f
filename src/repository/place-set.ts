import type { PackId } from '../core/ids.ts'
import type { ChunkRef } from './repository.ts'

/** Records by (pack, slot), a bit each: ten terabytes of chunks take about as many megabytes as a set would gigabytes. */
export class PlaceSet {
  readonly #packs = new Map<PackId, Uint8Array>()

  /** Whether it was not in yet. */
  add({ pack, slot }: Pick<ChunkRef, 'pack' | 'slot'>): boolean {
    const byte = slot >> 3
    let bits = this.#packs.get(pack)
    if (!bits || byte >= bits.length) {
      const grown = new Uint8Array(Math.max(32, (byte + 1) * 2))
      if (bits) grown.set(bits)
      bits = grown
      this.#packs.set(pack, bits)
    }
    const bit = 1 << (slot & 7)
    if (bits[byte]! & bit) return false
    bits[byte]! |= bit
    return true
  }

  has({ pack, slot }: Pick<ChunkRef, 'pack' | 'slot'>): boolean {
    return (((this.#packs.get(pack)?.[slot >> 3] ?? 0) >> (slot & 7)) & 1) === 1
  }

  /** Packs with their bits, slot 0 in bit 0 of byte 0; views. */
  entries(): IterableIterator<[PackId, Uint8Array]> {
    return this.#packs.entries()
  }

  /** Takes a pack's bits as `entries` gave them. */
  set(pack: PackId, bits: Uint8Array): void {
    this.#packs.set(pack, bits)
  }
}
