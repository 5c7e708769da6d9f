/**
 * The sparse dedup index against a full one: the share of duplicates that it does not find and that are stored again, for an
 * exact clone of a disk and for copies of it whose pieces lie elsewhere; and the memory that it takes for each TiB that the
 * repository knows. A full index would find every duplicate here, because each chunk of the copies is stored already.
 */
import { open } from 'node:fs/promises'
import path from 'node:path'
import { packId } from '../src/core/ids.ts'
import { GiB, KiB, MiB } from '../src/core/limits.ts'
import { seededRandom } from '../src/core/random.ts'
import { HookTable } from '../src/repository/hook-table.ts'
import { type Goal, judge } from './goal.ts'
import { images } from './images.ts'
import { lifeboat } from './process-cost.ts'
import { type BackupDocument, makeRepository } from './repository.ts'

const TiB = 1024 * GiB
const CHUNK = 64 * KiB
/** Sizes of the pieces that a copy keeps together; the whole is a clone. */
const PIECES = [1 * GiB, 64 * MiB, 16 * MiB, 4 * MiB, 1 * MiB]
/** Long files keep their order when they are copied; short ones are where a sparse index loses. */
const LOSS_MAX = 0.015
const MEMORY_MAX = 8 * MiB

export const goal: Goal = {
  id: 'dedup',
  title: 'sparse dedup index',
  async run({ dir, record, say }) {
    const { v1, size } = await images()
    const repository = await makeRepository(dir, 'repo')
    const backup = async (vm: string, image: string): Promise<BackupDocument> =>
      JSON.parse((await lifeboat(['backup', vm, '--image', `vda=${image}`, '--json'], repository.environment)).stdout)
    const first = await backup('first', v1)
    const losses = new Map<number, number>()
    for (const piece of PIECES) {
      const copy = path.join(dir, 'copy.raw')
      await shuffled(v1, copy, size, piece)
      const { disks, requests } = await backup(`copy-${piece}`, copy)
      const [disk] = disks
      losses.set(piece, (disk?.bytesNew ?? Number.NaN) / (disk?.bytesChanged ?? Number.NaN))
      say(
        `pieces of ${piece / MiB} MiB: ${((losses.get(piece) ?? 0) * 100).toFixed(2)} % stored again, ${requests.get.requests} GETs`,
      )
    }
    const memory = Math.max(...[0.3, 0.5, 1, 2, 4, 8, 16].map(tib => memoryPerTiB(tib * TiB)))
    record('figures', { new: first.disks[0]?.bytesNew, losses: Object.fromEntries(losses), memory })
    say(`at most ${(memory / MiB).toFixed(1)} MiB for each TiB`)
    const row = (what: string, piece: number, atMost: number) =>
      judge({
        goal: `sizes: duplicates missed, ${what}`,
        product: 'sparse index',
        peer: 'full index',
        ratios: [losses.get(piece) ?? Number.NaN],
        target: { atMost },
      })
    return [
      row('clone', GiB, LOSS_MAX),
      row('pieces of 64 MiB', 64 * MiB, LOSS_MAX),
      row('pieces of 4 MiB', 4 * MiB, 0.15),
      judge({
        goal: 'sizes: memory of the index',
        product: 'hook table',
        peer: `${MEMORY_MAX / MiB} MiB for each TiB known`,
        ratios: [memory / MEMORY_MAX],
        target: { atMost: 1 },
      }),
    ]
  },
}

/** Incompressible data has the most packs: the worst case. */
function memoryPerTiB(bytes: number): number {
  const table = new HookTable()
  const random = seededRandom(`${bytes}`)
  const chunks = bytes / CHUNK
  const id = new Uint8Array(32)
  for (let chunk = 0, pack = 0; chunk < chunks; chunk += 64) {
    if (chunk % 256 === 0) pack = table.addPack(packId(Buffer.from(random(16)).toString('hex')))
    id.set(random(8))
    id[0] = (id[0] ?? 0) & 0xc0
    table.add(id, 0, pack)
  }
  return table.memoryBytes / (bytes / TiB)
}

/** The pieces in another order, the same each time. */
async function shuffled(from: string, to: string, size: number, piece: number): Promise<void> {
  const count = size / piece
  const order = Array.from({ length: count }, (_, n) => n)
  const random = seededRandom(`order ${piece}`)
  for (let n = count - 1; n > 0; n--) {
    const other = Buffer.from(random(6)).readUIntBE(0, 6) % (n + 1)
    const [a = 0, b = 0] = [order[n], order[other]]
    order[n] = b
    order[other] = a
  }
  await using source = await open(from, 'r')
  await using target = await open(to, 'w')
  await target.truncate(size)
  const buffer = Buffer.alloc(Math.min(piece, 4 * MiB))
  for (const [place, origin] of order.entries())
    for (let at = 0; at < piece; at += buffer.length) {
      await source.read(buffer, 0, buffer.length, origin * piece + at)
      await target.write(buffer, 0, buffer.length, place * piece + at)
    }
}
