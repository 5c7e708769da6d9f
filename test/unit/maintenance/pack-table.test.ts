/** The table of live slots against a plain Map of Sets. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { domainId, hex, type PackId, packId } from '../../../src/core/ids.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { PackTable } from '../../../src/maintenance/pack-table.ts'
import { packKey } from '../../../src/repository/object-keys.ts'

const DOMAIN = domainId('00000000000000aa')
const info = (size: number) => ({ size, modifiedAt: new Date(86_400_000 * size) })

test('what was added is there and nothing else, over many packs and all sizes of bitmaps', () => {
  const seed = process.env.SEED ?? 'table'
  const random = seededRandom(seed)
  const table = new PackTable()
  const model = new Map<PackId, Map<number, number>>()
  const packs: PackId[] = []
  for (let n = 0; n < 17_000; n++) packs.push(packId(hex(Uint8Array.of(0, ...random(15)))))
  const number = (below: number) => new DataView(random(4).buffer).getUint32(0) % below
  for (let step = 0; step < 40_000; step++) {
    const pack = packs[step < packs.length ? step : number(packs.length)]!
    // Most packs are small, a few have every slot there can be.
    const slot = number(step % 97 === 0 ? 65_535 : 300)
    const slots = model.get(pack) ?? new Map<number, number>()
    model.set(pack, slots)
    const length = 21 + number(5000)
    if (table.addLive(table.row(pack), slot, length) === slots.has(slot)) assert.fail(`${pack}/${slot}, seed ${seed}`)
    if (!slots.has(slot)) slots.set(slot, length)
  }
  assert.equal(table.count, packs.length)
  for (const [pack, slots] of model) {
    const row = table.find(pack)
    assert.equal(table.packAt(row), pack)
    assert.equal(table.liveCount(row), slots.size)
    assert.equal(
      table.liveBytes(row),
      [...slots.values()].reduce((sum, length) => sum + length, 0),
    )
    for (const slot of slots.keys()) {
      if (!table.isLive(row, slot) || table.isLive(row, slot + 1) !== slots.has(slot + 1))
        assert.fail(`${pack}/${slot}`)
    }
  }
  assert.equal(table.find(packId('00'.repeat(16))), -1)
  assert.ok(table.memoryBytes < 20 * 2 ** 20, `${table.memoryBytes}`)
})

test('objects of a pack are found together, whatever their order', () => {
  const table = new PackTable()
  const pack = packId('0011'.repeat(8))
  table.addObject('meta', DOMAIN, pack, 'b'.repeat(16), info(10))
  table.addObject('meta', DOMAIN, pack, undefined, info(100))
  table.addObject('meta', DOMAIN, pack, 'a'.repeat(16), info(1))
  const row = table.find(pack)
  assert.equal(table.objectCount(row), 3)
  assert.equal(table.storedBytes(row), 111)
  assert.equal(table.storedDay(row), 100, 'the youngest counts')
  assert.deepEqual(table.objectKeys(row), [
    packKey('meta', DOMAIN, pack),
    packKey('meta', DOMAIN, pack, 'b'.repeat(16)),
    packKey('meta', DOMAIN, pack, 'a'.repeat(16)),
  ])
})
