/** A guest's disk in a repository in memory, 10 ms away: as one backup wrote it, or as many increments left it. */
import { open } from 'node:fs/promises'
import path from 'node:path'
import { backupVm } from '../src/backup/backup-vm.ts'
import { systemClock } from '../src/core/clock.ts'
import { hex, type PointId, pointId } from '../src/core/ids.ts'
import { KiB } from '../src/core/limits.ts'
import { seededRandom, systemRandom } from '../src/core/random.ts'
import { imageHypervisor } from '../src/hypervisor/images.ts'
import { loadPipeline } from '../src/native/native.ts'
import { initRepository } from '../src/repository/init.ts'
import { type OpenedRepository, openRepository } from '../src/repository/open.ts'
import type { PointSummary } from '../src/repository/repository.ts'
import { memoryStore } from '../src/storage/memory.ts'
import { type Meter, metered } from '../src/storage/metered.ts'
import type { ObjectStore } from '../src/storage/object-store.ts'
import { type Distance, distant } from './distant-store.ts'

export const LINK: Distance = { latencyMs: 10, bytesPerSecond: 150e6 }
export const VM = 'guest'
export const DISK = 'vda'
const CHUNK = 64 * KiB
const INCREMENTS = 60
/** Of the chunks that increments wrote, in runs of up to so many. */
const AGED_SHARE = 0.6
const RUN_CHUNKS = 32

export interface BootRepository {
  readonly point: PointSummary
  /** Through the distance, metered. */
  open(link?: Distance): Promise<{ readonly repository: OpenedRepository; readonly meter: Meter }>
}

/** As `backup --image` writes it. */
export const freshRepository = (disk: string, dir: string): Promise<BootRepository> =>
  filled(async repository => {
    const images = [{ name: DISK, path: disk, format: 'raw' }] as const
    const common = { clock: systemClock, random: systemRandom }
    const hypervisor = imageHypervisor({ vm: VM, images, stateDir: path.join(dir, 'scan'), ...common })
    const fleecingDir = path.join(dir, 'fleecing')
    await backupVm({ vm: VM, hypervisor, repository, ...common, kind: 'incremental', fleecingDir })
  })

/** The same contents, most of which came with one of many increments, in runs: before, other contents were there. */
export const agedRepository = (disk: string): Promise<BootRepository> =>
  filled(async repository => {
    const random = seededRandom('aged')
    const draw = () => new DataView(random(4).buffer).getUint32(0) / 2 ** 32
    const image = await open(disk)
    try {
      const { size } = await image.stat()
      const born: number[] = []
      while (born.length * CHUNK < size) {
        const increment = draw() < AGED_SHARE ? 1 + Math.floor(draw() * INCREMENTS) : 0
        for (let left = 1 + Math.floor(draw() * RUN_CHUNKS); left > 0; left--) born.push(increment)
      }
      let base: PointId | undefined
      for (let increment = 0; increment <= INCREMENTS; increment++) {
        const point = pointId(hex(systemRandom(8)))
        const takenAt = new Date(Date.UTC(2026, 0, 1, 0, increment))
        await using writer = await repository.beginPoint({
          vm: VM,
          point,
          takenAt,
          kind: 'backup',
          bases: base ? [base] : [],
        })
        const target = await writer.disk({ name: DISK, size, base, description: {} })
        const chunk = Buffer.alloc(CHUNK)
        for (let at = 0; at < size; at += CHUNK) {
          const itsOwn = born[at / CHUNK] ?? 0
          if (increment > 0 && itsOwn !== increment) continue
          await image.read(chunk, 0, CHUNK, at)
          const isOlder = itsOwn > increment
          if (isOlder) for (let i = 0; i < CHUNK; i++) if (chunk[i] !== 0) chunk[i]! ^= 0x55
          await target.write(at, Uint8Array.prototype.slice.call(chunk))
        }
        await target.finish({ bytesRead: 0 })
        const kind = base ? 'incremental' : 'full'
        await writer.commit({ kind, consistency: 'crash', description: {}, omitted: [] })
        base = point
      }
    } finally {
      await image.close()
    }
  })

async function filled(fill: (repository: OpenedRepository) => Promise<void>): Promise<BootRepository> {
  const store = memoryStore()
  const credential = { kind: 'file', secret: systemRandom(32) } as const
  const common = { clock: systemClock, random: systemRandom }
  await initRepository({ store, credential, ...common })
  const through = (from: ObjectStore) =>
    openRepository({ store: from, credential, ...common, host: 'bench', pipeline: loadPipeline() })
  await using repository = await through(store)
  await fill(repository)
  const point = (await repository.points({ vm: VM })).at(-1)
  if (!point) throw new Error('no point was written')
  return {
    point,
    async open(link = LINK) {
      const { store: counted, meter } = metered(distant(store, link))
      return { repository: await through(counted), meter }
    },
  }
}
