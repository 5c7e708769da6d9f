/** A repository in memory for forget, prune and holds: points at any time, one clock for host and store that the test moves. */
import { hex, type PointId, pointId } from '../../src/core/ids.ts'
import { type Random, seededRandom } from '../../src/core/random.ts'
import { type MaintenanceContext, maintenanceContext } from '../../src/maintenance/maintenance.ts'
import { putDamage } from '../../src/repository/damage-marks.ts'
import { initRepository } from '../../src/repository/init.ts'
import { fenceKey, parsePackKey } from '../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import type { PointSummary, PointWriter } from '../../src/repository/repository.ts'
import { type MemoryStore, memoryStore } from '../../src/storage/memory.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import { type ManualClock, manualClock } from './manual-clock.ts'
import { keysOf, openMemoryRepository, summaryOf } from './memory-repository.ts'

export interface MaintainedRepository {
  readonly store: MemoryStore
  readonly clock: ManualClock
  readonly random: Random
  readonly repository: OpenedRepository
  readonly context: MaintenanceContext
  /** The same repository through another store. */
  through(store: ObjectStore): Promise<MaintenanceContext>
  begin(takenAt: string, options?: { vm?: string; base?: PointId }): Promise<PointWriter>
  /** Written and committed. */
  point(takenAt: string, options?: { vm?: string; base?: PointId }): Promise<PointSummary>
  /** Fences the point's lease. */
  makeVoid(point: PointSummary): Promise<void>
  /** As `verify` marks it: damage in a pack that these points need. */
  suspect(...points: readonly PointSummary[]): Promise<void>
  /** Flips a bit of a stored object. */
  damage(key: string): void
}

const WHO = 'jane@box'

export async function maintainedRepository({
  now = '2026-11-21T12:00:00.000Z',
  locks = false,
} = {}): Promise<MaintainedRepository> {
  const clock = manualClock(now)
  const random = seededRandom('maintained')
  const store = memoryStore({ clock, versioned: locks, objectLock: locks })
  const credential = { kind: 'file', secret: new Uint8Array(32).fill(7) } as const
  await initRepository({ store, credential, chunkSize: 4096, random, clock })
  const open = (opened: ObjectStore) => openMemoryRepository(opened, { seed: 'opened', clock, random })
  const repository = await open(store)
  const begin: MaintainedRepository['begin'] = (takenAt, { vm = 'vm', base } = {}) =>
    repository.beginPoint({
      vm,
      point: pointId(hex(random(8))),
      takenAt: new Date(takenAt),
      kind: 'backup',
      bases: base ? [base] : [],
    })
  return {
    store,
    clock,
    random,
    repository,
    context: maintenanceContext(repository, WHO),
    through: async opened => maintenanceContext(await open(opened), WHO),
    begin,
    async point(takenAt, options) {
      await using writer = await begin(takenAt, options)
      await fillAndCommit(writer, random)
      return await summaryOf(repository, writer.point)
    },
    async makeVoid(point) {
      const { lease } = await repository.manifest(point)
      const fence = { who: WHO, when: clock.now().toISOString(), manifest: point.key }
      await repository.reading.control.put('fence', fenceKey(lease, '00112233445566aa'), fence)
    },
    async suspect(...points) {
      const [object = ''] = keysOf(store, 'packs/')
      const { pack } = parsePackKey(object)!
      const known = { object, slots: null, contents: [], points: points.map(({ id }) => id), what: 'a test' }
      await putDamage(repository.reading.control, pack, known, { who: WHO, now: clock.now() })
    },
    damage(key) {
      const bytes = store.snapshot().get(key)!.bytes.slice()
      bytes[bytes.length >> 1]! ^= 1
      store.tamper(key, bytes)
    },
  }
}

/** One disk of two chunks, one of them new each time. */
export async function fillAndCommit(writer: PointWriter, random: Random): Promise<void> {
  const disk = await writer.disk({ name: 'vda', size: 8192, description: {} })
  await disk.write(0, random(4096))
  await disk.write(4096, new Uint8Array(4096).fill(3))
  await disk.finish({ bytesRead: 8192 })
  await writer.commit({ kind: 'full', consistency: 'crash', description: {}, omitted: [] })
}
