/** A gate in front of an overlay's disks: writes are watched and refused, everything else passes. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { BlockDevice } from '../../../src/block/block-device.ts'
import { memoryDevice } from '../../../src/block/memory.ts'
import { isLifeboatError } from '../../../src/core/errors.ts'
import type { Range } from '../../../src/core/range.ts'
import { gatedOverlays } from '../../../src/recovery/gated-overlays.ts'

const BLOCK = 4096
const SIZE = 16 * BLOCK
const block = (value: number) => Buffer.alloc(BLOCK, value)
const range = (first: number, count = 1): Range => ({ offset: first * BLOCK, length: count * BLOCK })

function gated(more: Partial<BlockDevice> = {}) {
  const contents = Buffer.alloc(SIZE)
  const disk = { ...memoryDevice(contents), written: () => [], ...more }
  const overlays = gatedOverlays(
    {
      disk: () => disk,
      freeze: () => Promise.reject(new Error('nobody freezes')),
      [Symbol.asyncDispose]: async () => {},
    },
    ['disk'],
  )
  return { contents, overlays, disk: overlays.disk('disk') }
}

const isRefused = (error: unknown) => isLifeboatError(error, 'interrupted')

test('a watch tells what was written since it began or was last taken, by whatever call', async () => {
  const { overlays, disk } = gated({ writeNow: () => true })
  await disk.write(block(1), 0)
  const watch = await overlays.watch()
  await disk.write(block(2), BLOCK)
  disk.writeNow?.([{ bytes: block(3), offset: 2 * BLOCK }])
  await disk.zero(range(4))
  await disk.trim(range(6, 2))
  assert.deepEqual(watch.take('disk'), [range(1, 2), range(4), range(6, 2)])
  assert.deepEqual(watch.take('disk'), [])
  await disk.write(block(4), 9 * BLOCK)
  assert.deepEqual(watch.take('disk'), [range(9)])
  watch.end()
  await disk.write(block(5), 0)
  assert.deepEqual((await overlays.watch()).take('disk'), [])
})

test('a write that is under way when the watch is taken is told when it has ended, also if it failed', async () => {
  const held = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  let writes = 0
  const { overlays, disk } = gated({ write: () => held[writes++]!.promise })
  const watch = await overlays.watch()
  const writing = disk.write(block(1), 5 * BLOCK)
  const failing = disk.write(block(2), 9 * BLOCK)
  watch.take('disk')
  held[0]!.resolve()
  held[1]!.reject(new Error('the disk is full'))
  await writing
  await assert.rejects(failing)
  assert.deepEqual(watch.take('disk'), [range(5), range(9)])
})

test('a watch waits for the writes that began before it, and no longer', async () => {
  const held = Promise.withResolvers<void>()
  const { overlays, disk } = gated({ write: () => held.promise })
  const writing = disk.write(block(1), 0)
  let began = false
  const watch = overlays.watch().then(watch => {
    began = true
    return watch
  })
  const later = disk.write(block(2), 3 * BLOCK)
  await new Promise(resolve => setImmediate(resolve))
  assert.equal(began, false)
  held.resolve()
  await Promise.all([writing, later])
  assert.deepEqual((await watch).take('disk'), [range(0), range(3)], 'who waited may be told of both')
})

test('refused writes fail whichever call they came by, those that had begun end, and reads go on', async () => {
  const held = Promise.withResolvers<void>()
  let slow = true
  const { overlays, disk, contents } = gated({
    write: async (source, offset) => {
      if (slow) await held.promise
      contents.set(source, offset)
    },
    writeNow: writes => {
      for (const { bytes, offset } of writes) contents.set(bytes, offset)
      return true
    },
  })
  const begun = disk.write(block(1), 0)
  const refused = overlays.refuseWrites('the disk has moved')
  slow = false
  await assert.rejects(disk.write(block(2), BLOCK), isRefused)
  await assert.rejects(disk.zero(range(1)), isRefused)
  await assert.rejects(disk.trim(range(1)), isRefused)
  assert.equal(disk.writeNow?.([{ bytes: block(2), offset: BLOCK }]), false)
  held.resolve()
  await Promise.all([begun, refused])
  const bytes = block(9)
  await disk.readInto(bytes, BLOCK)
  assert.ok(bytes.equals(block(0)), 'nothing of them was written')
  await disk.flush()
  overlays.acceptWrites()
  assert.equal(disk.writeNow?.([{ bytes: block(3), offset: BLOCK }]), true)
  assert.equal(contents[BLOCK], 3)
})

test('prefetch passes the gate where the disk has it', async () => {
  const asked: Range[] = []
  const { disk } = gated({
    prefetch: async wanted => {
      asked.push(wanted)
    },
  })
  await disk.prefetch?.(range(2, 3))
  assert.deepEqual(asked, [range(2, 3)])
  assert.equal(gated().disk.prefetch, undefined)
})
