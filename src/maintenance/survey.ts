/** The points of a VM, or of all, with all that decides what may become of them. */
import { isIntegrityError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { forEachLimited } from '../core/scope.ts'
import { listDamage } from '../repository/damage-marks.ts'
import { suspectPoints } from '../repository/mark-damaged.ts'
import { pointsPrefix, vmPointsPrefix } from '../repository/object-keys.ts'
import { listPoints } from '../repository/points.ts'
import type { PointSummary } from '../repository/repository.ts'
import { readStoredManifest } from '../repository/stored-manifest.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { WorkOptions } from './progress.ts'
import { type Claims, readClaims } from './protections.ts'

/** Only a 'sound' point counts: as the newest of its VM, or as the one that stands for a day. */
export type Standing =
  | 'sound'
  /** Its writer, or a collector, may still make it void. */
  | 'unsettled'
  /** Its manifest does not authenticate. */
  | 'damaged'
  /** Dated after the store's clock: it would push out what is really newer than others. */
  | 'future'
  | 'void'
  | 'forgotten'

export interface SurveyedPoint {
  readonly point: PointSummary
  readonly standing: Standing
  /** `verify` found damage in what it reaches: most of it restores, and a later backup may heal it. */
  readonly isSuspect: boolean
  /** Of its manifest; 0 where that was not read. */
  readonly sequence: number
}

export interface Survey {
  /** Ascending by VM name and time. */
  readonly points: readonly SurveyedPoint[]
  readonly claims: Claims
  /**
   * Ids: of each VM the newest by its time, the last that was made, which is another one where a clock was wrong, and the newest
   * that is not suspect.
   */
  readonly newest: ReadonlySet<string>
}

/**
 * The order is the rule: points, then leases, then marks and fences. A point that is in the first listing and named by no
 * lease after it has an end to its story, and the fence that this end may have left is seen by the third: it cannot become
 * void any more, so others may go on its account.
 */
export async function surveyPoints(
  context: MaintenanceContext,
  { vm, progress, signal }: { vm?: string } & WorkOptions = {},
): Promise<Survey> {
  const { store, control, keyring } = context
  const early = new Set<string>()
  for await (const { key } of store.list(vm === undefined ? pointsPrefix : vmPointsPrefix(vm), { signal }))
    early.add(key)
  const claims = await readClaims(context, { signal })
  const listed = await listPoints({ store, control, keys: keyring.repository }, { vm, all: true, signal })
  const suspects = suspectPoints(await listDamage(control, { signal }))
  const now = await store.now({ signal })
  const sequences = await readSequences(context, listed, { progress, signal })
  const points = listed.flatMap(point => {
    const sequence = sequences.get(point.key)
    if (sequence === 'gone') return []
    const isSettled = early.has(point.key) && !claims.isBeingWritten(point)
    const standing = standingOf(point, sequence, isSettled, now)
    return [{ point, standing, isSuspect: suspects.has(point.id), sequence: Number(sequence) || 0 }]
  })
  return { points, claims, newest: newestOf(points) }
}

function standingOf(
  { state, takenAt }: PointSummary,
  sequence: number | 'damaged' | undefined,
  isSettled: boolean,
  now: Date,
): Standing {
  if (state === 'forgotten') return 'forgotten'
  if (!isSettled) return 'unsettled'
  if (state === 'void') return 'void'
  if (sequence === 'damaged') return 'damaged'
  return takenAt.getTime() > now.getTime() + limits.clockSkewMaxMs ? 'future' : 'sound'
}

async function readSequences(
  { store, keyring }: MaintenanceContext,
  points: readonly PointSummary[],
  { progress, signal }: WorkOptions,
): Promise<ReadonlyMap<string, number | 'damaged' | 'gone'>> {
  const found = new Map<string, number | 'damaged' | 'gone'>()
  const committed = points.filter(({ state }) => state === 'committed')
  await forEachLimited(
    committed,
    limits.getsInFlight,
    async ({ key }, each) => {
      try {
        const stored = await readStoredManifest({ store, keys: keyring.repository }, key, { signal: each })
        found.set(key, stored?.manifest.sequence ?? 'gone')
      } catch (error) {
        if (!isIntegrityError(error)) throw error
        found.set(key, 'damaged')
      }
      progress?.('reading points', found.size, committed.length)
    },
    { signal },
  )
  return found
}

function newestOf(points: readonly SurveyedPoint[]): ReadonlySet<string> {
  const newest = new Set<string>()
  for (const ofVm of Map.groupBy(points, ({ point }) => point.vm).values()) {
    const made = ofVm.filter(({ standing }) => standing === 'sound' || standing === 'future')
    const byTime = made.findLast(({ standing }) => standing === 'sound') ?? made.at(-1)
    const last = made.reduce<SurveyedPoint | undefined>(
      (highest, next) => (highest && highest.sequence > next.sequence ? highest : next),
      undefined,
    )
    const unharmed = made.findLast(({ standing, isSuspect }) => standing === 'sound' && !isSuspect)
    for (const chosen of [byTime, last, unharmed]) if (chosen) newest.add(chosen.point.id)
  }
  return newest
}
