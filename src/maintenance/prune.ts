/** Retention applied: which points of which VM stay, each with its reasons, and which are forgotten. */
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import { refuseClockSkew } from '../repository/clock-skew.ts'
import type { PointSummary } from '../repository/repository.ts'
import { applyForget } from './forget.ts'
import type { MaintenanceContext } from './maintenance.ts'
import { checkPolicy, listPolicies, policyOf } from './policy.ts'
import type { WorkOptions } from './progress.ts'
import { describeProtection, lockOn } from './protections.ts'
import { describePolicy, keepsAnything, type RetentionPolicy, retained } from './retention.ts'
import { type Survey, type SurveyedPoint, surveyPoints } from './survey.ts'

export interface PruneRequest extends WorkOptions {
  /** Absent: all. */
  readonly vm?: string
  /** Instead of the stored policies. */
  readonly policy?: RetentionPolicy
  /** IANA name, for a given policy that names none. Stored ones name theirs. */
  readonly zone?: string
  /** A policy that keeps nothing is meant. */
  readonly removeEverything?: boolean
  /** And not even the newest point stays for being the newest. */
  readonly lastPoint?: boolean
}

export interface PrunePlan {
  readonly keep: readonly KeptPoint[]
  readonly remove: readonly { readonly point: PointSummary; readonly why: string }[]
  /** Manifests that do not authenticate: such points stay and count for nothing. */
  readonly damaged: readonly string[]
  /** VMs of which nothing is removed because nobody said what to keep. */
  readonly withoutPolicy: readonly string[]
}

export interface KeptPoint {
  readonly point: PointSummary
  readonly reasons: readonly string[]
  /** The policy lets it go and nobody holds it; only its lock keeps it. Who renews locks leaves it out, or it would stay for ever. */
  readonly isOutlived: boolean
}

/** Throws 'usage' where nobody said what to keep, or where nothing would be kept; 'clock-skew'; 'no-such-vm'. */
export async function planPrune(context: MaintenanceContext, request: PruneRequest): Promise<PrunePlan> {
  const { vm, policy: given, progress, signal } = request
  if (given) checkPolicy(given)
  if (given) refuseKeepingNothing(given, request)
  await refuseClockSkew(context, { signal })
  const policies = given ? [] : await listPolicies(context, { vm, signal })
  const survey = await surveyPoints(context, { vm, progress, signal })
  const byVm = Map.groupBy(survey.points, ({ point }) => point.vm)
  if (vm !== undefined && byVm.size === 0) throw noSuchVm(vm)
  const judged: Judged[] = []
  const withoutPolicy: string[] = []
  for (const [name, points] of byVm) {
    const policy = given ?? policyOf(policies, name)?.policy
    if (policy) refuseKeepingNothing(policy, request)
    else withoutPolicy.push(name)
    judged.push(...judge(points, policy, survey, request))
  }
  if (byVm.size > 0 && withoutPolicy.length === byVm.size) throw noPolicy(vm)
  const damaged = survey.points.filter(({ standing }) => standing === 'damaged').map(({ point }) => point.key)
  return { ...(await lockedAside(context, judged, { signal })), damaged, withoutPolicy }
}

export async function applyPrune(
  context: MaintenanceContext,
  { remove }: Pick<PrunePlan, 'remove'>,
  options: WorkOptions = {},
): Promise<void> {
  for (const [why, group] of Map.groupBy(remove, entry => entry.why))
    await applyForget(
      context,
      group.map(({ point }) => point),
      { why: `prune: ${why}`, ...options },
    )
}

interface Judged {
  readonly point: PointSummary
  /** None: it may go. */
  readonly reasons: readonly string[]
  readonly why: string
}

/** Points of one VM. Only sound ones stand for a period: a damaged or wrongly dated one must not push out a good one. */
function judge(
  points: readonly SurveyedPoint[],
  policy: RetentionPolicy | undefined,
  survey: Survey,
  request: PruneRequest,
): readonly Judged[] {
  const sound = points.filter(({ standing }) => standing === 'sound')
  const byPolicy = reasonsOf(sound, policy, request.zone)
  // A suspect point keeps its place, which may heal, and so does the one that would have it if the suspect one were not there.
  const unharmed = sound.filter(({ isSuspect }) => !isSuspect)
  const besides = unharmed.length === sound.length ? byPolicy : reasonsOf(unharmed, policy, request.zone)
  const why = policy ? `outside ${describePolicy(policy)}` : ''
  return points.flatMap(({ point, standing }) => {
    // Void ones may still be adopted; a collection marks them in the end.
    if (standing === 'forgotten' || standing === 'void') return []
    const reasons = [
      ...(policy
        ? (byPolicy.get(point) ?? besides.get(point)?.map(reason => `${reason} (not suspect)`) ?? [])
        : ['no policy']),
      ...(survey.newest.has(point.id) && !request.lastPoint ? ['newest'] : []),
      ...survey.claims.on(point).map(describeProtection),
      ...(standing === 'sound' ? [] : [UNSOUND[standing]]),
    ]
    return [{ point, reasons, why }]
  })
}

const reasonsOf = (points: readonly SurveyedPoint[], policy: RetentionPolicy | undefined, zone = 'UTC') =>
  retained(
    points.map(({ point }) => point),
    policy ?? {},
    zone,
  )

const UNSOUND = { unsettled: 'just written', damaged: 'damaged', future: 'dated in the future' } as const

async function lockedAside(
  context: MaintenanceContext,
  judged: readonly Judged[],
  options: AbortOptions,
): Promise<Pick<PrunePlan, 'keep' | 'remove'>> {
  const candidates = judged.filter(({ reasons }) => reasons.length === 0).map(({ point }) => point)
  const locks = await lockOn(context, candidates, options)
  const keep: KeptPoint[] = []
  const remove: { point: PointSummary; why: string }[] = []
  for (const { point, reasons, why } of judged) {
    const locked = (locks.get(point.id) ?? []).map(describeProtection)
    if (reasons.length > 0) keep.push({ point, reasons, isOutlived: false })
    else if (locked.length > 0) keep.push({ point, reasons: locked, isOutlived: true })
    else remove.push({ point, why })
  }
  return { keep, remove }
}

function refuseKeepingNothing(policy: RetentionPolicy, { vm, removeEverything = false }: PruneRequest): void {
  if (keepsAnything(policy)) return
  if (!removeEverything)
    throw new LifeboatError('usage', 'this keeps nothing: all points would be forgotten', {
      hint: 'say what to keep, for example --keep-daily 7; if you mean it, name the VM and add --remove-everything',
    })
  if (vm === undefined)
    throw new LifeboatError('usage', '--remove-everything is for one VM', {
      hint: 'name it with --vm VM',
    })
}

const noPolicy = (vm: string | undefined): LifeboatError =>
  new LifeboatError('usage', `nobody has said what to keep${vm === undefined ? '' : ` of ${vm}`}`, {
    hint: 'say it once with `lifeboat policy set --keep-daily 7 --keep-weekly 4 --keep-monthly 12`, or now with the same flags of prune (see what they do with --dry-run)',
  })

const noSuchVm = (vm: string): LifeboatError =>
  new LifeboatError('no-such-vm', `there is no point of a VM '${vm.slice(0, 255)}'`, {
    details: { vm },
    hint: '`lifeboat points` lists those of all VMs',
  })
