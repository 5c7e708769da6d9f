/** Each manifest names the digest of the one before it: a point that was exchanged by somebody who holds the keys shows. */
import { isIntegrityError } from '../core/errors.ts'
import type { PointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import type { ReadContext } from './recovery-point.ts'
import type { PointSummary } from './repository.ts'
import { readStoredManifest, type StoredManifest } from './stored-manifest.ts'
import { ProblemLog, type VerifyProblem } from './verify-problems.ts'

/** What a host may remember of a point, to notice when it is exchanged or gone. */
export interface ChainLink {
  readonly point: PointId
  readonly vm: string
  readonly sequence: number
  readonly digest: string
}

export interface VerifiedChain {
  readonly links: readonly ChainLink[]
  readonly problems: readonly VerifyProblem[]
}

/** `listed`: all points of the VMs, whatever their state; what does not read was reported by others. */
export async function verifyChain(
  { store, keyring }: Pick<ReadContext, 'store' | 'keyring'>,
  points: readonly PointSummary[],
  listed: readonly PointSummary[],
  options: AbortOptions = {},
): Promise<VerifiedChain> {
  const problems = new ProblemLog()
  const byPoint = new Map(listed.map(point => [point.id, point]))
  const known = new Map<PointId, Omit<StoredManifest, 'manifest'> & Described>()
  const read = async (summary: PointSummary | undefined, signal: AbortSignal) => {
    if (!summary || known.has(summary.id)) return
    try {
      const stored = await readStoredManifest({ store, keys: keyring.repository }, summary.key, { signal })
      if (!stored) return
      const { key, digest, manifest } = stored
      known.set(summary.id, { key, digest, vm: manifest.vm, sequence: manifest.sequence, previous: manifest.previous })
    } catch (error) {
      if (!isIntegrityError(error)) throw error
    }
  }
  await forEachLimited(points, limits.getsInFlight, read, options)
  const before = points.flatMap(({ id }) => known.get(id)?.previous?.point ?? []).map(id => byPoint.get(id))
  await forEachLimited(before, limits.getsInFlight, read, options)
  for (const { id } of points) {
    const link = known.get(id)
    const previous = link?.previous && known.get(link.previous.point)
    if (!link?.previous || !previous) continue
    const fault =
      previous.digest !== link.previous.digest
        ? 'is not the manifest that its successor was written after'
        : previous.sequence >= link.sequence && 'does not come before its successor'
    if (fault) problems.problem(previous.key, 'corrupt', `${previous.key} ${fault}`).points.add(link.previous.point)
  }
  const links = points.flatMap(({ id: point }) => {
    const link = known.get(point)
    return link ? [{ point, vm: link.vm, sequence: link.sequence, digest: link.digest }] : []
  })
  return { links, problems: problems.list() }
}

interface Described {
  readonly vm: string
  readonly sequence: number
  readonly previous?: { readonly point: PointId; readonly digest: string }
}
