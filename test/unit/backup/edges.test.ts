/** Backups at the edges: disks of odd sizes, disks that the chosen base does not have, and Ctrl-C at the very end. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { backupVm } from '../../../src/backup/backup-vm.ts'
import type { BlockReader } from '../../../src/block/block-device.ts'
import { changedSince } from '../../../src/cli/changed-since.ts'
import type { PointId } from '../../../src/core/ids.ts'
import { KiB, MiB } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import type { Extent, Range } from '../../../src/core/range.ts'
import type { CapturedDisk, Hypervisor } from '../../../src/hypervisor/hypervisor.ts'
import { pointImage } from '../../../src/repository/image.ts'
import { intercepted } from '../../doubles/intercepted-store.ts'
import { manualClock } from '../../doubles/manual-clock.ts'
import {
  beginBackup,
  keysOf,
  newMemoryRepository,
  openMemoryRepository,
  readBack,
  summaryOf,
} from '../../doubles/memory-repository.ts'
import { patternBytes } from '../../doubles/pattern.ts'
import { scriptedHypervisor } from '../../doubles/scripted-hypervisor.ts'

const TiB = 2 ** 40

/** Zeros but for what lies at one offset. */
function mostlyHole(size: number, at: number, bytes: Uint8Array): BlockReader {
  const end = at + bytes.length
  return {
    size,
    blockSize: 512,
    async readInto(target, offset) {
      assert.ok(offset >= 0 && offset + target.length <= size, `read of ${target.length} at ${offset}`)
      target.fill(0)
      const from = Math.max(offset, at)
      const to = Math.min(offset + target.length, end)
      if (to > from) target.set(bytes.subarray(from - at, to - at), from - offset)
    },
    async *extents({ offset, length }: Range): AsyncGenerator<Extent> {
      const stop = offset + length
      const cuts = [offset, Math.min(stop, Math.max(offset, at)), Math.min(stop, Math.max(offset, end)), stop]
      for (const [n, kind] of (['zero', 'data', 'zero'] as const).entries())
        if (cuts[n + 1]! > cuts[n]!) yield { offset: cuts[n]!, length: cuts[n + 1]! - cuts[n]!, kind }
    },
    async [Symbol.asyncDispose]() {},
  }
}

const holding = (disks: () => readonly CapturedDisk[]): Hypervisor => ({
  capture: async () => ({
    vm: { name: 'vm' },
    consistency: 'crash',
    takenAt: new Date(0),
    disks: disks(),
    omitted: [],
    broken: new Promise<never>(() => {}),
    async committed() {},
    async [Symbol.asyncDispose]() {},
  }),
  async [Symbol.asyncDispose]() {},
})

for (const chunkSize of [4 * KiB, 4 * MiB])
  test(`disks of 0 and 1 bytes, about a chunk, and past 1 TiB come back, in full and by increment (chunks of ${chunkSize})`, async () => {
    const sizes = [
      0,
      1,
      511,
      chunkSize - 1,
      chunkSize,
      chunkSize + 1,
      64 * chunkSize + 1,
      TiB - 1,
      TiB + 1,
      5 * TiB + 513,
    ]
    const store = await newMemoryRepository({ chunkSize })
    const clock = manualClock()
    await using repository = await openMemoryRepository(store, { seed: 'odd', clock })
    const random = seededRandom('odd points')
    let base: PointId | undefined
    for (const round of [1, 2, 3]) {
      // The last bytes of each disk; in the second round they change, in the third they become a hole.
      const tail = (size: number) => (round === 3 ? new Uint8Array(0) : patternBytes(Math.min(size, 700), round))
      const readers = sizes.map(size => mostlyHole(size, size - tail(size).length, tail(size)))
      const changed = (size: number) => [{ offset: Math.max(0, size - 700), length: Math.min(size, 700) }]
      const disks = sizes.map(
        (size, n): CapturedDisk => ({
          description: { name: `d${n}`, size },
          image: readers[n]!,
          ...(base
            ? { base, changes: { kind: 'incremental', ranges: changed(size) } }
            : { changes: { kind: 'full', reason: 'first-backup' } }),
        }),
      )
      const hypervisor = holding(() => disks)
      const common = { vm: 'vm', hypervisor, repository, clock, random, fleecingDir: '/nowhere' }
      const { point } = await backupVm({
        ...common,
        kind: 'incremental',
        alarm: message => assert.fail(message),
      })
      base = point
      await using opened = await repository.openPoint(await summaryOf(repository, point), { pin: 'none' })
      for (const [n, size] of sizes.entries()) {
        await using image = pointImage(opened.disk(`d${n}`))
        assert.equal(image.size, size)
        const length = Math.min(size, chunkSize + 1000)
        for (const offset of new Set([0, size - length])) {
          const [found, expected] = [new Uint8Array(length).fill(0xaa), new Uint8Array(length)]
          await image.readInto(found, offset)
          await readers[n]!.readInto(expected, offset)
          assert.ok(Buffer.from(found).equals(expected), `round ${round}: ${length} bytes at ${offset} of ${size}`)
        }
      }
    }
  })

