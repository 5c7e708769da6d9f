/** The disks of a running QEMU move to production storage. A real QEMU; what a guest would write goes through its devices. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../src/core/clock.ts'
import { isLifeboatError } from '../../src/core/errors.ts'
import { type MigrationProgress, migrateDisks } from '../../src/hypervisor/qemu/migrate.ts'
import type { MigrationTarget } from '../../src/hypervisor/qemu/migration-target.ts'
import { connectQmp, type QmpClient } from '../../src/hypervisor/qemu/qmp.ts'
import { loopDevice } from '../doubles/loop-device.ts'
import { KiB, MiB, qemuMissing, startQemu, type TestQemu } from '../doubles/qemu.ts'

const skip = qemuMissing()
const SIZE = 32 * MiB
const DISKS = [
  { id: 'vda', format: 'qcow2', size: SIZE },
  { id: 'vdb', format: 'qcow2', size: SIZE },
] as const
const BITMAP = 'lifeboat-01234567-0123456789abcdef'

interface Options {
  readonly targets?: readonly MigrationTarget[]
  readonly bytesPerSecond?: number
  readonly signal?: AbortSignal
  readonly progress?: (progress: MigrationProgress) => void
  readonly mayOverwrite?: (file: string) => boolean
}

const targetsIn = (dir: string): MigrationTarget[] => [
  { disk: 'vda', path: path.join(dir, 'new-vda.raw'), format: 'raw' },
  { disk: 'vdb', path: path.join(dir, 'new-vdb.qcow2'), format: 'qcow2' },
]

async function migrate(qemu: TestQemu, { targets = targetsIn(qemu.dir), ...options }: Options = {}) {
  await using qmp: QmpClient = await connectQmp({ socket: qemu.qmp, clock: systemClock })
  const guest = { qmp, clock: systemClock, log: () => {} }
  return await migrateDisks({ guest, targets, nbdSocket: path.join(qemu.dir, 'verify.sock'), ...options })
}

/** What the device has on disk now, by QEMU's own tool, once QEMU has let go of it. */
function read(file: string, format: string): Buffer {
  const raw = `${file}.copy`
  execFileSync('qemu-img', ['convert', '-f', format, '-O', 'raw', file, raw])
  const contents = execFileSync('cat', [raw], { maxBuffer: 2 * SIZE })
  rmSync(raw)
  return contents
}

const nodesOf = async (qemu: TestQemu): Promise<string[]> =>
  ((await qemu.control.execute('query-block')) as { inserted: { 'node-name': string } }[]).map(
    ({ inserted }) => inserted['node-name'],
  )

async function fillFirst(qemu: TestQemu): Promise<void> {
  await qemu.write('vda', 1, 0, 5 * MiB)
  await qemu.write('vda', 2, 20 * MiB, 64 * KiB)
}

async function fill(qemu: TestQemu): Promise<void> {
  await fillFirst(qemu)
  await qemu.write('vdb', 3, 31 * MiB, MiB)
}

test('both disks move while they are written, and the guest goes on there', { skip }, async () => {
  await using qemu = await startQemu({ disks: DISKS })
  await fill(qemu)
  await qemu.control.execute('block-dirty-bitmap-add', { node: 'vdb-node', name: BITMAP, persistent: true })
  await qemu.write('vdb', 4, 8 * MiB, 64 * KiB)
  const phases = new Set<string>()
  let writing: Promise<void> | undefined
  const moved = await migrate(qemu, {
    progress: ({ disk, phase }) => {
      phases.add(`${disk} ${phase}`)
      writing ??= (async () => {
        for (let i = 0; i < 20; i++) await qemu.write('vdb', 100 + i, i * MiB, 12 * KiB)
      })()
    },
  })
  await writing
  await qemu.write('vda', 5, 6 * MiB, MiB)
  assert.deepEqual(
    moved.map(({ name, before, node }) => [name, before, node]),
    [
      ['vda', 'vda-node', 'production0'],
      ['vdb', 'vdb-node', 'production1'],
    ],
  )
  assert.deepEqual(await nodesOf(qemu), ['production0', 'production1'])
  assert.deepEqual([...phases].sort(), ['vda copy', 'vda verify', 'vdb copy', 'vdb verify'])
  assert.deepEqual(await qemu.residue(), [])
  const bitmaps = (await qemu.control.execute('query-named-block-nodes')) as {
    'node-name': string
    'dirty-bitmaps'?: { name: string; count: number; persistent: boolean }[]
  }[]
  const kept = bitmaps.find(node => node['node-name'] === 'production1')?.['dirty-bitmaps'] ?? []
  assert.deepEqual(
    kept.map(({ name, persistent }) => [name, persistent]),
    [[BITMAP, true]],
  )
  assert.ok((kept[0]?.count ?? 0) >= 20 * 64 * KiB, 'the bitmap has what was written before and during the move')
  await qemu.flush('vda')
  await qemu.flush('vdb')
  const [vda, vdb] = [qemu.contents('vda'), qemu.contents('vdb')]
  await qemu.quit()
  assert.ok(read(path.join(qemu.dir, 'new-vda.raw'), 'raw').equals(vda))
  assert.ok(read(path.join(qemu.dir, 'new-vdb.qcow2'), 'qcow2').equals(vdb))
})

