import type { DomainId, PackId } from '../core/ids.ts'
import { idPrefixBytes, type PackKind, type PackRows } from './pack-codec.ts'
import type { ChunkRef } from './repository.ts'

/**
 * What trees say of each pack, folded into two sums, so that it can be compared with the pack's own footer when all trees
 * were walked: slot, offset, stored length and content id of every record. Some 100 bytes a pack, however many its records.
 * Ids are keyed digests, so that two sums of 32 bits tell any accident; they are no defence against a holder of the keys.
 */
export class EntrySums {
  readonly #packs = new Map<PackId, PackSum>()

  /** A record that was not seen before. */
  add(kind: PackKind, domain: DomainId, ref: ChunkRef): void {
    let sum = this.#packs.get(ref.pack)
    if (!sum) {
      sum = { kind, domain, count: 0, low: 0, high: 0 }
      this.#packs.set(ref.pack, sum)
    }
    fold(sum, ref.slot, ref.offset, ref.length, ref.id, 0)
  }

  [Symbol.iterator](): IterableIterator<[PackId, PackSum]> {
    return this.#packs.entries()
  }
}

export interface PackSum {
  readonly kind: PackKind
  readonly domain: DomainId
  count: number
  low: number
  high: number
}

/** Whether the footer says the same of the slots that `isSeen`. */
export function footerAgrees(rows: PackRows, sum: PackSum, isSeen: (slot: number) => boolean): boolean {
  const own: PackSum = { ...sum, count: 0, low: 0, high: 0 }
  for (let slot = 0; slot < rows.count; slot++)
    if (isSeen(slot)) fold(own, slot, rows.offsets[slot]!, rows.lengths[slot]!, rows.idPrefixes, slot * idPrefixBytes)
  return own.count === sum.count && own.low === sum.low && own.high === sum.high
}

function fold(sum: PackSum, slot: number, offset: number, length: number, ids: Uint8Array, at: number): void {
  let low = Math.imul(slot + 1, 0x9e3779b1) ^ Math.imul(offset + 1, 0x85ebca6b) ^ Math.imul(length, 0xc2b2ae35)
  let high = ~low
  for (let word = at; word < at + idPrefixBytes; word += 4) {
    const value = (ids[word]! << 24) | (ids[word + 1]! << 16) | (ids[word + 2]! << 8) | ids[word + 3]!
    low = mixed(low ^ value)
    high = mixed(Math.imul(high, 31) + value)
  }
  sum.count++
  sum.low = (sum.low + low) | 0
  sum.high = (sum.high + high) | 0
}

const mixed = (value: number): number => {
  const once = Math.imul(value ^ (value >>> 16), 0x7feb352d)
  return once ^ (once >>> 15)
}
