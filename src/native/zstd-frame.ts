/** What can be told of a zstd frame (RFC 8878, section 3.1.1) without decompressing it. */

const MAGIC = 0xfd2fb528
const MAGIC_BYTES = 4
const BLOCK_HEAD = 3
/** No frame of at most 16 MiB needs more, and a decoder allocates this much before the first byte. */
const WINDOW_MAX = 8 * 1024 * 1024
const DICTIONARY_ID_BYTES = [0, 1, 2, 4]

/**
 * Whether `bytes` are exactly one frame, without a dictionary, with a bounded window, that does not state another
 * content size than `contentLength`. Skippable frames and bytes after the frame are refused.
 */
export function isSoleFrame(bytes: Uint8Array, contentLength: number): boolean {
  if (bytes.length < MAGIC_BYTES + 2) return false
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (view.getUint32(0, true) !== MAGIC) return false
  const descriptor = view.getUint8(MAGIC_BYTES)
  const singleSegment = (descriptor & 0x20) !== 0
  if ((descriptor & 0x08) !== 0 || DICTIONARY_ID_BYTES[descriptor & 3] !== 0) return false
  const sizeBytes = descriptor >> 6 === 0 ? (singleSegment ? 1 : 0) : 1 << (descriptor >> 6)
  let at = MAGIC_BYTES + 1
  if (bytes.length < at + (singleSegment ? 0 : 1) + sizeBytes) return false
  if (!singleSegment && windowSize(view.getUint8(at++)) > WINDOW_MAX) return false
  if (sizeBytes > 0 && statedSize(view, at, sizeBytes) !== contentLength) return false
  return endOfBlocks(view, at + sizeBytes) + ((descriptor & 0x04) !== 0 ? 4 : 0) === bytes.length
}

function windowSize(byte: number): number {
  const base = 2 ** (10 + (byte >> 3))
  return base + (base / 8) * (byte & 7)
}

function statedSize(view: DataView, at: number, sizeBytes: number): number {
  if (sizeBytes === 1) return view.getUint8(at)
  if (sizeBytes === 2) return view.getUint16(at, true) + 256
  if (sizeBytes === 4) return view.getUint32(at, true)
  return Number(view.getBigUint64(at, true))
}

/** Where the last block ends; NaN where the blocks run past the end. */
function endOfBlocks(view: DataView, start: number): number {
  for (let at = start; at + BLOCK_HEAD <= view.byteLength; ) {
    const head = view.getUint16(at, true) | (view.getUint8(at + 2) << 16)
    const runLength = ((head >> 1) & 3) === 1
    at += BLOCK_HEAD + (runLength ? 1 : head >> 3)
    if ((head & 1) !== 0) return at
  }
  return Number.NaN
}
