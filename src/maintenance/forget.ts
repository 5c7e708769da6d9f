/** Forgetting points (docs/concurrency.md, section 5): a mark says that the next collection may remove them. It is not undone. */
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { forgottenKey } from '../repository/object-keys.ts'
import type { PointSummary } from '../repository/repository.ts'
import { recordAudit } from './audit.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { WorkOptions } from './progress.ts'
import { describeProtection, lockOn, type Protection } from './protections.ts'
import { type SurveyedPoint, surveyPoints } from './survey.ts'

export interface ForgetPlan {
  readonly remove: readonly PointSummary[]
  /** Of those that were asked for: what must stay, and why. */
  readonly keep: readonly { readonly point: PointSummary; readonly protections: readonly Protection[] }[]
  /** Marked before, or removed meanwhile. */
  readonly gone: readonly PointSummary[]
}

export interface ForgetOptions extends AbortOptions {
  /** Kept in the marks and the audit. */
  readonly why: string
  /** Also the newest point of a VM. */
  readonly lastPoint?: boolean
}

/** All or none: throws 'point-protected' with every reason before anything is written. Gives what was marked. */
export async function forgetPoints(
  context: MaintenanceContext,
  points: readonly PointSummary[],
  { why, lastPoint, signal }: ForgetOptions,
): Promise<ForgetPlan> {
  const plan = await planForget(context, points, { lastPoint, signal })
  if (plan.keep.length > 0) throw protectedPoints(plan.keep)
  await applyForget(context, plan.remove, { why, signal })
  return plan
}

export async function planForget(
  context: MaintenanceContext,
  points: readonly PointSummary[],
  { lastPoint = false, signal }: Omit<ForgetOptions, 'why'> = {},
): Promise<ForgetPlan> {
  const vms = new Set(points.map(({ vm }) => vm))
  const vm = vms.size === 1 ? points[0]?.vm : undefined
  const { points: known, claims, newest } = await surveyPoints(context, { vm, signal })
  const wanted = new Set(points.map(({ id }) => id))
  const present = known.filter(({ point, standing }) => wanted.has(point.id) && standing !== 'forgotten')
  const protectable = present.filter(isProtectable).map(({ point }) => point)
  const locks = await lockOn(context, protectable, { signal })
  const judged = present.map(({ point }) => ({
    point,
    protections: protectable.includes(point)
      ? [
          ...(newest.has(point.id) && !lastPoint ? [{ kind: 'newest' } as const] : []),
          ...claims.on(point),
          ...(locks.get(point.id) ?? []),
        ]
      : [],
  }))
  return {
    remove: judged.filter(({ protections }) => protections.length === 0).map(({ point }) => point),
    keep: judged.filter(({ protections }) => protections.length > 0),
    gone: points.filter(({ id }) => !judged.some(({ point }) => point.id === id)),
  }
}

/** Nobody can rely on a point that never was one. (One that is void while its lease is there may yet become one: 'unsettled'.) */
const isProtectable = ({ standing }: SurveyedPoint): boolean => standing !== 'void'

/** Of a plan that was just made. The audit comes first: no mark without its entry. */
export async function applyForget(
  context: MaintenanceContext,
  points: readonly PointSummary[],
  { why, progress, signal }: Omit<ForgetOptions, 'lastPoint'> & WorkOptions,
): Promise<void> {
  let done = 0
  for (let at = 0; at < points.length; at += limits.auditPointsMax) {
    const batch = points.slice(at, at + limits.auditPointsMax)
    await recordAudit(context, 'forget', { points: batch.map(({ key }) => key), why }, { signal })
    await forEachLimited(
      batch,
      limits.putsInFlight,
      async (point, each) => {
        await mark(context, point, why, { signal: each })
        progress?.('forgetting points', ++done, points.length)
      },
      { signal },
    )
  }
}

const mark = (
  { control, clock, who }: MaintenanceContext,
  { id, key }: PointSummary,
  why: string,
  options: AbortOptions,
): Promise<void> =>
  control.put('forgotten', forgottenKey(id), { who, when: clock.now().toISOString(), why, manifest: key }, options)

function protectedPoints(keep: ForgetPlan['keep']): LifeboatError {
  const told = keep
    .slice(0, NAMED)
    .map(({ point, protections }) => `${point.vm}@${point.id}: ${protections.map(describeProtection).join(', ')}`)
  if (keep.length > NAMED) told.push(`and ${keep.length - NAMED} more`)
  const kinds = new Set(keep.flatMap(({ protections }) => protections.map(({ kind }) => kind)))
  const hints = [...kinds].map(kind => WAYS_OUT[kind])
  return new LifeboatError('point-protected', `Nothing was forgotten. ${told.join('; ')}`, {
    details: { object: keep[0]?.point.key, points: keep.map(({ point }) => point.id) },
    hint: hints.join('; '),
  })
}

/** How many points a message names. */
const NAMED = 5

const WAYS_OUT: Readonly<Record<Protection['kind'], string>> = {
  held: '`lifeboat hold list` shows holds, `lifeboat hold remove` lifts one',
  pinned:
    'end the command or discard the session that reads it; of one that is gone `lifeboat unlock --pin` removes the pin',
  base: 'wait for the backup that builds upon it; one that died is ended by `lifeboat unlock`',
  'being-written': 'wait until it ends; one that died is ended by `lifeboat unlock`',
  locked: 'the store keeps it until then, whatever is asked',
  newest: '--last-point forgets even the newest point of a VM',
}
