import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ObjectStore } from '../storage/object-store.ts'

/**
 * Throws 'clock-skew' where this host's clock and the store's are far apart. Nothing is removed by either, but points are
 * told from such of the future by the store's, and what is written now is dated, and locked, by the host's: one of the two is wrong.
 */
export async function refuseClockSkew(
  { store, clock }: { readonly store: Pick<ObjectStore, 'now'>; readonly clock: Clock },
  options: AbortOptions = {},
): Promise<void> {
  const before = clock.now().getTime()
  const stores = (await store.now(options)).getTime()
  // However long the answer took, the store's clock was read between these two.
  const skewMs = Math.max(before - stores, stores - clock.now().getTime())
  if (skewMs <= limits.clockSkewMaxMs) return
  throw new LifeboatError('clock-skew', `This host's clock and the store's are ${Math.round(skewMs / 1000)} s apart`, {
    details: { host: clock.now().toISOString(), store: new Date(stores).toISOString() },
    hint: `The store says ${new Date(stores).toISOString()}. Set the clock that is wrong (NTP), then run again; nothing was done.`,
  })
}
