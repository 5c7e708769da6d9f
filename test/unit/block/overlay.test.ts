import assert from 'node:assert/strict'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { BlockReader } from '../../../src/block/block-device.ts'
import { memoryDevice } from '../../../src/block/memory.ts'
import { type OpenOverlays, openOverlays, overlayBaseLabel } from '../../../src/block/overlay.ts'
import type { OverlayDisk } from '../../../src/block/overlay-disk.ts'
import { nodeOverlayFiles } from '../../../src/block/overlay-files.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { limits, MiB } from '../../../src/core/limits.ts'
import type { Range } from '../../../src/core/range.ts'
import { PowerCutFiles } from '../../doubles/power-cut-files.ts'
import { drawing } from '../../doubles/power-cut-inode.ts'

const BLOCK = 4096
const SIZE = 8 * MiB
const folder = await mkdtemp(join(tmpdir(), 'lifeboat-overlay-'))
after(() => rm(folder, { recursive: true, force: true }))

const base = (): BlockReader => memoryDevice(Buffer.alloc(SIZE))
const opened = (host: PowerCutFiles, bootId: string, options: Partial<OpenOverlays> = {}) =>
  openOverlays({
    folder: '/o',
    disks: [{ name: 'disk', base: base() }],
    files: host.files(),
    clock: systemClock,
    bootId,
    ...options,
  })
const block = (value: number) => Buffer.alloc(BLOCK, value)
const isCode = (code: Parameters<typeof isLifeboatError>[1]) => (error: unknown) => isLifeboatError(error, code)

test('a failed fsync is never forgotten: flush and FUA fail until the next opening, which says what was lost', async t => {
  const host = new PowerCutFiles(drawing(1))
  const disk = (await opened(host, 'boot')).disk('disk')
  await disk.write(block(1), 0, { fua: true })
  await disk.write(block(2), 0)
  await disk.write(block(3), 5 * BLOCK)
  host.faults.failingSyncs = 1
  await assert.rejects(disk.flush(), isCode('file-failed'))
  assert.equal(host.faults.failingSyncs, 0, 'the fault fired')
  await assert.rejects(disk.flush(), isCode('file-failed'))
  await assert.rejects(disk.write(block(4), 0, { fua: true }), isCode('file-failed'))
  await disk.write(block(5), 0)
  host.kill()

  const { recovery, ...overlays } = await opened(host, 'boot')
  assert.equal(recovery.kind, 'failed-sync')
  assert.deepEqual(recovery.lost, {
    disk: [
      { offset: 0, length: BLOCK },
      { offset: 5 * BLOCK, length: BLOCK },
    ],
  })
  const bytes = block(9)
  await overlays.disk('disk').readInto(bytes, 0)
  assert.ok(bytes.equals(block(1)), 'back to the last flush')
  await overlays.disk('disk').write(block(6), 0, { fua: true })
  t.diagnostic(`1 fsync failed; the next opening told ${recovery.lostBytes} bytes lost`)
})

test('with durable replies a write, zero or trim is there after a power cut as soon as it is acknowledged', async () => {
  const whole = { offset: 3 * BLOCK, length: BLOCK }
  const changes: Record<string, [number, (disk: OverlayDisk) => Promise<void>]> = {
    write: [7, disk => disk.write(block(7), whole.offset)],
    zero: [0, disk => disk.zero(whole)],
    trim: [0, disk => disk.trim(whole)],
  }
  for (const [what, [value, change]] of Object.entries(changes))
    for (let seed = 1; seed < 20; seed++) {
      const host = new PowerCutFiles(drawing(seed))
      const disks = [{ name: 'disk', base: memoryDevice(Buffer.alloc(SIZE, 5)) }]
      const disk = (await opened(host, 'boot 1', { disks, durableReplies: true })).disk('disk')
      await change(disk)
      host.cutPower()
      const bytes = block(9)
      await (await opened(host, 'boot 2', { disks })).disk('disk').readInto(bytes, whole.offset)
      assert.ok(bytes.equals(block(value)), `${what}, seed ${seed}`)
    }
})

test('a flush covers what was acknowledged while another one was under way', async () => {
  for (let seed = 1; seed < 20; seed++) {
    const host = new PowerCutFiles(drawing(seed))
    const disk = (await opened(host, 'boot 1')).disk('disk')
    await disk.write(block(1), 0)
    const first = disk.flush()
    await disk.write(block(2), BLOCK)
    await disk.flush()
    host.cutPower()
    const bytes = block(0)
    await (await opened(host, 'boot 2')).disk('disk').readInto(bytes, BLOCK)
    assert.ok(bytes.equals(block(2)), `seed ${seed}`)
    void first
  }
})

test('what a stored map names is not overwritten before the next sync', async () => {
  for (let seed = 1; seed < 30; seed++) {
    const host = new PowerCutFiles(drawing(seed))
    const overlays = await opened(host, 'boot 1', { reserve: 64 * BLOCK })
    const disk = overlays.disk('disk')
    await disk.write(block(1), 0)
    await (await overlays.freeze())[Symbol.asyncDispose]()
    // Far more than there are free slots, so that each that may be taken again is.
    for (let n = 0; n < 300; n++) await disk.write(block(2 + (n % 200)), BLOCK * (n % 2))
    host.cutPower()
    const bytes = block(0)
    await (await opened(host, 'boot 2')).disk('disk').readInto(bytes, 0)
    assert.ok(bytes.equals(block(1)), `seed ${seed}`)
  }
})

