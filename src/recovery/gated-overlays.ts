/**
 * Overlays whose writes can be watched and refused: what a copy needs that catches up with its clients. Every write is counted
 * while it is under way and noted when it ends, so that none can fall between an instant and the watch that began before it, nor
 * between two rounds of a copy.
 */
import type { PlacedBytes } from '../block/block-device.ts'
import { LifeboatError } from '../core/errors.ts'
import { mergeRanges, type Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { FrozenOverlays, OverlayDisk, Overlays } from './overlays.ts'

export interface WriteWatch {
  /**
   * What was written to each disk since the watch began or was last taken, by writes that have ended, well or not. One that is under
   * way is in what is taken after its end: who reads what was taken now may read what was there before it.
   */
  take(disk: string): readonly Range[]
  end(): void
}

export interface GatedOverlays extends Overlays {
  /** Resolves when every write that began before has ended. One at a time. */
  watch(): Promise<WriteWatch>
  /** From now on writes fail with ESHUTDOWN; resolves when those that had begun have ended. */
  refuseWrites(reason: string): Promise<void>
  acceptWrites(): void
}

/** Past so many ranges of one disk neighbours are joined across gaps, from this one on. */
const RANGES_MAX = 65_536
const GAP = 256 * 1024

/** Writes that began between two moments. */
interface Turn {
  underWay: number
  idle: (() => void) | undefined
}

class Gate {
  #turn: Turn = { underWay: 0, idle: undefined }
  #reason: string | undefined
  #watched: Map<string, Range[]> | undefined

  /** One promise for each write more than without a gate. */
  async run(disk: string, { offset, length }: Range, write: () => Promise<void>): Promise<void> {
    if (this.#reason !== undefined)
      throw new LifeboatError('interrupted', this.#reason, { hint: 'Open the disk at its new place.' })
    const turn = this.#turn
    turn.underWay++
    try {
      await write()
    } finally {
      this.#note(disk, offset, length)
      if (--turn.underWay === 0) turn.idle?.()
    }
  }

  /** Nothing comes between its beginning and its end. */
  runNow(disk: string, writes: readonly PlacedBytes[], write: () => boolean): boolean {
    if (this.#reason !== undefined || !write()) return false
    for (const { bytes, offset } of writes) this.#note(disk, offset, bytes.length)
    return true
  }

  #note(disk: string, offset: number, length: number): void {
    const ranges = this.#watched?.get(disk)
    if (ranges && ranges.push({ offset, length }) > RANGES_MAX) this.#watched?.set(disk, fewer(ranges))
  }

  async watch(disks: readonly string[]): Promise<WriteWatch> {
    this.#watched = new Map(disks.map(name => [name, []]))
    await this.#othersEnded()
    return {
      take: disk => {
        const ranges = this.#watched?.get(disk) ?? []
        this.#watched?.set(disk, [])
        return mergeRanges(ranges)
      },
      end: () => {
        this.#watched = undefined
      },
    }
  }

  async refuse(reason: string): Promise<void> {
    this.#reason = reason
    await this.#othersEnded()
  }

  accept(): void {
    this.#reason = undefined
  }

  /** Those that began before this call. */
  async #othersEnded(): Promise<void> {
    const before = this.#turn
    this.#turn = { underWay: 0, idle: undefined }
    if (before.underWay === 0) return
    const idle = Promise.withResolvers<void>()
    before.idle = idle.resolve
    await idle.promise
  }
}

export function gatedOverlays(overlays: Overlays, disks: readonly string[]): GatedOverlays {
  const gate = new Gate()
  return {
    disk: name => gatedDisk(overlays.disk(name), name, gate),
    freeze: (options): Promise<FrozenOverlays> => overlays.freeze(options),
    warning: overlays.warning,
    watch: () => gate.watch(disks),
    refuseWrites: reason => gate.refuse(reason),
    acceptWrites: () => gate.accept(),
    [Symbol.asyncDispose]: () => overlays[Symbol.asyncDispose](),
  }
}

function gatedDisk(disk: OverlayDisk, name: string, gate: Gate): OverlayDisk {
  return {
    size: disk.size,
    blockSize: disk.blockSize,
    readInto: (target, offset, options) => disk.readInto(target, offset, options),
    borrow: (offset, length) => disk.borrow?.(offset, length),
    extents: (range, options) => disk.extents(range, options),
    ...(disk.prefetch && { prefetch: (range: Range, options?: AbortOptions) => disk.prefetch!(range, options) }),
    written: range => disk.written(range),
    writeNow: writes => gate.runNow(name, writes, () => disk.writeNow?.(writes) === true),
    write: (source, offset, options) =>
      gate.run(name, { offset, length: source.length }, () => disk.write(source, offset, options)),
    zero: (range, options) => gate.run(name, range, () => disk.zero(range, options)),
    trim: (range, options) => gate.run(name, range, () => disk.trim(range, options)),
    flush: options => disk.flush(options),
    [Symbol.asyncDispose]: () => disk[Symbol.asyncDispose](),
  }
}

/** A superset in at most half as many ranges as there may be. */
function fewer(ranges: readonly Range[]): Range[] {
  let result = mergeRanges(ranges)
  for (let gap = GAP; result.length > RANGES_MAX / 2; gap *= 4) result = mergeRanges(result, gap)
  return result
}
