/** Which hour, day, week, month and year an instant falls into, by the clocks of a time zone. */
import { localClock } from '../repository/local-time.ts'

export type Period = 'hourly' | 'daily' | 'weekly' | 'monthly' | 'yearly'

const DAY_MS = 24 * 3_600_000

/**
 * Names of periods: two instants are in the same period when its names are equal. An hour names its offset from UTC, so that
 * the hour that a change of clocks repeats is two hours. Weeks and their years are those of ISO 8601.
 */
export function periodNames(zone: string): (period: Period, instant: Date) => string {
  const offsetAt = localClock(zone)
  return (period, instant) => {
    const offsetMs = offsetAt(instant.getTime())
    // Its UTC fields are the local ones.
    const local = new Date(instant.getTime() + offsetMs)
    const text = local.toISOString()
    switch (period) {
      case 'hourly':
        return `${text.slice(0, 13)}${offsetName(offsetMs)}`
      case 'daily':
        return text.slice(0, 10)
      case 'weekly':
        return isoWeek(local)
      case 'monthly':
        return text.slice(0, 7)
      case 'yearly':
        return text.slice(0, 4)
    }
  }
}

/** '2026-W47'. A week belongs to the year in which its Thursday lies. */
function isoWeek(local: Date): string {
  const daysAfterMonday = (local.getUTCDay() + 6) % 7
  const thursday = new Date(local.getTime() + (3 - daysAfterMonday) * DAY_MS)
  const year = thursday.getUTCFullYear()
  const week = Math.floor((thursday.getTime() - Date.UTC(year, 0, 1)) / (7 * DAY_MS)) + 1
  return `${year}-W${String(week).padStart(2, '0')}`
}

/** '+02:00'; seconds, which zones had until the last century, where there are any. */
function offsetName(offsetMs: number): string {
  const clock = new Date(Math.abs(offsetMs)).toISOString().slice(11, 19).replace(/:00$/, '')
  return `${offsetMs < 0 ? '-' : '+'}${clock}`
}

export function isTimeZone(zone: string): boolean {
  try {
    localClock(zone)
    return true
  } catch {
    return false
  }
}
