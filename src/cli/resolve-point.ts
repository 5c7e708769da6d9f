/** From the words of a person to a point of the repository. */
import type { AbortOptions } from '../core/scope.ts'
import { hostZone } from '../repository/local-time.ts'
import { type PointReference, parsePointReference, resolvePoint as resolve } from '../repository/point-ref.ts'
import type { PointSummary, Repository } from '../repository/repository.ts'

export interface ResolvedPoint {
  readonly reference: PointReference
  readonly point: PointSummary
  /** The committed points of its VM that were taken before it, the newest last. */
  readonly older: readonly PointSummary[]
}

/** Times without a zone are those of this host. All VMs are listed, so that a mistyped name meets its neighbours. */
export async function resolvePoint(
  repository: Repository,
  text: string,
  options: AbortOptions = {},
): Promise<ResolvedPoint> {
  const reference = parsePointReference(text, { zone: hostZone() })
  const points = await repository.points({ all: true, ...options })
  const point = resolve(reference, points)
  const isOlder = ({ vm, state, takenAt }: PointSummary) =>
    vm === point.vm && state === 'committed' && takenAt < point.takenAt
  return { reference, point, older: points.filter(isOlder) }
}
