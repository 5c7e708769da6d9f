/** A BlockReader that tells of each read once its bytes are there: when the guest reads first, and how much. */
import type { BlockReader } from '../block/block-device.ts'

export function observedReads(image: BlockReader, onRead: (bytes: number) => void): BlockReader {
  return {
    size: image.size,
    blockSize: image.blockSize,
    async readInto(target, offset, options) {
      await image.readInto(target, offset, options)
      onRead(target.length)
    },
    borrow(offset, length) {
      const borrowed = image.borrow?.(offset, length)
      if (borrowed) onRead(length)
      return borrowed
    },
    extents: (range, options) => image.extents(range, options),
    // The image stays its owner's.
    [Symbol.asyncDispose]: async () => {},
  }
}
