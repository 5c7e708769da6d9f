/** Random work on an overlay against a plain array, with kills, power cuts, freezes and settles. */
import assert from 'node:assert/strict'
import type { BlockReader } from '../../src/block/block-device.ts'
import { memoryDevice } from '../../src/block/memory.ts'
import { type Overlays, openOverlays } from '../../src/block/overlay.ts'
import { alignRanges, type Range } from '../../src/core/range.ts'
import { drawnClock, PowerCutFiles } from '../doubles/power-cut-files.ts'
import { drawing } from '../doubles/power-cut-inode.ts'

const BLOCK = 4096
const SIZES = [5 * BLOCK, 560 * BLOCK + 1234, 1100 * BLOCK]

const ZEROS = Buffer.alloc(1100 * BLOCK)

interface ModelDisk {
  readonly name: string
  base: Buffer
  now: Buffer
  readonly written: Set<number>
}

const below = (bytes: Buffer): BlockReader => memoryDevice(bytes)

export async function overlayModel(seed: number, steps: number): Promise<Record<string, number>> {
  const draw = drawing(seed)
  const pick = (count: number) => Math.floor(draw() * count)
  const host = new PowerCutFiles(draw)
  const counts: Record<string, number> = {}
  const count = (what: string) => {
    counts[what] = (counts[what] ?? 0) + 1
  }
  let boot = 1
  let label = 'base 0'
  const disks: ModelDisk[] = SIZES.slice(0, 1 + pick(3)).map((size, n) => {
    const base = Buffer.alloc(size)
    for (let block = 0; block < size / BLOCK; block += 2)
      base.fill(1 + ((block + n) % 250), block * BLOCK, Math.min(size, (block + 1) * BLOCK))
    return { name: `disk${n}`, base, now: Buffer.from(base), written: new Set() }
  })
  const open = () =>
    openOverlays({
      folder: '/o',
      disks: disks.map(({ name, base }) => ({ name, base: below(base) })),
      files: host.files(),
      clock: drawnClock(draw),
      bootId: `boot ${boot}`,
      reserve: 1 << 20,
      baseLabel: label,
    })
  let overlays: Overlays = await open()

  const note = (disk: ModelDisk, { offset, length }: Range) => {
    for (const range of alignRanges([{ offset, length }], BLOCK, disk.now.length))
      for (let at = range.offset; at < range.offset + range.length; at += BLOCK) disk.written.add(at / BLOCK)
  }
  const range = (disk: ModelDisk): Range => {
    const size = disk.now.length
    const shape = pick(6)
    if (shape === 0) return { offset: 0, length: size }
    const offset = shape < 4 ? pick(Math.ceil(size / BLOCK)) * BLOCK : pick(size)
    const length = shape < 3 ? BLOCK * (1 + pick(4)) : 1 + pick(shape === 3 ? size : 9000)
    return { offset, length: Math.min(length, size - offset) }
  }
  const work = async () => {
    const disk = disks[pick(disks.length)]!
    const device = overlays.disk(disk.name)
    const { offset, length } = range(disk)
    const kind = pick(10)
    if (kind < 6 && length < 200 * BLOCK) {
      const bytes = Buffer.alloc(length, 1 + pick(255))
      bytes.copy(disk.now, offset)
      note(disk, { offset, length })
      const halves = [bytes.subarray(0, length >> 1), bytes.subarray(length >> 1)]
      const placed = halves.map((half, n) => ({ bytes: half, offset: offset + n * halves[0]!.length }))
      if (kind !== 0 && device.writeNow?.(placed) === true) {
        count('writeNow')
        bytes.fill(0)
      } else await device.write(bytes, offset, { fua: kind === 0 })
    } else if (kind < 8) {
      disk.now.fill(0, offset, offset + length)
      note(disk, { offset, length })
      await device.zero({ offset, length }, { fua: kind === 7 })
    } else if (kind === 8) {
      const from = Math.ceil(offset / BLOCK) * BLOCK
      const end = offset + length
      const to = end === disk.now.length ? end : Math.floor(end / BLOCK) * BLOCK
      if (to > from) {
        disk.now.fill(0, from, to)
        note(disk, { offset: from, length: to - from })
      }
      await device.trim({ offset, length })
    } else await device.flush()
  }
  const compare = async () => {
    for (const { name, now, written } of disks) {
      const device = overlays.disk(name)
      await same(device, now, { offset: 0, length: now.length }, `${name}`)
      const offset = pick(now.length)
      await same(device, now, { offset, length: 1 + pick(now.length - offset) }, name)
      let at = 0
      for await (const extent of device.extents({ offset: 0, length: now.length })) {
        assert.equal(extent.offset, at)
        at += extent.length
        if (extent.kind === 'zero') assert.ok(ZEROS.subarray(0, extent.length).equals(now.subarray(extent.offset, at)))
      }
      assert.equal(at, now.length)
      const told = [...device.written({ offset: 0, length: now.length })]
      const blocks = blocksIn(told)
      for (const block of written)
        assert.ok(blocks.has(block), `block ${block} of ${name} was written, and that is not told`)
      assert.equal(
        told.reduce((sum, { length }) => sum + length, 0),
        device.writtenBytes,
      )
    }
  }
  const reopen = async (how: 'close' | 'kill' | 'power') => {
    if (how === 'close') await overlays[Symbol.asyncDispose]()
    else {
      if (how === 'power') await Promise.all(disks.map(({ name }) => overlays.disk(name).flush()))
      if (how === 'power') host.cutPower()
      else host.kill()
    }
    if (how === 'power') boot++
    overlays = await open()
  }
  const freeze = async () => {
    const was = disks.map(({ now, written }) => ({ now: Buffer.from(now), written: new Set(written) }))
    await using frozen = await overlays.freeze()
    for (let n = pick(6); n > 0; n--) await work()
    const views = disks.map(({ name }) => frozen.disk(name))
    for (const [n, view] of views.entries()) {
      const { now, written } = was[n]!
      await same(view.image, now, { offset: 0, length: now.length }, `frozen ${n}`)
      const blocks = blocksIn(view.written)
      for (const block of written) assert.ok(blocks.has(block), `block ${block} was written before the freeze`)
    }
    if (draw() < 0.4) return
    const since = disks.map(({ now }, n) => {
      const changed = new Set<number>()
      for (let at = 0; at < now.length; at += BLOCK)
        if (!now.subarray(at, at + BLOCK).equals(was[n]!.now.subarray(at, at + BLOCK))) changed.add(at / BLOCK)
      return changed
    })
    const next = `base ${counts.settle ?? 0} ${seed}`
    const settled = frozen.settle(name => below(was[disks.findIndex(disk => disk.name === name)]!.now), { label: next })
    const meanwhile = disks.map(({ now }) => Buffer.from(now))
    await settled
    count('settle')
    label = next
    for (const [n, disk] of disks.entries()) {
      disk.base = was[n]!.now
      disk.written.clear()
      for (const block of since[n]!) disk.written.add(block)
      assert.ok(meanwhile[n]!.equals(disk.now))
    }
  }
  for (let step = 0; step < steps; step++) {
    const kind = pick(24)
    if (kind < 17) await work()
    else if (kind < 19) await concurrently(disks, overlays, pick, note)
    else if (kind < 21) await compare()
    else if (kind === 21) {
      await freeze()
      count('freeze')
    } else {
      const how = (['close', 'kill', 'power'] as const)[pick(3)]!
      count(how)
      await reopen(how)
    }
  }
  await compare()
  await reopen('close')
  await compare()
  await overlays[Symbol.asyncDispose]()
  return counts
}