test('one process owns an overlay; other disks and another base are refused', async () => {
  const host = new PowerCutFiles(drawing(1))
  const overlays = await opened(host, 'boot', { baseLabel: 'point 1' })
  await assert.rejects(opened(host, 'boot'), isCode('session-busy'))
  await overlays[Symbol.asyncDispose]()
  assert.equal(await overlayBaseLabel(host.files(), '/o'), 'point 1')
  assert.equal(await overlayBaseLabel(host.files(), '/elsewhere'), undefined)
  await assert.rejects(opened(host, 'boot', { baseLabel: 'point 2' }), isCode('usage'))
  const unnamed = new PowerCutFiles(drawing(1))
  await (await opened(unnamed, 'boot'))[Symbol.asyncDispose]()
  await (await opened(unnamed, 'boot', { baseLabel: 'point 2' }))[Symbol.asyncDispose]()
  host.kill()
  await assert.rejects(opened(host, 'boot', { disks: [{ name: 'other', base: base() }] }), isCode('usage'))
})

test('CACHE reaches the base where nothing is written, and is not there where the base cannot', async () => {
  const host = new PowerCutFiles(drawing(1))
  const asked: Range[] = []
  const reads: BlockReader = {
    ...base(),
    prefetch: async range => {
      asked.push(range)
    },
  }
  const overlays = await opened(host, 'boot', { disks: [{ name: 'disk', base: reads }] })
  const disk = overlays.disk('disk')
  await disk.write(block(1), 2 * BLOCK)
  await disk.zero({ offset: 5 * BLOCK, length: BLOCK })
  await disk.prefetch?.({ offset: 100, length: 7 * BLOCK })
  assert.deepEqual(asked, [
    { offset: 100, length: 2 * BLOCK - 100 },
    { offset: 3 * BLOCK, length: 2 * BLOCK },
    { offset: 6 * BLOCK, length: BLOCK + 100 },
  ])
  await disk.prefetch?.({ offset: 2 * BLOCK, length: BLOCK })
  assert.equal(asked.length, 3, 'what is written is at hand')
  await overlays[Symbol.asyncDispose]()
  assert.equal((await opened(host, 'boot')).disk('disk').prefetch, undefined)
})

test('writes in one turn: all or none, only whole blocks, and there after a kill', async () => {
  const host = new PowerCutFiles(drawing(1))
  const disk = (await opened(host, 'boot')).disk('disk')
  // The first write has space reserved.
  await disk.write(block(9), 0)
  const two = (offset: number) => [
    { bytes: block(1), offset: BLOCK },
    { bytes: block(2), offset },
  ]
  assert.equal(disk.writeNow?.(two(2 * BLOCK + 512)), false, 'a part of a block')
  assert.equal(disk.writeNow?.(two(SIZE)), false, 'past the end')
  const bytes = block(7)
  await disk.readInto(bytes, BLOCK)
  assert.ok(bytes.equals(block(0)), 'none of them')
  const waiting = disk.write(block(5), 7 * BLOCK)
  assert.equal(disk.writeNow?.(two(2 * BLOCK)), false, 'another write is under way')
  await waiting
  assert.equal(disk.writeNow?.(two(2 * BLOCK)), true)
  host.kill()
  const again = (await opened(host, 'boot')).disk('disk')
  for (const [n, value] of [9, 1, 2].entries()) {
    await again.readInto(bytes, n * BLOCK)
    assert.ok(bytes.equals(block(value)), `block ${n}`)
  }
  const durable = new PowerCutFiles(drawing(2))
  const careful = (await opened(durable, 'boot', { durableReplies: true })).disk('disk')
  await careful.write(block(9), 0)
  assert.equal(careful.writeNow?.(two(2 * BLOCK)), false, 'its reply has to wait for the disk')
})

test('on a real disk: one owner, space is given back by trim and zero, and zeros of a huge disk cost nothing', async () => {
  const place = join(folder, 'real')
  const huge: BlockReader = {
    size: 2 ** 38,
    blockSize: BLOCK,
    readInto: async target => {
      target.fill(1)
    },
    async *extents(range) {
      yield { ...range, kind: 'data' }
    },
    [Symbol.asyncDispose]: async () => {},
  }
  const open = () =>
    openOverlays({
      folder: place,
      disks: [{ name: 'disk', base: huge }],
      files: nodeOverlayFiles,
      clock: systemClock,
      bootId: 'boot',
    })
  let overlays = await open()
  await assert.rejects(open(), isCode('session-busy'))
  let disk = overlays.disk('disk')
  const space = async () => (await stat(join(place, 'data'))).blocks * 512
  await disk.write(block(1), 0)
  assert.ok(
    (await space()) >= limits.overlayReserve,
    'space is there before it is written to: ENOSPC shows at the write',
  )
  for (let n = 0; n < 64; n++) await disk.write(Buffer.alloc(MiB, n + 2), n * 3 * MiB)
  await disk.flush()
  const before = await space()
  await disk.zero({ offset: 0, length: disk.size })
  assert.equal(disk.writtenBytes, disk.size)
  const bytes = Buffer.alloc(MiB, 9)
  for (const offset of [0, 3 * MiB, 2 ** 37 + 5]) {
    await disk.readInto(bytes, offset)
    assert.ok(bytes.equals(Buffer.alloc(MiB)))
  }
  // What is given up is collected behind the reply.
  await overlays[Symbol.asyncDispose]()
  const left = await space()
  assert.ok(before >= 64 * MiB && left <= before / 2, `${before} bytes before, ${left} after`)
  overlays = await open()
  disk = overlays.disk('disk')
  await disk.readInto(bytes, 6 * MiB)
  assert.ok(bytes.equals(Buffer.alloc(MiB)))
  assert.equal(disk.writtenBytes, disk.size)
  await overlays[Symbol.asyncDispose]()
})
