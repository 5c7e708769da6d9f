/** Which points a policy keeps: the last ones, and the newest of each of the last hours, days, weeks, months and years. Pure. */
import { type Period, periodNames } from './periods.ts'

export interface RetentionPolicy {
  readonly keepLast?: number
  readonly keepHourly?: number
  readonly keepDaily?: number
  readonly keepWeekly?: number
  readonly keepMonthly?: number
  readonly keepYearly?: number
  /** IANA name. A stored policy always has one, so that every host applies the same. */
  readonly timeZone?: string
}

export type KeepCount = Exclude<keyof RetentionPolicy, 'timeZone'>

const PERIODS: readonly (readonly [KeepCount, Period])[] = [
  ['keepHourly', 'hourly'],
  ['keepDaily', 'daily'],
  ['keepWeekly', 'weekly'],
  ['keepMonthly', 'monthly'],
  ['keepYearly', 'yearly'],
]

export const KEEP_COUNTS: readonly KeepCount[] = ['keepLast', ...PERIODS.map(([count]) => count)]

/**
 * The kept ones with their reasons: 'last 3', 'daily 2026-11-21'. `points` are those of one VM, ascending in time. Only periods
 * that have a point count, so a VM that was off for a month keeps what it has. No clock is asked.
 */
export function retained<T extends { readonly takenAt: Date }>(
  points: readonly T[],
  policy: RetentionPolicy,
  zone: string,
): ReadonlyMap<T, readonly string[]> {
  const kept = new Map<T, string[]>()
  const keep = (point: T, reason: string) => kept.set(point, [...(kept.get(point) ?? []), reason])
  const newestFirst = points.toReversed()
  for (const [index, point] of newestFirst.slice(0, policy.keepLast ?? 0).entries()) keep(point, `last ${index + 1}`)
  const nameOf = periodNames(policy.timeZone ?? zone)
  for (const [count, period] of PERIODS) {
    const wanted = policy[count] ?? 0
    const seen = new Set<string>()
    for (const point of newestFirst) {
      if (seen.size >= wanted) break
      const name = nameOf(period, point.takenAt)
      // A set, not a look at the neighbour: where clocks went back past midnight a day comes twice.
      if (!seen.has(name)) keep(point, `${period} ${name}`)
      seen.add(name)
    }
  }
  return kept
}

/** False where the policy would remove whatever there is. */
export const keepsAnything = (policy: RetentionPolicy): boolean => KEEP_COUNTS.some(count => (policy[count] ?? 0) > 0)

/** 'keep-daily 7, keep-weekly 4', for people. */
export const describePolicy = (policy: RetentionPolicy): string =>
  [
    ...KEEP_COUNTS.filter(count => policy[count] !== undefined).map(
      count => `${count.replace(/[A-Z]/, letter => `-${letter.toLowerCase()}`)} ${policy[count]}`,
    ),
    ...(policy.timeZone === undefined ? [] : [`time zone ${policy.timeZone}`]),
  ].join(', ')
