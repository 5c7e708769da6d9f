/** A device in memory: for tests and measurements, and the plain model that other devices are compared with. */
import { LifeboatError } from '../core/errors.ts'
import { type Extent, intersect, type Range } from '../core/range.ts'
import type { BlockDevice, BorrowedViews } from './block-device.ts'

const BLOCK = 4096

const nothing = () => {}

/** `bytes` stays the caller's to look at; the device reads and writes it in place. */
export function memoryDevice(
  bytes: Uint8Array,
): BlockDevice & { borrow(offset: number, length: number): BorrowedViews } {
  const size = bytes.length
  const view = (offset: number, length: number): Uint8Array => {
    if (offset < 0 || length < 0 || offset + length > size)
      throw new RangeError(`${offset}+${length} is outside the device`)
    return bytes.subarray(offset, offset + length)
  }
  const zero = async ({ offset, length }: Range) => {
    view(offset, length).fill(0)
  }
  return {
    size,
    blockSize: BLOCK,
    readInto: async (target, offset) => target.set(view(offset, target.length)),
    borrow: (offset, length) => ({ views: [view(offset, length)], release: nothing }),
    extents: range => zeroRuns(bytes, range),
    write: async (source, offset) => {
      if (offset + source.length > size) throw new LifeboatError('disk-full', 'write past the end of the device')
      view(offset, source.length).set(source)
    },
    zero,
    trim: zero,
    flush: async () => {},
    [Symbol.asyncDispose]: async () => {},
  }
}

const ZEROS = Buffer.alloc(BLOCK)

/** Looks at the bytes: whole blocks of zeros are 'zero'. */
async function* zeroRuns(bytes: Uint8Array, range: Range): AsyncGenerator<Extent> {
  let run: { offset: number; length: number; kind: Extent['kind'] } | undefined
  const end = range.offset + range.length
  for (let block = range.offset - (range.offset % BLOCK); block < end; block += BLOCK) {
    const content = bytes.subarray(block, Math.min(block + BLOCK, bytes.length))
    const kind = ZEROS.compare(content, 0, content.length, 0, content.length) === 0 ? 'zero' : 'data'
    const part = intersect(range, { offset: block, length: BLOCK })
    if (part === undefined) continue
    if (run?.kind === kind) run.length += part.length
    else {
      if (run !== undefined) yield run
      run = { ...part, kind }
    }
  }
  if (run !== undefined) yield run
}
