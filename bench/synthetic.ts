/** A repository in memory with one dense synthetic disk of any size, and what a server of it is made of. */

import { nbdExporter } from '../src/cli/nbd-exporter.ts'
import { Output } from '../src/cli/output.ts'
import { systemClock } from '../src/core/clock.ts'
import { systemRandom } from '../src/core/random.ts'
import { loadPipeline } from '../src/native/native.ts'
import type { Exporter } from '../src/recovery/exporter.ts'
import { initRepository } from '../src/repository/init.ts'
import { type OpenedRepository, openRepository } from '../src/repository/open.ts'
import type { PointSummary } from '../src/repository/repository.ts'
import { memoryStore } from '../src/storage/memory.ts'
import type { ObjectStore } from '../src/storage/object-store.ts'
import { syntheticPoint } from '../test/doubles/synthetic-repository.ts'

export interface Synthetic {
  readonly store: ObjectStore
  readonly point: PointSummary
  open(through?: ObjectStore): Promise<OpenedRepository>
}

export async function synthetic(size: number): Promise<Synthetic> {
  const store = memoryStore()
  const credential = { kind: 'file', secret: systemRandom(32) } as const
  await initRepository({ store, credential, random: systemRandom, clock: systemClock })
  const open = (through: ObjectStore = store) =>
    openRepository({
      store: through,
      credential,
      random: systemRandom,
      clock: systemClock,
      host: 'bench',
      pipeline: loadPipeline(),
    })
  await using repository = await open()
  return { store, point: await syntheticPoint(repository, { size }), open }
}

/** The exporter of the command line. */
export const exporter: Exporter = nbdExporter(
  systemClock,
  new Output(process.stdout, process.stderr, { json: false, quiet: true, progress: false }),
)
