/** What verify looks at beside trees and chunks: all other objects, the chain of manifests, and what this host remembers. */
import { coveredObjects, coveredProblem } from '../maintenance/covered-objects.ts'
import { parsePointKey } from '../repository/object-keys.ts'
import type { PointSummary } from '../repository/repository.ts'
import { verifyChain } from '../repository/verify-chain.ts'
import { type VerifyObjectsRequest, verifyObjects } from '../repository/verify-objects.ts'
import type { VerifyProblem } from '../repository/verify-problems.ts'
import type { OpenedRepository } from './invocation.ts'

export interface Beyond {
  readonly checked: number
  readonly bytes: number
  readonly problems: readonly VerifyProblem[]
  /** Keys that no object of a repository has. */
  readonly unknown: readonly string[]
}

/** `listed`: all points, whatever their state; `points`: those that were verified. Objects beside them only where that is all. */
export async function verifyBeyond(
  { repository, seen }: Pick<OpenedRepository, 'repository' | 'seen'>,
  { points, listed, isAll }: { points: readonly PointSummary[]; listed: readonly PointSummary[]; isAll: boolean },
  { progress, ...options }: Pick<VerifyObjectsRequest, 'progress' | 'signal'>,
): Promise<Beyond> {
  const chain = await verifyChain(repository.reading, points, listed, options)
  const keyOf = new Map(listed.map(({ id, key }) => [id, key]))
  const exchanged = await seen.exchanged(chain.links.map(link => ({ ...link, key: keyOf.get(link.point) ?? '' })))
  const objects = isAll ? await verifyObjects(repository.reading, { points, progress, ...options }) : undefined
  const covered: VerifyProblem[] = []
  for await (const object of coveredObjects(repository.reading, options)) covered.push(coveredProblem(object))
  return {
    checked: objects?.checked ?? 0,
    bytes: objects?.bytes ?? 0,
    problems: [
      ...(objects?.problems ?? []),
      ...chain.problems,
      ...covered,
      ...exchanged.map(key => rolledBack(key, 'is not the manifest that this host has seen under this name')),
      ...seen.missing.map(key => rolledBack(key, 'was seen by this host, and is gone without having been forgotten')),
    ],
    unknown: objects?.unknown ?? [],
  }
}

function rolledBack(object: string, what: string): VerifyProblem {
  const point = parsePointKey(object)?.point
  return { object, kind: 'rolled-back', message: `${object} ${what}`, points: point ? [point] : [], disks: [] }
}
