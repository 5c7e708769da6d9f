/** Bitmaps of many sizes in few large pieces of memory: a pack has 50 to 65,535 slots, and a repository millions of packs. */
import { MiB } from '../core/limits.ts'

const SLAB_BYTES = MiB
/** Places are counted in these: 256 slots, an incompressible pack of 64 KiB chunks. */
const UNIT_BYTES = 32
const UNITS_PER_SLAB = SLAB_BYTES / UNIT_BYTES
/** 32 bytes << 8 hold 65,536 bits. */
const SIZES = 9

/** What a bitmap is known by: its place in units + 1, and its size class. Place 0 is the empty bitmap. */
export interface BitmapPlace {
  readonly place: number
  readonly size: number
}

export class BitmapSlabs {
  readonly #slabs: Uint8Array[] = []
  readonly #free: number[][] = Array.from({ length: SIZES }, () => [])
  #used = UNITS_PER_SLAB

  get memoryBytes(): number {
    return this.#slabs.length * SLAB_BYTES
  }

  has({ place, size }: BitmapPlace, bit: number): boolean {
    if (place === 0 || bit >> 3 >= UNIT_BYTES << size) return false
    return ((this.#byte(place, bit) >> (bit & 7)) & 1) === 1
  }

  /** The bitmap with room for `bit`: itself, or a larger copy whose old place is used again. */
  grown({ place, size }: BitmapPlace, bit: number): BitmapPlace {
    if (place !== 0 && bit >> 3 < UNIT_BYTES << size) return { place, size }
    let larger = place === 0 ? 0 : size
    while (bit >> 3 >= UNIT_BYTES << larger) larger++
    const made = this.#allocate(larger)
    if (place !== 0) {
      this.#view(made, size).set(this.#view(place, size))
      this.#free[size]!.push(place)
    }
    return { place: made, size: larger }
  }

  /** There must be room. Whether the bit was clear. */
  set({ place }: BitmapPlace, bit: number): boolean {
    const unit = place - 1
    const slab = this.#slabs[Math.floor(unit / UNITS_PER_SLAB)]!
    const at = (unit % UNITS_PER_SLAB) * UNIT_BYTES + (bit >> 3)
    const mask = 1 << (bit & 7)
    if (slab[at]! & mask) return false
    slab[at]! |= mask
    return true
  }

  #byte(place: number, bit: number): number {
    const unit = place - 1
    return this.#slabs[Math.floor(unit / UNITS_PER_SLAB)]![(unit % UNITS_PER_SLAB) * UNIT_BYTES + (bit >> 3)]!
  }

  #allocate(size: number): number {
    const free = this.#free[size]!.pop()
    if (free !== undefined) {
      this.#view(free, size).fill(0)
      return free
    }
    const units = 1 << size
    // What is left of a slab is at most 8 KiB.
    if (this.#used + units > UNITS_PER_SLAB) {
      this.#slabs.push(new Uint8Array(SLAB_BYTES))
      this.#used = 0
    }
    const place = (this.#slabs.length - 1) * UNITS_PER_SLAB + this.#used + 1
    this.#used += units
    return place
  }

  #view(place: number, size: number): Uint8Array {
    const unit = place - 1
    const at = (unit % UNITS_PER_SLAB) * UNIT_BYTES
    return this.#slabs[Math.floor(unit / UNITS_PER_SLAB)]!.subarray(at, at + (UNIT_BYTES << size))
  }
}
