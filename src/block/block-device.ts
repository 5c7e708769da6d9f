/**
 * Block: random-access images.
 *
 * What it is: `BlockReader`, the noun in the middle of both flows. The hypervisor's frozen view of a disk is one, a
 * recovery point's disk image is one, a plain file is one; `BlockDevice` adds writing.
 * What it guarantees: bytes delivered are the image's bytes at that offset, or the call fails. Calls may overlap.
 * What it does not know: where the bytes come from, who asks for them, and any wire format.
 */
import type { Extent, Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'

/** Views of memory that belongs to a cache: read-only, valid until `release()`, which must be called exactly once. */
export interface BorrowedViews {
  /** In order, together exactly the bytes asked for. */
  readonly views: readonly Uint8Array[]
  readonly release: () => void
}

/** Random-access image. Calls may overlap; the caller owns `target` during the call and must not touch it until it settles. */
export interface BlockReader extends AsyncDisposable {
  /** Bytes. */
  readonly size: number
  /** Preferred unit of reading, bytes, a power of two. Any offset and length may be asked for. */
  readonly blockSize: number
  /** Fills `target` with the bytes from `offset`. Reading past `size` is a RangeError by the caller, not clipped. */
  readInto(target: Uint8Array, offset: number, options?: AbortOptions): Promise<void>
  /** The bytes as borrowed views if all are in memory; else undefined. Never waits: a cache hit is answered in the turn that read the request. */
  borrow?(offset: number, length: number): BorrowedViews | undefined
  /** Extents that cover `range` exactly, in order, neighbours of one kind not necessarily joined. 'zero' is a promise, 'data' is not. */
  extents(range: Range, options?: AbortOptions): AsyncIterable<Extent>
  /** Has the range at hand where that makes later reads faster, without giving it to anybody. Absent where there is no such place. */
  prefetch?(range: Range, options?: AbortOptions): Promise<void>
}

/** Bytes for one place of a device. */
export interface PlacedBytes {
  readonly bytes: Uint8Array
  readonly offset: number
}

/** flush() covers every write that completed before it was called. */
export interface BlockDevice extends BlockReader {
  /**
   * Several writes in one, done when the call returns; the bytes are the caller's again then. False means that it would have to
   * wait, or that something is wrong, and nothing has changed: `write` does it or says why not. Absent where writes always wait.
   */
  writeNow?(writes: readonly PlacedBytes[]): boolean
  write(source: Uint8Array, offset: number, options?: { fua?: boolean } & AbortOptions): Promise<void>
  zero(range: Range, options?: { fua?: boolean } & AbortOptions): Promise<void>
  trim(range: Range, options?: AbortOptions): Promise<void>
  flush(options?: AbortOptions): Promise<void>
}
