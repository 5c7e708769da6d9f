/** F: what people and timers have asked to remove, less what somebody reads or the store locks. */
import { isIntegrityError } from '../core/errors.ts'
import type { PointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { parseForgottenKey, parsePointKey } from '../repository/object-keys.ts'
import type { KeptCounts } from './gc-progress.ts'
import type { LockView } from './lock-view.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { SeenPin } from './pinned-points.ts'

/** Points by id, with the keys of their manifests. */
export type ForgottenPoints = ReadonlyMap<PointId, string>

/** Every mark is opened: a forged one must not make an honest collector delete. */
export async function readForgotten(
  { control }: Pick<MaintenanceContext, 'control'>,
  kept: KeptCounts,
  options: AbortOptions,
): Promise<ForgottenPoints> {
  const points = new Map<PointId, string>()
  await forEachLimited(
    control.list('forgotten', options),
    limits.getsInFlight,
    async (key, signal) => {
      try {
        const mark = await control.get('forgotten', key, { signal })
        const point = parseForgottenKey(key)
        const manifest = mark?.text('manifest')
        if (point && manifest && parsePointKey(manifest)?.point === point) points.set(point, manifest)
        else if (mark) kept.add('points with an unreadable mark')
      } catch (error) {
        if (!isIntegrityError(error)) throw error
        kept.add('points with an unreadable mark')
      }
    },
    options,
  )
  // In an order that does not depend on which answer came first.
  return new Map([...points].sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** One that cannot be read may pin any of them. */
export function withoutPinned(points: ForgottenPoints, pins: readonly SeenPin[], kept: KeptCounts): ForgottenPoints {
  const pinned = new Set(pins.map(({ point }) => point))
  if (pinned.has(undefined)) {
    kept.add('points that an unreadable pin may pin', points.size)
    return new Map()
  }
  const free = [...points].filter(([point]) => !pinned.has(point))
  kept.add('points that are pinned or held', points.size - free.length)
  return new Map(free)
}

/** A locked manifest could not be deleted; then its packs must stay as well, so it is a root like any other. */
export async function withoutLocked(
  points: ForgottenPoints,
  locks: LockView | undefined,
  kept: KeptCounts,
  options: AbortOptions,
): Promise<ForgottenPoints> {
  if (!locks) return points
  const locked = new Set<PointId>()
  await forEachLimited(
    points,
    limits.getsInFlight,
    async ([point, manifest], signal) => {
      if (await locks.lockedUntil(manifest, { signal })) locked.add(point)
    },
    options,
  )
  kept.add('points that are locked', locked.size)
  return new Map([...points].filter(([point]) => !locked.has(point)))
}

/** A quarter of the record at most is for points: whoever forgets a hundred thousand of them at once collects twice. */
export function withinRecord(points: ForgottenPoints, kept: KeptCounts): ForgottenPoints {
  let room = limits.runRecordMax / 4
  const fitting = [...points].filter(([, manifest]) => {
    room -= manifest.length + 3
    return room >= 0
  })
  kept.add('points that wait for the next run', points.size - fitting.length)
  return new Map(fitting)
}
