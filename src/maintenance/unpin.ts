/**
 * Removes pins by the word of a person: of sessions whose host is gone, of readers that died, and what cannot be read. While
 * it stands such a pin keeps its point, or every point, for ever.
 */
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import { pinKey } from '../repository/object-keys.ts'
import { recordAudit } from './audit.ts'
import type { MaintenanceContext } from './maintenance.ts'
import { isStale, readPins, type SeenPin } from './pinned-points.ts'

export interface UnpinPlan {
  readonly pins: readonly SeenPin[]
  readonly storeNow: Date
}

/** All or none: throws 'usage' for a pin that is not there, 'point-protected' for one that its reader refreshes. Writes nothing. */
export async function planUnpin(
  context: MaintenanceContext,
  ids: readonly string[],
  options: AbortOptions = {},
): Promise<UnpinPlan> {
  const storeNow = await context.store.now(options)
  const known = await readPins(context, 'pin', options)
  const pins = [...new Set(ids)].map(id => {
    const pin = known.find(({ key }) => key === pinKey(id))
    if (!pin)
      throw new LifeboatError('usage', `there is no pin ${id.slice(0, 100)}`, {
        hint: '`lifeboat gc --dry-run` lists those that keep a point until somebody removes them',
      })
    if (pin.expiryMs !== null && !isStale(pin, storeNow)) throw beingRead(pin, storeNow)
    return pin
  })
  return { pins, storeNow }
}

export async function applyUnpin(
  context: MaintenanceContext,
  { pins }: UnpinPlan,
  options: AbortOptions = {},
): Promise<void> {
  const described = pins.map(({ key, point, kind, host }) => ({ key, kind, host, ...(point ? { point } : {}) }))
  await recordAudit(context, 'unlock', { pins: described }, options)
  await context.control.delete(
    pins.map(({ key }) => key),
    options,
  )
}

const beingRead = ({ key, kind, host, point, expiryMs, modifiedAt }: SeenPin, storeNow: Date): LifeboatError => {
  const remainingMs = modifiedAt.getTime() + (expiryMs ?? 0) - storeNow.getTime()
  return new LifeboatError('point-protected', `${key} is of a ${kind} on ${host} that may be reading at this moment`, {
    details: { object: key, point },
    hint: `Nothing was removed. End that ${kind}; if it has died its pin counts as dead in ${Math.ceil(remainingMs / 3_600_000)} h.`,
  })
}