test('given up before the pivot, the guest stays where it was and the targets go', { skip }, async () => {
  await using qemu = await startQemu({ disks: DISKS })
  await fill(qemu)
  const stop = new AbortController()
  const failure = migrate(qemu, {
    bytesPerSecond: MiB,
    signal: stop.signal,
    progress: () => stop.abort(new Error('enough')),
  })
  await assert.rejects(failure, /enough/)
  assert.deepEqual(await nodesOf(qemu), ['vda-node', 'vdb-node'])
  assert.deepEqual(await qemu.residue(), [])
  for (const { path: file } of targetsIn(qemu.dir)) assert.equal(existsSync(file), false)
  await migrate(qemu)
})

test('what a killed migration left is in the way of nothing', { skip }, async () => {
  await using qemu = await startQemu({ disks: DISKS })
  await fill(qemu)
  const [first] = targetsIn(qemu.dir)
  // As a kill leaves it: the file, the target's node, and a job that goes on by itself.
  execFileSync('qemu-img', ['create', '-q', '-f', 'raw', first!.path, String(SIZE)])
  await qemu.control.execute('blockdev-add', {
    'node-name': 'production0',
    driver: 'raw',
    file: { driver: 'file', filename: first!.path },
  })
  await qemu.control.execute('blockdev-mirror', {
    'job-id': 'lifeboat-migrate-0',
    device: 'vda-node',
    target: 'production0',
    sync: 'full',
    speed: 1,
  })
  await assert.rejects(migrate(qemu), error => isLifeboatError(error, 'output-exists'))
  const moved = await migrate(qemu, { mayOverwrite: file => file === first!.path })
  assert.equal(moved.length, 2)
  assert.deepEqual(await qemu.residue(), [])
})

test('killed after the pivot, the next run compares what the first one could not', { skip }, async () => {
  await using qemu = await startQemu({ disks: DISKS })
  await fill(qemu)
  const stop = new Error('killed')
  const progress = ({ phase }: MigrationProgress) => {
    if (phase === 'verify') throw stop
  }
  await assert.rejects(migrate(qemu, { progress }), error => error === stop)
  assert.deepEqual(await nodesOf(qemu), ['production0', 'production1'])
  const phases = new Set<string>()
  const moved = await migrate(qemu, { progress: ({ disk, phase }) => void phases.add(`${disk} ${phase}`) })
  assert.deepEqual([...phases], ['vda verify', 'vdb verify'])
  assert.deepEqual(
    moved.map(({ before }) => before),
    ['vda-node', 'vdb-node'],
  )
  assert.deepEqual(await qemu.bitmaps(), {})
  assert.deepEqual(await qemu.residue(), [])
  assert.deepEqual(await migrate(qemu), [], 'all is done')
})

test('a target that does not keep what was written is found out, and the source is still there', { skip }, async () => {
  await using qemu = await startQemu({ disks: [DISKS[0]] })
  await fillFirst(qemu)
  const [target] = targetsIn(qemu.dir)
  let damaged = false
  const failure = migrate(qemu, {
    targets: [target!],
    progress: ({ phase }) => {
      if (phase !== 'verify' || damaged) return
      damaged = true
      const file = openSync(target!.path, 'r+')
      writeSync(file, Buffer.from('rot'), 0, 3, 20 * MiB + 100)
      closeSync(file)
    },
  })
  await assert.rejects(failure, error => {
    assert.ok(isLifeboatError(error, 'migration-differs'))
    assert.deepEqual(error.details.ranges, [{ offset: 20 * MiB, length: 4 * KiB }])
    return true
  })
  assert.ok(damaged)
  assert.ok(existsSync(target!.path), 'the guest runs from it')
  assert.deepEqual(await qemu.residue(), [])
})

test('targets that are missing, double, unknown or there already are refused before anything is done', {
  skip,
}, async () => {
  await using qemu = await startQemu({ disks: DISKS })
  const [vda, vdb] = targetsIn(qemu.dir)
  const refused = async (targets: MigrationTarget[], code: 'usage' | 'no-such-disk' | 'output-failed') =>
    assert.rejects(migrate(qemu, { targets }), error => isLifeboatError(error, code))
  await refused([vda!], 'usage')
  await refused([vda!, vdb!, { ...vdb!, path: `${vdb!.path}2` }], 'usage')
  await refused([vda!, vdb!, { ...vdb!, disk: 'vdz' }], 'no-such-disk')
  await refused([vda!, { ...vdb!, path: '/nowhere/at/all.raw' }], 'output-failed')
  assert.equal(existsSync(vda!.path), false, 'the first target goes when the second cannot be made')
  assert.deepEqual(await nodesOf(qemu), ['vda-node', 'vdb-node'])
  assert.deepEqual(await qemu.residue(), [])
})

