import type { PackId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'

/** Which pack a record lies in. The id is made from all contents of the pack, so it is known only when that is complete. */
export interface PackPlace {
  /** Undefined while the pack is open. */
  readonly id: PackId | undefined
}

/** A record that has its place, though perhaps in a pack without a name yet. */
export interface PlacedRecord {
  /** 32 bytes: the content id. */
  readonly id: Uint8Array
  readonly place: PackPlace
  readonly slot: number
  readonly offset: number
  readonly length: number
}

const idBytes = 32

/** A pack that is being filled: the body's buffer, and for each record its content id and stored length. */
export class OpenPack {
  readonly body: Uint8Array
  /** Shared by all records of this pack; gets its id when the pack is closed. */
  readonly place: { id: PackId | undefined } = { id: undefined }
  used = 0
  plaintext = 0
  count = 0
  #ids = new Uint8Array(256 * idBytes)
  #lengths = new Uint32Array(256)

  constructor(body: Uint8Array) {
    this.body = body
  }

  get ids(): Uint8Array {
    return this.#ids.subarray(0, this.count * idBytes)
  }

  get lengths(): Uint32Array {
    return this.#lengths.subarray(0, this.count)
  }

  /** How many more records of at most `contentBytes` plain and `storedBytes` stored bytes each fit. */
  room(contentBytes: number, storedBytes: number): number {
    return Math.min(
      Math.floor((this.body.length - this.used) / storedBytes),
      limits.packSlotsMax - this.count,
      Math.floor((limits.packPlaintextMax - this.plaintext) / contentBytes),
    )
  }

  /** Enters a record whose plaintext already stands at the end of the used part of the body. `id` is copied. */
  add(id: Uint8Array, storedLength: number, contentBytes: number): PlacedRecord {
    if (this.count === this.#lengths.length) this.#grow()
    const slot = this.count++
    this.#ids.set(id, slot * idBytes)
    this.#lengths[slot] = storedLength
    const offset = this.used
    this.used += storedLength
    this.plaintext += contentBytes
    return { id: id.slice(), place: this.place, slot, offset, length: storedLength }
  }

  #grow(): void {
    const ids = new Uint8Array(this.#ids.length * 2)
    ids.set(this.#ids)
    this.#ids = ids
    const lengths = new Uint32Array(this.#lengths.length * 2)
    lengths.set(this.#lengths)
    this.#lengths = lengths
  }
}
