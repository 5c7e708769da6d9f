import type { PackId } from '../core/ids.ts'
import { idPrefixBytes, type PackRows } from './pack-codec.ts'
import type { ChunkRef } from './repository.ts'

/** What a stored data pack holds, by content id: its footer's columns and a hash over them, about 40 bytes a record. */
export class PackContents {
  readonly pack: PackId
  readonly #rows: PackRows
  /** Row + 1, open addressing by the first 4 bytes of the id; ids are uniformly distributed. */
  readonly #places: Uint32Array

  constructor(pack: PackId, rows: PackRows) {
    this.pack = pack
    this.#rows = rows
    this.#places = new Uint32Array(2 ** Math.ceil(Math.log2(rows.count * 2 + 1)))
    const mask = this.#places.length - 1
    for (let row = 0; row < rows.count; row++) {
      let place = startOf(rows.idPrefixes, row * idPrefixBytes) & mask
      while (this.#places[place] !== 0) place = (place + 1) & mask
      this.#places[place] = row + 1
    }
  }

  get count(): number {
    return this.#rows.count
  }

  /** Where the content with this id lies, or undefined. 20 of its 32 bytes are compared: more than anybody can bring to collide. */
  find(id: Uint8Array): ChunkRef | undefined {
    const { idPrefixes, offsets, lengths, origins } = this.#rows
    const mask = this.#places.length - 1
    for (let place = startOf(id, 0) & mask; this.#places[place] !== 0; place = (place + 1) & mask) {
      const row = this.#places[place]! - 1
      const at = row * idPrefixBytes
      if (Buffer.compare(idPrefixes.subarray(at, at + idPrefixBytes), id.subarray(0, idPrefixBytes)) !== 0) continue
      // In a rewritten object the slot is that of the origin, and the offset a hint.
      const slot = origins ? origins.slots[row]! : row
      return { id, pack: this.pack, slot, offset: offsets[row]!, length: lengths[row]! }
    }
    return undefined
  }
}

const startOf = (id: Uint8Array, at: number): number =>
  (id[at]! << 24) | (id[at + 1]! << 16) | (id[at + 2]! << 8) | id[at + 3]!
