/** More points than a test could back up: the manifest of one, sealed again under other names and times. */
import { hex, pointId } from '../../src/core/ids.ts'
import { forEachLimited } from '../../src/core/scope.ts'
import { pointKey } from '../../src/repository/object-keys.ts'
import type { PointSummary } from '../../src/repository/repository.ts'
import { sealManifest } from '../../src/repository/stored-manifest.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import type { RepositoryFixture } from './repository-fixture.ts'

export interface ManyPoints {
  readonly like: PointSummary
  readonly count: number
  readonly vmOf: (n: number) => string
  readonly timeOf: (n: number) => Date
}

export async function manyPoints(
  { repository, store, random }: Pick<RepositoryFixture, 'repository' | 'random'> & { readonly store: ObjectStore },
  { like, count, vmOf, timeOf }: ManyPoints,
): Promise<void> {
  const manifest = await repository.manifest(like)
  const keys = repository.reading.keyring.repository
  const numbers = Array.from({ length: count }, (_, n) => n)
  await forEachLimited(numbers, 16, async n => {
    const [vm, takenAt, point] = [vmOf(n), timeOf(n), pointId(hex(random(8)))]
    const key = pointKey(vm, takenAt, point)
    await store.put(key, [sealManifest({ store, keys, random }, key, { ...manifest, vm, takenAt, point })])
  })
}