test('a differential point holds a disk that the chosen point did not have, and one that had another size', async () => {
  const store = await newMemoryRepository({ chunkSize: 4096 })
  const clock = manualClock()
  await using repository = await openMemoryRepository(store, { seed: 'differential', clock })
  const hypervisor = scriptedHypervisor()
  const common = { vm: 'vm', hypervisor, repository, clock, random: seededRandom('d'), fleecingDir: '/nowhere' }
  const full = { kind: 'full', reason: 'first-backup' } as const
  const vda = patternBytes(40 * 4096, 1)
  hypervisor.disks = [{ name: 'vda', bytes: vda.subarray(0, 30 * 4096 + 5), changes: full }]
  const first = await backupVm({ ...common, kind: 'full' })
  const vdb = patternBytes(20 * 4096 + 77, 2)
  const both = (changes: (typeof hypervisor.disks)[number]['changes'], base?: PointId) =>
    [
      { name: 'vda', bytes: vda, changes, base },
      { name: 'vdb', bytes: vdb, changes, base },
    ] as const
  hypervisor.disks = both(full)
  const second = await backupVm({ ...common, kind: 'incremental' })
  vda.fill(3, 4096, 8192)
  vdb.fill(4, 4096, 8192)
  hypervisor.disks = both({ kind: 'incremental', ranges: [{ offset: 4096, length: 4096 }] }, second.point)
  const kind = { differentialTo: first.point, changedSince: changedSince(repository, 'vm') }
  const alarms: string[] = []
  const result = await backupVm({ ...common, kind, alarm: message => alarms.push(message) })
  assert.deepEqual(alarms, [])
  assert.equal(result.kind, 'differential')
  for (const [name, bytes] of [
    ['vda', vda],
    ['vdb', vdb],
  ] as const)
    assert.ok(Buffer.from(await readBack(repository, result.point, name)).equals(bytes), name)
})

test('Ctrl-C while the last packs of a disk are on their way gives up at once, though the store hangs', async () => {
  const store = await newMemoryRepository({ chunkSize: 64 * KiB })
  const hanging = intercepted(store, {
    async before({ verb, key }, options) {
      if (verb !== 'put' || !key.startsWith('packs/')) return
      await new Promise((_, reject) => options?.signal?.addEventListener('abort', () => reject(options.signal?.reason)))
    },
  })
  const repository = await openMemoryRepository(hanging, { seed: 'abort' })
  const control = new AbortController()
  await assert.rejects(async () => {
    await using writer = await beginBackup(repository, { number: 1, disks: [] })
    const disk = await writer.disk({ name: 'vda', size: 60 * MiB, description: {} })
    for (let offset = 0; offset < 60 * MiB; offset += MiB)
      await disk.write(offset, patternBytes(MiB, offset), { signal: control.signal })
    setTimeout(() => control.abort(new Error('Ctrl-C')), 100)
    await disk.finish({ bytesRead: 60 * MiB }, { signal: control.signal })
  }, /Ctrl-C/)
  assert.deepEqual(keysOf(store, 'points/'), [])
  assert.deepEqual(keysOf(store, 'leases/'), [])
})
