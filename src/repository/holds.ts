/** Holds: pins of a person, without expiry and with a reason (docs/repository-format.md, section 8). */
import { isIntegrityError } from '../core/errors.ts'
import { type PointId, pointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import type { ControlObjects } from './control-object.ts'
import { holdsPrefix } from './object-keys.ts'

export interface Hold {
  readonly id: string
  readonly point: PointId
  readonly who: string
  readonly reason: string
  readonly created?: Date
}

export interface HoldList {
  readonly holds: readonly Hold[]
  /** Keys of objects that are there and do not authenticate: which points they hold is not known. */
  readonly damaged: readonly string[]
}

export async function listHolds(control: ControlObjects, options: AbortOptions = {}): Promise<HoldList> {
  const keys = await Array.fromAsync(control.list('hold', options))
  const holds: Hold[] = []
  const damaged: string[] = []
  await forEachLimited(
    keys,
    limits.getsInFlight,
    async (key, signal) => {
      try {
        const hold = await control.get('hold', key, { signal })
        // Absent: it was lifted since it was listed.
        if (hold)
          holds.push({
            id: key.slice(holdsPrefix.length),
            point: pointId(hold.hex('point', 8)),
            who: hold.text('who'),
            reason: hold.text('reason'),
            ...(hold.has('created') ? { created: hold.date('created') } : {}),
          })
      } catch (error) {
        if (!isIntegrityError(error)) throw error
        damaged.push(key)
      }
    },
    options,
  )
  return { holds: holds.sort((a, b) => (a.id < b.id ? -1 : 1)), damaged: damaged.sort() }
}
