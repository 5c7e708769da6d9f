/** A device whose reads wait until the test lets them through. Nothing of it can be borrowed. */
import type { BlockDevice } from '../../src/block/block-device.ts'

export interface GatedDevice extends BlockDevice {
  /** Reads that wait or are being served now, the most at once so far, and those whose reader has given up. */
  readonly reads: { running: number; most: number; aborted: number }
  readonly firstRead: Promise<void>
  /** Lets all reads through, those to come as well. */
  open(): void
}

export function gatedDevice(inner: BlockDevice): GatedDevice {
  const gate = Promise.withResolvers<void>()
  const first = Promise.withResolvers<void>()
  const reads = { running: 0, most: 0, aborted: 0 }
  return {
    ...inner,
    borrow: undefined,
    reads,
    firstRead: first.promise,
    open: gate.resolve,
    readInto: async (target, offset, { signal } = {}) => {
      signal?.addEventListener('abort', () => reads.aborted++)
      reads.most = Math.max(reads.most, ++reads.running)
      first.resolve()
      await gate.promise
      await inner.readInto(target, offset)
      reads.running--
    },
  }
}
