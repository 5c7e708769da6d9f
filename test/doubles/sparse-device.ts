/** A device of any size that holds what was written to it in blocks of 64 KiB, and remembers what was asked of it. */
import type { BlockDevice } from '../../src/block/block-device.ts'
import { intersect, type Range } from '../../src/core/range.ts'

const BLOCK = 65_536

export function sparseDevice(size: number): BlockDevice & { readonly calls: string[] } {
  const blocks = new Map<number, Buffer>()
  const calls: string[] = []
  const parts = function* ({ offset, length }: Range): Generator<{ block: number; part: Range }> {
    for (let block = Math.floor(offset / BLOCK); block * BLOCK < offset + length; block++)
      yield { block, part: intersect({ offset, length }, { offset: block * BLOCK, length: BLOCK })! }
  }
  const clear = (range: Range) => {
    for (const [block, bytes] of blocks) {
      const part = intersect(range, { offset: block * BLOCK, length: BLOCK })
      if (part?.length === BLOCK) blocks.delete(block)
      else if (part) bytes.fill(0, part.offset % BLOCK, (part.offset % BLOCK) + part.length)
    }
  }
  return {
    size,
    blockSize: BLOCK,
    calls,
    async readInto(target, offset) {
      for (const { block, part } of parts({ offset, length: target.length })) {
        const held = blocks.get(block)?.subarray(part.offset % BLOCK, (part.offset % BLOCK) + part.length)
        if (held) target.set(held, part.offset - offset)
        else target.fill(0, part.offset - offset, part.offset - offset + part.length)
      }
    },
    async *extents(range) {
      calls.push(`extents ${range.offset}+${range.length}`)
      let at = range.offset
      for (const block of [...blocks.keys()].sort((a, b) => a - b)) {
        const part = intersect(range, { offset: block * BLOCK, length: BLOCK })
        if (!part) continue
        if (part.offset > at) yield { offset: at, length: part.offset - at, kind: 'zero' }
        yield { ...part, kind: 'data' }
        at = part.offset + part.length
      }
      const rest = range.offset + range.length - at
      if (rest > 0) yield { offset: at, length: rest, kind: 'zero' }
    },
    async write(source, offset) {
      for (const { block, part } of parts({ offset, length: source.length })) {
        const held = blocks.get(block) ?? Buffer.alloc(BLOCK)
        held.set(source.subarray(part.offset - offset, part.offset - offset + part.length), part.offset % BLOCK)
        blocks.set(block, held)
      }
    },
    async zero(range) {
      calls.push(`zero ${range.offset}+${range.length}`)
      clear(range)
    },
    async trim(range) {
      calls.push(`trim ${range.offset}+${range.length}`)
      clear(range)
    },
    async flush() {},
    async [Symbol.asyncDispose]() {},
  }
}