function blocksIn(ranges: readonly Range[]): Set<number> {
  const blocks = new Set<number>()
  for (const { offset, length } of ranges)
    for (let at = offset; at < offset + length; at += BLOCK) blocks.add(at / BLOCK)
  return blocks
}

/** Parts of blocks and whole ones at once: none is lost, and the later one stands. */
async function concurrently(
  disks: readonly ModelDisk[],
  overlays: Overlays,
  pick: (count: number) => number,
  note: (disk: ModelDisk, range: Range) => void,
): Promise<void> {
  const disk = disks[pick(disks.length)]!
  const first = pick(Math.floor(disk.now.length / BLOCK) - 4)
  const work: Promise<void>[] = []
  for (let n = 0; n < 12; n++) {
    const block = (first + pick(4)) * BLOCK
    const whole = pick(3) === 0
    const offset = whole ? block : block + pick(8) * 512
    const bytes = Buffer.alloc(whole ? BLOCK : 512, 1 + pick(255))
    bytes.copy(disk.now, offset)
    note(disk, { offset, length: bytes.length })
    work.push(overlays.disk(disk.name).write(bytes, offset))
  }
  await Promise.all(work)
}

async function same(image: BlockReader, expected: Buffer, { offset, length }: Range, what: string): Promise<void> {
  const bytes = Buffer.alloc(length)
  await image.readInto(bytes, offset)
  const wanted = expected.subarray(offset, offset + length)
  if (bytes.equals(wanted)) return
  const at = bytes.findIndex((byte, n) => byte !== wanted[n])
  assert.fail(
    `${what}: byte ${offset + at} is ${bytes[at]} and not ${wanted[at]} (block ${Math.floor((offset + at) / BLOCK)})`,
  )
}
