/** One disk of an overlay as a device: what was written from its slots, the rest from below. */
import { LifeboatError } from '../core/errors.ts'
import type { Extent, Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { BlockDevice, BorrowedViews, PlacedBytes } from './block-device.ts'
import type { BlocksWrite } from './overlay-batch.ts'
import { BLOCK } from './overlay-format.ts'
import type { DiskMap } from './overlay-map.ts'
import { mapExtents, prefetchBelow, readMapped } from './overlay-read.ts'
import type { OverlayStore } from './overlay-store.ts'

export interface OverlayDisk extends BlockDevice {
  /** What was written since the overlay began or was last settled, in whole blocks; never less. */
  written(range: Range): Iterable<Range>
  readonly writtenBytes: number
}

type WriteOptions = { fua?: boolean } & AbortOptions

export class WritableDisk implements OverlayDisk {
  readonly size: number
  readonly blockSize = BLOCK
  readonly prefetch: BlockDevice['prefetch']
  readonly #map: DiskMap
  readonly #store: OverlayStore
  readonly #durable: boolean
  /** Blocks of which only a part is being written, and who waits for them. */
  readonly #locked = new Map<number, Promise<void>>()

  constructor(map: DiskMap, store: OverlayStore, durableReplies: boolean) {
    this.size = map.size
    this.prefetch = prefetchBelow(map)
    this.#map = map
    this.#store = store
    this.#durable = durableReplies
  }

  get writtenBytes(): number {
    return this.#map.writtenBytes
  }

  written(range: Range): Iterable<Range> {
    this.#check(range.offset, range.length)
    return this.#map.written(range)
  }

  readInto(target: Uint8Array, offset: number, options: AbortOptions = {}): Promise<void> {
    this.#check(offset, target.length)
    return readMapped(this.#map, this.#store.data, target, offset, options)
  }

  borrow(offset: number, length: number): BorrowedViews | undefined {
    if (length <= 0 || offset + length > this.size) return undefined
    const first = Math.floor(offset / BLOCK)
    const end = Math.ceil((offset + length) / BLOCK)
    if (this.#map.isWritten(first) || this.#map.runEnd(first, end) < end) return undefined
    return this.#map.base.borrow?.(offset, length)
  }

  extents(range: Range, options: AbortOptions = {}): AsyncGenerator<Extent> {
    this.#check(range.offset, range.length)
    return mapExtents(this.#map, range, options)
  }

  writeNow(writes: readonly PlacedBytes[]): boolean {
    if (this.#durable || this.#locked.size > 0) return false
    const disk = this.#map
    const blocks: BlocksWrite[] = []
    for (const { bytes, offset } of writes) {
      if (offset < 0 || offset % BLOCK !== 0 || bytes.length % BLOCK !== 0) return false
      if (bytes.length === 0 || offset + bytes.length > this.size) return false
      blocks.push({ disk, block: offset / BLOCK, count: bytes.length / BLOCK, source: bytes })
    }
    return this.#store.writeNow(blocks)
  }

  async write(source: Uint8Array, offset: number, { fua = false, signal }: WriteOptions = {}): Promise<void> {
    if (offset < 0 || offset + source.length > this.size)
      throw new LifeboatError('disk-full', 'write past the end of the device')
    if (source.length === 0) return
    if (offset % BLOCK === 0 && source.length % BLOCK === 0 && this.#locked.size === 0)
      await this.#store.writeBlocks(this.#map, offset / BLOCK, source)
    else await this.#writeParts(source, offset, signal)
    if (fua || this.#durable) await this.#store.sync.flush()
  }

  async zero(range: Range, { fua = false, signal }: WriteOptions = {}): Promise<void> {
    this.#checkWrite(range)
    await this.#zero(range, true, signal)
    if (fua || this.#durable) await this.#store.sync.flush()
  }

  /** Whole blocks become zeros; parts of blocks stay as they are. */
  async trim(range: Range, { signal }: AbortOptions = {}): Promise<void> {
    this.#checkWrite(range)
    await this.#zero(range, false, signal)
    if (this.#durable) await this.#store.sync.flush()
  }

  flush(): Promise<void> {
    return this.#store.sync.flush()
  }

  /** The overlay owns what lies below. */
  async [Symbol.asyncDispose](): Promise<void> {}

  async #writeParts(source: Uint8Array, offset: number, signal: AbortSignal | undefined): Promise<void> {
    const { head, whole, tail } = this.#partsOf({ offset, length: source.length })
    const part = ({ offset: at, length }: Range) => source.subarray(at - offset, at - offset + length)
    const work: Promise<void>[] = []
    for (const range of [head, tail])
      if (range !== undefined) work.push(this.#modify(range, (block, at) => block.set(part(range), at), signal))
    if (whole !== undefined)
      work.push(
        this.#unlocked(whole, signal, () =>
          this.#store.writeBlocks(this.#map, whole.offset / BLOCK, padded(part(whole))),
        ),
      )
    await allOf(work)
  }

  async #zero(range: Range, parts: boolean, signal: AbortSignal | undefined): Promise<void> {
    const { head, whole, tail } = this.#partsOf(range)
    const work: Promise<void>[] = []
    if (parts)
      for (const edge of [head, tail])
        if (edge !== undefined)
          work.push(this.#modify(edge, (block, at) => block.fill(0, at, at + edge.length), signal))
    if (whole !== undefined)
      work.push(
        this.#unlocked(whole, signal, () =>
          this.#store.zeroBlocks(this.#map, whole.offset / BLOCK, Math.ceil(whole.length / BLOCK)),
        ),
      )
    await allOf(work)
  }

  /** A range as part of a block, whole blocks (the disk's end counts as a block's end), part of a block. */
  #partsOf({ offset, length }: Range): { head?: Range; whole?: Range; tail?: Range } {
    const end = offset + length
    if (length === 0) return {}
    const wholeFrom = Math.ceil(offset / BLOCK) * BLOCK
    const wholeTo = end === this.size ? end : Math.floor(end / BLOCK) * BLOCK
    if (wholeFrom > wholeTo) return { head: { offset, length } }
    return {
      ...(wholeFrom > offset && { head: { offset, length: wholeFrom - offset } }),
      ...(wholeTo > wholeFrom && { whole: { offset: wholeFrom, length: wholeTo - wholeFrom } }),
      ...(end > wholeTo && { tail: { offset: wholeTo, length: end - wholeTo } }),
    }
  }

  /**
   * Reads a block, changes a part of it and writes it whole. Nobody else writes the block meanwhile: those before are waited
   * for, those behind wait.
   */
  async #modify(range: Range, change: (block: Uint8Array, at: number) => void, signal?: AbortSignal): Promise<void> {
    const block = Math.floor(range.offset / BLOCK)
    while (this.#locked.has(block)) await this.#locked.get(block)
    signal?.throwIfAborted()
    let unlock = () => {}
    this.#locked.set(
      block,
      new Promise(resolve => {
        unlock = resolve
      }),
    )
    try {
      await this.#store.drained()
      const bytes = new Uint8Array(BLOCK)
      const length = Math.min(BLOCK, this.size - block * BLOCK)
      await readMapped(this.#map, this.#store.data, bytes.subarray(0, length), block * BLOCK, { signal })
      change(bytes, range.offset - block * BLOCK)
      await this.#store.writeBlocks(this.#map, block, bytes)
    } finally {
      this.#locked.delete(block)
      unlock()
    }
  }

  /** Whole blocks must not pass by one of which a part is being written. Nobody locks one between the look and the start. */
  async #unlocked(
    { offset, length }: Range,
    signal: AbortSignal | undefined,
    start: () => Promise<void>,
  ): Promise<void> {
    const first = Math.floor(offset / BLOCK)
    const end = Math.ceil((offset + length) / BLOCK)
    const lock = () => [...this.#locked].find(([block]) => block >= first && block < end)?.[1]
    for (let waits = lock(); waits !== undefined; waits = lock()) await waits
    signal?.throwIfAborted()
    return start()
  }

  #checkWrite({ offset, length }: Range): void {
    if (offset < 0 || length < 0 || offset + length > this.size)
      throw new LifeboatError('disk-full', 'write past the end of the device')
  }

  #check(offset: number, length: number): void {
    if (offset < 0 || length < 0 || offset + length > this.size)
      throw new RangeError(`${offset}+${length} is outside the ${this.size} bytes of the device`)
  }
}

/** Waits for all, also where one fails. */
async function allOf(work: readonly Promise<void>[]): Promise<void> {
  const failed = (await Promise.allSettled(work)).find(result => result.status === 'rejected')
  if (failed !== undefined) throw failed.reason
}

/** The disk's last block may be a part: zeros follow. */
function padded(bytes: Uint8Array): Uint8Array {
  if (bytes.length % BLOCK === 0) return bytes
  const whole = new Uint8Array(Math.ceil(bytes.length / BLOCK) * BLOCK)
  whole.set(bytes)
  return whole
}