/** A block device of so many bytes. */
function deviceOf(file: string, bytes: number) {
  writeFileSync(file, '')
  truncateSync(file, bytes)
  return loopDevice(file)
}

const skipLoop =
  skip || ((process.getuid?.() !== 0 || !existsSync('/dev/loop-control')) && 'loop devices of its own need root')

test('disks move to block devices, raw on a larger one and qcow2, at the rate that was asked for', {
  skip: skipLoop,
}, async () => {
  await using qemu = await startQemu({ disks: DISKS })
  await fill(qemu)
  await using larger = deviceOf(path.join(qemu.dir, 'larger'), SIZE + 8 * MiB)
  await using container = deviceOf(path.join(qemu.dir, 'container'), 2 * SIZE)
  assert.ok(larger && container)
  const rate = 24 * MiB
  const rates = new Set<number>()
  let asking: Promise<void> | undefined
  const moved = await migrate(qemu, {
    targets: [
      { disk: 'vda', path: larger.device, format: 'raw' },
      { disk: 'vdb', path: container.device, format: 'qcow2' },
    ],
    bytesPerSecond: rate,
    progress: ({ phase }) => {
      if (phase !== 'copy') return
      asking ??= (async () => {
        for (const { speed } of (await qemu.control.execute('query-block-jobs')) as { speed: number }[])
          rates.add(speed)
      })()
    },
  })
  await asking
  assert.deepEqual([...rates], [rate])
  assert.deepEqual(
    moved.map(({ path: to, size }) => [to, size]),
    [
      [larger.device, SIZE],
      [container.device, SIZE],
    ],
  )
  await qemu.write('vda', 5, 6 * MiB, MiB)
  await qemu.flush('vda')
  await qemu.flush('vdb')
  const [vda, vdb] = [qemu.contents('vda'), qemu.contents('vdb')]
  assert.equal(vda.length, SIZE, 'the guest sees no other disk')
  await qemu.quit()
  assert.ok(read(larger.device, 'raw').subarray(0, SIZE).equals(vda))
  assert.ok(read(container.device, 'qcow2').equals(vdb))
})

test('a target that another machine uses is refused, and the guest stays where it was', {
  skip: skipLoop,
}, async () => {
  await using other = await startQemu({ disks: [DISKS[0]] })
  await using qemu = await startQemu({ disks: [DISKS[0]] })
  await fillFirst(qemu)
  await using shared = deviceOf(path.join(other.dir, 'shared'), SIZE)
  assert.ok(shared)
  const file = { driver: 'host_device', filename: shared.device }
  await other.control.execute('blockdev-add', { 'node-name': 'taken', driver: 'raw', file })
  const mirror = { 'job-id': 'holds', device: 'vda-node', target: 'taken', sync: 'none' }
  await other.control.execute('blockdev-mirror', mirror)
  const targets = [{ disk: 'vda', path: shared.device, format: 'raw' }] as const
  await assert.rejects(migrate(qemu, { targets }), error => {
    assert.ok(isLifeboatError(error, 'output-failed'), `${error}`)
    assert.match(error.details.hint ?? '', /runs on as before/)
    return true
  })
  assert.deepEqual(await nodesOf(qemu), ['vda-node'])
  assert.deepEqual(await qemu.residue(), [])
  await other.quit()
})

const skipTmpfs = skip || (process.getuid?.() !== 0 && 'mounting a tmpfs needs root')

test('a target without room ends the migration and not the guest', { skip: skipTmpfs }, async () => {
  await using qemu = await startQemu({ disks: [DISKS[0]] })
  await fillFirst(qemu)
  const small = path.join(qemu.dir, 'small')
  mkdirSync(small)
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', small])
  try {
    const target = { disk: 'vda', path: path.join(small, 'vda.raw'), format: 'raw' } as const
    await assert.rejects(migrate(qemu, { targets: [target] }), error => {
      assert.ok(isLifeboatError(error, 'tool-failed'))
      assert.match(error.message, /No space left/)
      return true
    })
    assert.deepEqual(await nodesOf(qemu), ['vda-node'])
    assert.deepEqual(await qemu.residue(), [])
    assert.equal(existsSync(target.path), false)
    await qemu.write('vda', 9, 0, MiB)
  } finally {
    execFileSync('umount', [small])
  }
})
