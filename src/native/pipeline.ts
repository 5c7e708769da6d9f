/**
 * Native: the chunk pipeline over batches, off the main thread.
 *
 * What it is: typed functions over bytes. `native.ts` is the only loader of the .node file; `twin.ts` is the same in plain
 * TypeScript (node:crypto, node:zlib): the oracle in tests.
 * What it guarantees: both give the same ids and open each other's records; a batch fails as a whole with a LifeboatError
 * that names the first bad record by its position; no buffer is touched after the promise settles.
 * What it does not know: packs, stores, or where keys come from.
 */
import type { OpenFile } from './sparse-file.ts'

export interface DigestResult {
  /** 32 bytes a chunk: HMAC-SHA-256(idKey, chunk). The bytes of an all-zero chunk's id are unspecified. */
  readonly ids: Uint8Array
  /** 1 where the chunk is all zeros. */
  readonly zero: Uint8Array
}

export interface SealBatch {
  /** Consecutive records, each plaintext (codec u8 | length u24 | payload) followed by 16 bytes for its tag; sealed in place. */
  readonly body: Uint8Array
  /** Stored length of each record: plaintext + 16. Their sum is body.length. */
  readonly lengths: Uint32Array
  /** Slot of record 0; the others follow. */
  readonly firstSlot: number
  /** 32 bytes a record. */
  readonly ids: Uint8Array
  /** The slot key: 32 bytes. */
  readonly key: Uint8Array
  /** AAD up to and including the pack id (52 bytes): the record's slot (u32) and id (32) are appended. */
  readonly aadPrefix: Uint8Array
}

export interface OpenRecord {
  readonly stored: Uint8Array
  readonly slot: number
  readonly id: Uint8Array
  readonly key: Uint8Array
  readonly aadPrefix: Uint8Array
  /** Receives the content; its length is the only acceptable one. For nodes, whose length is not known before, see `openNodes`. */
  readonly target: Uint8Array
}

export type OpenNode = Omit<OpenRecord, 'target'>

/** A record whose content goes into a file. */
export interface WriteRecord extends OpenNode {
  /** Where it begins in the file, bytes; any number of places. */
  readonly offsets: readonly number[]
  /** Its id is computed anew, too, before a byte is written. */
  readonly checkId: boolean
}

export interface ChunkFile {
  readonly file: OpenFile
  readonly chunkSize: number
  /** What would lie beyond this offset is cut off: the last chunk of a disk. */
  readonly end: number
  /** 32 bytes, of `digestChunks`. */
  readonly idKey: Uint8Array
}

export interface Pipeline {
  /** source.length is a multiple of chunkSize. */
  digestChunks(source: Uint8Array, chunkSize: number, idKey: Uint8Array): Promise<DigestResult>
  /** SHA-256 of each `unit` bytes, 32 bytes each. `unit` is a power of two from 4 KiB to 4 MiB, source.length a multiple of it. */
  digestUnits(source: Uint8Array, unit: number): Promise<Uint8Array>
  /**
   * Compresses the chunks of `source` at the given chunk indexes, in that order, into `target` from `targetOffset`, as record
   * plaintexts each followed by 16 free bytes. A chunk that does not shrink is stored with codec 0, so `target` needs
   * indexes.length x (chunkSize + 20) bytes. Gives the stored length of each.
   */
  compressChunks(
    source: Uint8Array,
    chunkSize: number,
    indexes: Uint32Array,
    target: Uint8Array,
    targetOffset: number,
  ): Promise<Uint32Array>
  sealChunks(batch: SealBatch): Promise<void>
  /** Throws 'corrupt-object' with `details.position` where a tag, codec or length is wrong; targets are then undefined. */
  openChunks(records: readonly OpenRecord[]): Promise<void>
  /**
   * As `openChunks`, and each content is written as soon as it is proven, by the thread that decoded it, out of memory for one
   * chunk a thread. Also throws what the system says of a write, with its `code`. After an error some contents may be written,
   * each whole or in part, but only such as were proven. The file stays open until this settles.
   */
  writeChunks(records: readonly WriteRecord[], target: ChunkFile): Promise<void>
  /** The same as `openChunks` for contents of unknown length up to `limits.nodeBytesMax`; each result is fresh memory. */
  openNodes(records: readonly OpenNode[]): Promise<Uint8Array[]>
}
