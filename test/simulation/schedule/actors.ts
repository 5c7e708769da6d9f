/** What a process of a walk does: calls into shipped code, and a word to the oracle about what it was promised. */
import type { PointId } from '../../../src/core/ids.ts'
import { applyForget, forgetPoints } from '../../../src/maintenance/forget.ts'
import { collectGarbage } from '../../../src/maintenance/gc.ts'
import { maintenanceContext } from '../../../src/maintenance/maintenance.ts'
import { pointImage } from '../../../src/repository/image.ts'
import { parsePointKey } from '../../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../../src/repository/open.ts'
import type { PointSummary } from '../../../src/repository/repository.ts'
import type { WriterPlan } from './configuration.ts'
import type { Dice } from './dice.ts'
import type { Host } from './host.ts'
import type { Oracle } from './oracle.ts'
import { CHUNK, DISK_CHUNKS, type Image, regionOf, type Start, VM } from './start.ts'

export interface Actor {
  readonly host: Host
  readonly repository: OpenedRepository
  readonly oracle: Oracle
  readonly dice: Dice
  readonly start: Start
}

/** Writes point M<n + 1>, upon its base if that passes, else whole. */
export async function write(
  { repository, oracle, start }: Actor,
  n: number,
  { base }: WriterPlan,
  takenAt: Date,
): Promise<void> {
  const name = `M${n + 1}`
  const point = start.pointIds.get(name)!
  const baseId = base === undefined ? undefined : start.pointIds.get(base)
  const bases = baseId === undefined ? [] : [baseId]
  await using writer = await repository.beginPoint({ vm: VM, point, takenAt, kind: 'backup', bases })
  const upon = baseId !== undefined && writer.bases.has(baseId) ? baseId : undefined
  const image = start.images.get(name)!
  const disk = await writer.disk({ name: 'vda', size: DISK_CHUNKS * CHUNK, base: upon, description: {} })
  for (const [chunk, content] of image)
    if (upon === undefined || chunk >= regionOf(n)) await disk.write(chunk * CHUNK, start.bytesOf(content).slice())
  await disk.finish({ bytesRead: 0 })
  await writer.commit({ kind: 'full', consistency: 'crash', description: {}, omitted: [] })
  oracle.confirmed(point)
}

/** Opens the point and reads of it, a few times. */
export async function read({ host, repository, oracle, dice, start }: Actor, point: PointSummary): Promise<void> {
  await using opened = await repository.openPoint(point, { pin: 'export' })
  oracle.opened(host.name, point.id)
  try {
    const image = imageNamed(start, point.id)
    for (let turn = 1 + dice.roll(3); turn > 0; turn--) {
      await using disk = pointImage(opened.disk('vda'))
      const [chunk, content] = dice.pick([...image])
      const bytes = new Uint8Array(CHUNK)
      await disk.readInto(bytes, chunk * CHUNK)
      if (Buffer.compare(bytes, start.bytesOf(content)) !== 0) throw new Error(`${host.name} read wrong bytes`)
    }
  } finally {
    oracle.closed(host.name)
  }
}

export function imageNamed({ images, pointIds }: Start, point: PointId): Image {
  const name = [...pointIds].find(([, id]) => id === point)?.[0]
  const image = name === undefined ? undefined : images.get(name)
  if (!image) throw new Error(`${point} is no point of this walk`)
  return image
}

/** Waits for the point, a little, and forgets it: by the rules of people, or at once, as after a look that is out of date. */
export async function forget({ host, repository, dice }: Actor, point: PointSummary): Promise<void> {
  const context = maintenanceContext(repository, host.name)
  for (let turn = 0; (await host.store.head(point.key)) === undefined; turn++) {
    if (turn === 8) return
    await host.clock.sleep(60_000)
  }
  if (dice.chance(0.25)) await forgetPoints(context, [point], { why: 'a test', lastPoint: true })
  else await applyForget(context, [point], { why: 'a test' })
}

export const summaryOfKey = (key: string): PointSummary => {
  const parts = parsePointKey(key)!
  return { id: parts.point, vm: parts.vm, takenAt: parts.takenAt, key, state: 'committed' }
}

/** With hardly any grace: that is for readers without pins, of which there are none here. */
export async function collect({ host, repository, dice }: Actor): Promise<void> {
  await collectGarbage(maintenanceContext(repository, host.name), { graceMs: dice.pick([0, 2000]) })
}
