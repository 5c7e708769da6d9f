/** Points that are being read: opened and pinned when first something of them is, their disks through the caches that all share. */

import type { BlockReader } from '../block/block-device.ts'
import { type CachedImage, cachedImage } from '../cache/cached-image.ts'
import type { ChunkCache } from '../cache/chunk-cache.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { PointSummary, RecoveryPoint, Repository } from '../repository/repository.ts'
import type { Use } from './kept-open.ts'

export interface OpenPointOptions {
  readonly repository: Pick<Repository, 'openPoint'>
  readonly cache: ChunkCache
  readonly onTrouble: (message: string, error?: unknown) => void
}

/** Dispose ends what its images have under way, then the pin goes. */
export class OpenPoint implements AsyncDisposable {
  readonly #point: RecoveryPoint
  readonly #cache: ChunkCache
  readonly #images = new Map<string, CachedImage>()

  private constructor(point: RecoveryPoint, cache: ChunkCache) {
    this.#point = point
    this.#cache = cache
  }

  static async open(
    point: PointSummary,
    { repository, cache }: OpenPointOptions,
    options: AbortOptions,
  ): Promise<OpenPoint> {
    return new OpenPoint(await repository.openPoint(point, { pin: 'mount', ...options }), cache)
  }

  get isPinned(): boolean {
    return this.#point.pinned
  }

  get disks(): readonly string[] {
    return this.#point.manifest.disks.map(({ name }) => name)
  }

  image(disk: string): CachedImage {
    const known = this.#images.get(disk)
    if (known) return known
    const image = cachedImage(this.#point.disk(disk), { cache: this.#cache })
    this.#images.set(disk, image)
    return image
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#images.values()].map(image => image[Symbol.asyncDispose]()))
    await this.#point[Symbol.asyncDispose]()
  }
}

/** The image for one who opened it: closing it ends his use, and nothing of the others'. */
export const usedReader = (image: BlockReader, use: Disposable): BlockReader => ({
  size: image.size,
  blockSize: image.blockSize,
  readInto: (target, offset, options) => image.readInto(target, offset, options),
  ...(image.borrow ? { borrow: (offset, length) => image.borrow?.(offset, length) } : {}),
  extents: (range, options) => image.extents(range, options),
  ...(image.prefetch ? { prefetch: async (range, options) => await image.prefetch?.(range, options) } : {}),
  [Symbol.asyncDispose]: async () => use[Symbol.dispose](),
})

export type UsePoint = (point: PointSummary, options?: AbortOptions) => Promise<Use<OpenPoint>>
