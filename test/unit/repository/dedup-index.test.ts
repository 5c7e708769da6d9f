import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { packId } from '../../../src/core/ids.ts'
import { GiB, KiB, limits, MiB } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { loadPipeline } from '../../../src/native/native.ts'
import { HookTable } from '../../../src/repository/hook-table.ts'
import { isHook } from '../../../src/repository/index-codec.ts'
import {
  beginBackup,
  commitBackup,
  newMemoryRepository,
  openMemoryRepository,
  writeDisk,
} from '../../doubles/memory-repository.ts'
import { patternBytes } from '../../doubles/pattern.ts'

const CHUNK = 64 * KiB
const TiB = 1024 * GiB

const packNumber = (number: number) => packId(number.toString(16).padStart(32, '0'))

/** `count` hooks, each 32 bytes, and one pack for each four: a repository of incompressible data. */
function fill(table: HookTable, count: number, seed: string): Uint8Array {
  const ids = seededRandom(seed)(count * 32)
  for (let n = 0; n < count; n++) {
    ids[n * 32]! &= ~limits.indexSampleMask
    if (n % 4 === 0) table.addPack(packNumber(n / 4))
    table.add(ids, n * 32, Math.floor(n / 4))
  }
  return ids
}

suite('the table of hooks', () => {
  test('finds every hook that went in, and the first pack of one that came twice', () => {
    const table = new HookTable()
    const ids = fill(table, 20_000, 'hooks')
    for (let n = 0; n < 20_000; n++) {
      assert.ok(isHook(ids, n * 32))
      assert.equal(table.find(ids, n * 32), Math.floor(n / 4))
    }
    table.add(ids, 0, 4711)
    assert.equal(table.find(ids, 0), 0)
    assert.equal(table.find(new Uint8Array(32).fill(0x40)), -1)
    assert.equal(table.packAt(17), packNumber(17))
    assert.equal(table.packAt(5000), undefined)
  })

  test('takes at most 8 MiB for each TiB that the repository knows, from a quarter of one on', () => {
    const perTiB = TiB / CHUNK / 64
    for (const tib of [0.25, 0.376, 0.5, 0.751, 1]) {
      const table = new HookTable()
      fill(table, Math.ceil(perTiB * tib), `${tib}`)
      const share = table.memoryBytes / tib
      assert.ok(share <= 8 * MiB, `${tib} TiB: ${(share / MiB).toFixed(1)} MiB for each`)
    }
  })

  test('when it is full it keeps one hook in four of all, and takes four times as many', () => {
    const table = new HookTable(1000)
    const ids = fill(table, 3500, 'full')
    assert.equal(table.isFull, false)
    assert.ok(table.count < 1000, `${table.count}`)
    for (let n = 0; n < 3500; n++) {
      const isCoarse = ids[n * 32]! >> 6 === 0
      assert.equal(table.find(ids, n * 32), isCoarse ? Math.floor(n / 4) : -1)
    }
    fill(table, 3000, 'more')
    assert.equal(table.isFull, true)
  })
})

suite('what the sparse index misses of the duplicates that a full one finds', () => {
  const SIZE = 96 * MiB

  /** The pieces of an image in another order. */
  const shuffled = (image: Uint8Array, piece: number): Uint8Array => {
    const pieces = Array.from({ length: image.length / piece }, (_, n) => image.subarray(n * piece, (n + 1) * piece))
    return Buffer.concat([...pieces.filter((_, n) => n % 2 === 1), ...pieces.filter((_, n) => n % 2 === 0)])
  }

  for (const [what, piece, most] of [
    ['a clone', SIZE, 0.02],
    ['pieces of 16 MiB', 16 * MiB, 0.1],
    ['pieces of 2 MiB', 2 * MiB, 0.25],
  ] as const)
    test(`${what}: at most ${most * 100} %`, async () => {
      const store = await newMemoryRepository({ chunkSize: CHUNK })
      const image = patternBytes(SIZE, 7)
      const stored: number[] = []
      for (const [number, content] of [image, shuffled(image, piece)].entries()) {
        await using repository = await openMemoryRepository(store, { seed: `${number}`, pipeline: loadPipeline() })
        await using writer = await beginBackup(repository, { vm: `vm${number}`, number: number + 1, disks: [] })
        const { bytesNew } = await writeDisk(repository, writer, { name: 'vda', image: content })
        await commitBackup(writer)
        stored.push(bytesNew)
      }
      assert.equal(stored[0], SIZE)
      const missed = (stored[1] ?? SIZE) / SIZE
      assert.ok(missed <= most, `${(missed * 100).toFixed(1)} % were stored again`)
    })
})
