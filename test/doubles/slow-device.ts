/** A device whose reads take a few turns of the event loop each, and end in random order; nothing of it can be borrowed. */
import { setImmediate } from 'node:timers/promises'
import type { BlockDevice } from '../../src/block/block-device.ts'
import type { Random } from '../../src/core/random.ts'

export function slowDevice(device: BlockDevice, random: Random): BlockDevice & { readonly calls: { reads: number } } {
  const calls = { reads: 0 }
  const wait = async () => {
    for (let turns = random(1)[0]! % 8; turns > 0; turns--) await setImmediate()
  }
  return {
    size: device.size,
    blockSize: device.blockSize,
    calls,
    readInto: async (target, offset, options) => {
      calls.reads++
      await wait()
      options?.signal?.throwIfAborted()
      await device.readInto(target, offset, options)
    },
    extents: (range, options) => device.extents(range, options),
    write: async (source, offset, options) => {
      await wait()
      await device.write(source, offset, options)
    },
    zero: (range, options) => device.zero(range, options),
    trim: (range, options) => device.trim(range, options),
    flush: options => device.flush(options),
    [Symbol.asyncDispose]: () => device[Symbol.asyncDispose](),
  }
}
