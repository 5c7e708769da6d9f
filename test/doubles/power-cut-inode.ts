/** What a host has of a file in memory and what its disk has of it: apart until it is synced, and told apart by a power cut. */
export const SECTOR = 512

export type Draw = () => number

/** mulberry32: even numbers in [0, 1). */
export function drawing(seed: number): Draw {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

type Change = { readonly at: number; readonly bytes: Buffer } | { readonly size: number }

export class Inode {
  bytes: Buffer = Buffer.alloc(0)
  durable: Buffer = Buffer.alloc(0)
  pending: Change[] = []
  /** Changes that are no longer pending. */
  settled = 0

  apply(change: Change): void {
    this.bytes = applied(this.bytes, change)
    this.pending.push(change)
  }

  /** All changes up to a number of them, counted from the beginning. Another sync may have been faster. */
  sync(upTo: number, drop = false): void {
    const covered = this.pending.splice(0, Math.max(0, upTo - this.settled))
    this.settled += covered.length
    if (!drop) for (const change of covered) this.durable = applied(this.durable, change)
  }

  /** Gives how many sectors that were not synced came through, and how many did not. */
  cut(draw: Draw): { readonly kept: number; readonly lost: number } {
    const keep = [0, 0.1, 0.5, 0.9, 1][Math.floor(draw() * 5)]!
    const sectors: { at: number; bytes: Buffer }[] = []
    let lost = 0
    for (const change of this.pending) {
      if ('size' in change) {
        if (draw() < 0.5) continue
        this.durable = applied(this.durable, change)
        for (let n = sectors.length - 1; n >= 0; n--) if (sectors[n]!.at >= change.size) sectors.splice(n, 1)
        continue
      }
      for (let from = 0; from < change.bytes.length; ) {
        const to = Math.min(change.bytes.length, from + SECTOR - ((change.at + from) % SECTOR))
        if (draw() < keep) sectors.push({ at: change.at + from, bytes: change.bytes.subarray(from, to) })
        else lost++
        from = to
      }
    }
    for (let n = sectors.length - 1; n > 0; n--) {
      const other = Math.floor(draw() * (n + 1))
      ;[sectors[n], sectors[other]] = [sectors[other]!, sectors[n]!]
    }
    for (const sector of sectors) this.durable = applied(this.durable, sector)
    this.bytes = owned(this.durable)
    this.pending = []
    return { kept: sectors.length, lost }
  }
}

/** In memory of its own, which it may grow into. */
export function owned(bytes: Buffer): Buffer {
  const copy = Buffer.from(new ArrayBuffer(bytes.length))
  bytes.copy(copy)
  return copy
}

function applied(bytes: Buffer, change: Change): Buffer {
  const size = 'size' in change ? change.size : Math.max(bytes.length, change.at + change.bytes.length)
  let next = bytes
  if (size < bytes.length) {
    // What was cut off reads as zeros should the file grow again.
    bytes.fill(0, size)
    next = bytes.subarray(0, size)
  } else if (size > bytes.length) {
    const room = bytes.byteOffset + size <= bytes.buffer.byteLength
    next = room ? Buffer.from(bytes.buffer, bytes.byteOffset, size) : Buffer.from(new ArrayBuffer(size * 2), 0, size)
    if (!room) bytes.copy(next)
  }
  if ('bytes' in change) change.bytes.copy(next, change.at)
  return next
}
