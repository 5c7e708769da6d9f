import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ObjectStore } from '../storage/object-store.ts'

interface Clocks {
  readonly store: Pick<ObjectStore, 'now'>
  readonly clock: Clock
}

/** How far this host's clock and the store's are apart at least: however long the answer took, the store's was read meanwhile. */
export async function compareClocks(
  { store, clock }: Clocks,
  options: AbortOptions = {},
): Promise<{ readonly skewMs: number; readonly storeNow: Date; readonly isFar: boolean }> {
  const before = clock.now().getTime()
  const storeNow = await store.now(options)
  const skewMs = Math.max(0, before - storeNow.getTime(), storeNow.getTime() - clock.now().getTime())
  return { skewMs, storeNow, isFar: skewMs > limits.clockSkewMaxMs }
}

/**
 * Throws 'clock-skew' where this host's clock and the store's are far apart. Nothing is removed by either, but points are
 * told from such of the future by the store's, and what is written now is dated, and locked, by the host's: one of the two is wrong.
 */
export async function refuseClockSkew(clocks: Clocks, options: AbortOptions = {}): Promise<void> {
  const { skewMs, storeNow, isFar } = await compareClocks(clocks, options)
  if (!isFar) return
  throw new LifeboatError('clock-skew', `This host's clock and the store's are ${Math.round(skewMs / 1000)} s apart`, {
    details: { host: clocks.clock.now().toISOString(), store: storeNow.toISOString() },
    hint: `The store says ${storeNow.toISOString()}. Set the clock that is wrong (NTP), then run again; nothing was done.`,
  })
}
