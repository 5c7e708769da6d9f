/** 16 GiB of ones that are made anew at each read: what a server holds of them is its own. */
import type { BlockReader } from '../../src/block/block-device.ts'

export const endlessDevice = (): BlockReader => ({
  size: 2 ** 34,
  blockSize: 4096,
  readInto: async target => void target.fill(1),
  extents: async function* (range) {
    yield { ...range, kind: 'data' }
  },
  [Symbol.asyncDispose]: async () => {},
})
