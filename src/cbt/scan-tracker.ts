/**
 * Change tracking without a bitmap: fast digests (XXH3-128 with a random secret) of 64 KiB blocks, compared with those of the
 * last backup. Unchanged blocks are read but neither keyed, compressed nor sent. The digests come from the bytes that
 * are handed out: what the backup reads is what the state describes, also where the disk changes in between.
 */
import xxhash, { type XXHash128 } from 'xxhash-addon'
import type { BlockReader } from '../block/block-device.ts'
import { alignRanges, type Extent, mergeRanges, type Range, rangeEnd, totalLength } from '../core/range.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { blockCount, DIGEST_BYTES, SCAN_BLOCK } from './scan-state.ts'

const SCAN_READ = 4 * 1024 * 1024
const READS_IN_FLIGHT = 3

export interface ScanOptions extends AbortOptions {
  readonly progress?: (bytesDone: number, bytesTotal: number) => void
}

/** A reader that remembers a digest of every block that it read. */
export class ScanningReader implements BlockReader {
  readonly size: number
  readonly blockSize: number
  readonly digests: Uint8Array
  readonly secret: Uint8Array
  readonly #inner: BlockReader
  /** A bit for each block. */
  readonly #seen: Uint8Array
  readonly #hash: XXHash128
  readonly #ofZeros: Buffer
  #bytesRead = 0

  constructor(inner: BlockReader, secret: Uint8Array) {
    this.#inner = inner
    this.secret = secret
    this.size = inner.size
    this.blockSize = inner.blockSize
    this.digests = new Uint8Array(blockCount(inner.size) * DIGEST_BYTES)
    this.#seen = new Uint8Array(Math.ceil(blockCount(inner.size) / 8))
    this.#hash = new xxhash.XXHash128(Buffer.from(secret))
    this.#ofZeros = this.#digest(Buffer.alloc(SCAN_BLOCK))
  }

  /** Of the disk, by the scan and by others, bytes. */
  get bytesRead(): number {
    return this.#bytesRead
  }

  async readInto(target: Uint8Array, offset: number, options?: AbortOptions): Promise<void> {
    await this.#inner.readInto(target, offset, options)
    this.#bytesRead += target.length
    const end = offset + target.length
    for (let block = Math.ceil(offset / SCAN_BLOCK); ; block++) {
      const at = block * SCAN_BLOCK
      const length = Math.min(SCAN_BLOCK, this.size - at)
      if (length <= 0 || at + length > end) return
      this.#remember(block, Buffer.from(target.buffer, target.byteOffset + at - offset, length))
    }
  }

  extents(range: Range, options?: AbortOptions): AsyncIterable<Extent> {
    return this.#inner.extents(range, options)
  }

  /** Reads every block that has not been seen yet. Afterwards `digests` is complete. */
  async scan({ progress, ...options }: ScanOptions = {}): Promise<void> {
    const data: Range[] = []
    for await (const extent of this.#inner.extents({ offset: 0, length: this.size }, options))
      if (extent.kind === 'data') data.push(extent)
    const ranges = alignRanges(data, SCAN_BLOCK, this.size)
    const bytesTotal = totalLength(ranges)
    let bytesDone = 0
    const free: Uint8Array[] = []
    await forEachLimited(
      this.#unseen(ranges),
      READS_IN_FLIGHT,
      async ({ offset, length }, signal) => {
        const buffer = free.pop() ?? new Uint8Array(SCAN_READ)
        await this.readInto(buffer.subarray(0, length), offset, { signal })
        free.push(buffer)
        bytesDone += length
        progress?.(bytesDone, bytesTotal)
      },
      options,
    )
    this.#rememberHoles()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#inner[Symbol.asyncDispose]()
  }

  *#unseen(ranges: readonly Range[]): Iterable<Range> {
    for (const range of ranges) {
      let offset = range.offset
      for (let at = range.offset; at < rangeEnd(range); at += SCAN_BLOCK) {
        if (this.#isSeen(at / SCAN_BLOCK)) {
          if (at > offset) yield { offset, length: at - offset }
          offset = at + SCAN_BLOCK
        } else if (at + SCAN_BLOCK - offset >= SCAN_READ) {
          const end = Math.min(rangeEnd(range), at + SCAN_BLOCK)
          yield { offset, length: end - offset }
          offset = end
        }
      }
      if (offset < rangeEnd(range)) yield { offset, length: rangeEnd(range) - offset }
    }
  }

  /** What was not read lies in holes. Digests of whole blocks of zeros are zeros, which they are already. */
  #rememberHoles(): void {
    const whole = Math.floor(this.size / SCAN_BLOCK)
    if (this.size % SCAN_BLOCK > 0 && !this.#isSeen(whole)) this.#remember(whole, Buffer.alloc(this.size % SCAN_BLOCK))
    this.#seen.fill(0xff)
  }

  #remember(block: number, bytes: Buffer): void {
    const digest = this.#digest(bytes)
    // Written only where it differs, so that pages of digests that describe zeros never get memory.
    if (!digest.equals(this.#ofZeros)) this.digests.set(digest, block * DIGEST_BYTES)
    else if (this.#isSeen(block)) this.digests.fill(0, block * DIGEST_BYTES, (block + 1) * DIGEST_BYTES)
    this.#seen[block >>> 3]! |= 1 << (block & 7)
  }

  #isSeen(block: number): boolean {
    return ((this.#seen[block >>> 3]! >> (block & 7)) & 1) === 1
  }

  #digest(bytes: Buffer): Buffer {
    this.#hash.reset()
    this.#hash.update(bytes)
    return this.#hash.digest()
  }
}

/** Compared at once: most are equal, and one comparison for each would cost a large disk more than reading its digests. */
const DIGESTS_AT_ONCE = 64

/** The blocks of `size` bytes whose digests differ. Both describe a disk of that size under one secret; `before` comes in order. */
export async function changedBlocks(
  before: AsyncIterable<Uint8Array>,
  after: Uint8Array,
  size: number,
): Promise<Range[]> {
  const changed: Range[] = []
  let start = 0
  for await (const piece of before) {
    const old = Buffer.from(piece.buffer, piece.byteOffset, piece.length)
    const differs = (from: number, to: number) => old.compare(after, start + from, start + to, from, to) !== 0
    const step = DIGESTS_AT_ONCE * DIGEST_BYTES
    for (let at = 0; at < old.length; at += step) {
      const end = Math.min(at + step, old.length)
      if (!differs(at, end)) continue
      for (let digest = at; digest < end; digest += DIGEST_BYTES) {
        if (!differs(digest, digest + DIGEST_BYTES)) continue
        const offset = ((start + digest) / DIGEST_BYTES) * SCAN_BLOCK
        changed.push({ offset, length: Math.min(SCAN_BLOCK, size - offset) })
      }
    }
    start += piece.length
  }
  return mergeRanges(changed)
}
