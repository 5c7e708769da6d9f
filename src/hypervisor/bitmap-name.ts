/**
 * The name of a dirty bitmap is its base: `lifeboat-<first 8 of the repository id>-<point id>` counts what was written since
 * that point's instant. Nothing else needs to be remembered, on no host, to know what an increment builds upon.
 */
import type { PointId, RepositoryId } from '../core/ids.ts'

const NAME = /^lifeboat-([0-9a-f]{8})-([0-9a-f]{16})$/

export const bitmapName = (repository: RepositoryId, point: PointId): string =>
  `lifeboat-${repository.slice(0, 8)}-${point}`

/** The point that a bitmap of this repository names; undefined for those of other repositories and programs. */
export function pointOfBitmap(name: string, repository: RepositoryId): PointId | undefined {
  const match = NAME.exec(name)
  return match?.[1] === repository.slice(0, 8) ? (match[2] as PointId) : undefined
}
