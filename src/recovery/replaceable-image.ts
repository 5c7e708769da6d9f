/**
 * The disk below an overlay or export, whose point can change while it is read: new reads go to the new image, and the old
 * one is closed when its last read has ended. Figures go on.
 */
import type { BlockReader, BorrowedViews } from '../block/block-device.ts'
import type { CachedImage, CachedImageStats } from '../cache/cached-image.ts'
import type { Extent, Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'

interface Use {
  readonly image: CachedImage
  reads: number
  idle: (() => void) | undefined
}

export interface ImageWatch {
  /** After the bytes of a read were there. */
  readonly onRead?: (bytes: number, offset: number) => void
  /** A read that memory alone could not answer has begun (1) or ended (-1). */
  readonly onWait?: (change: 1 | -1) => void
}

export class ReplaceableImage implements BlockReader {
  readonly size: number
  readonly blockSize: number
  #use: Use
  readonly #watch: ImageWatch
  readonly #replaced: CachedImageStats[] = []

  /** The images are this one's from now on. */
  constructor(image: CachedImage, watch: ImageWatch = {}) {
    this.size = image.size
    this.blockSize = image.blockSize
    this.#use = { image, reads: 0, idle: undefined }
    this.#watch = watch
  }

  async readInto(target: Uint8Array, offset: number, options?: AbortOptions): Promise<void> {
    const use = this.#begin()
    this.#watch.onWait?.(1)
    try {
      await use.image.readInto(target, offset, options)
    } finally {
      this.#watch.onWait?.(-1)
      this.#end(use)
    }
    this.#watch.onRead?.(target.length, offset)
  }

  borrow(offset: number, length: number): BorrowedViews | undefined {
    const borrowed = this.#use.image.borrow(offset, length)
    if (borrowed) this.#watch.onRead?.(length, offset)
    return borrowed
  }

  async *extents(range: Range, options?: AbortOptions): AsyncIterable<Extent> {
    const use = this.#begin()
    try {
      yield* use.image.extents(range, options)
    } finally {
      this.#end(use)
    }
  }

  async prefetch(range: Range, options?: AbortOptions): Promise<void> {
    const use = this.#begin()
    try {
      await use.image.prefetch?.(range, options)
    } finally {
      this.#end(use)
    }
  }

  async prefetchChunks(
    chunks: readonly number[],
    options: { readonly getsAtOnce: number } & AbortOptions,
  ): Promise<number> {
    const use = this.#begin()
    try {
      return await use.image.prefetchChunks(chunks, options)
    } finally {
      this.#end(use)
    }
  }

  /** Resolves when nothing reads the old image any more and it is closed. */
  async replace(image: CachedImage): Promise<void> {
    if (image.size !== this.size || image.blockSize !== this.blockSize)
      throw new RangeError(`an image of ${image.size} bytes in blocks of ${image.blockSize} for one of ${this.size}`)
    const old = this.#use
    this.#use = { image, reads: 0, idle: undefined }
    if (old.reads > 0) {
      const idle = Promise.withResolvers<void>()
      old.idle = idle.resolve
      await idle.promise
    }
    this.#replaced.push(old.image.stats())
    await old.image[Symbol.asyncDispose]()
  }

  stats(): CachedImageStats {
    const all = [...this.#replaced, this.#use.image.stats()]
    const sum = (name: keyof CachedImageStats) => all.reduce((total, stats) => total + stats[name], 0)
    return {
      bytesRead: sum('bytesRead'),
      cacheHits: sum('cacheHits'),
      cacheMisses: sum('cacheMisses'),
      chunksFetched: sum('chunksFetched'),
      bytesFetched: sum('bytesFetched'),
      bytesFromDisk: sum('bytesFromDisk'),
      chunksReadAhead: sum('chunksReadAhead'),
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#use.image[Symbol.asyncDispose]()
  }

  #begin(): Use {
    this.#use.reads++
    return this.#use
  }

  #end(use: Use): void {
    if (--use.reads === 0) use.idle?.()
  }
}
