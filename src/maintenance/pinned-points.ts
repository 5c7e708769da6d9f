/** Which points are being read, or held by a person, as a collection sees it (docs/concurrency.md, section 6, steps 2 and 7). */
import { isIntegrityError } from '../core/errors.ts'
import { type PointId, pointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import type { MaintenanceContext } from './maintenance.ts'

type Context = Pick<MaintenanceContext, 'store' | 'control' | 'clock'>

export interface SeenPin {
  readonly key: string
  /** Undefined where the object cannot be read: it may pin any point. */
  readonly point?: PointId
  readonly kind: string
  readonly host: string
  /** Null: until it is removed. */
  readonly expiryMs: number | null
  readonly counter: number
  /** By the store's clock, for people. */
  readonly modifiedAt: Date
}

/**
 * Remembers since when each counter stands still, by this process's own clock: a pin is dead when that is its whole expiry, and
 * nobody else's clock is asked.
 */
export class PinWatch {
  readonly #context: Context
  readonly #seen = new Map<string, { counter: number; sinceMs: number }>()

  constructor(context: Context) {
    this.#context = context
  }

  /** All pins and holds that count. */
  async list(options: AbortOptions): Promise<readonly SeenPin[]> {
    const found = [
      ...(await readPins(this.#context, 'pin', options)),
      ...(await readPins(this.#context, 'hold', options)),
    ]
    return found.filter(pin => !this.#isDead(pin))
  }

  #isDead({ key, counter, expiryMs }: SeenPin): boolean {
    const nowMs = this.#context.clock.monotonicMs()
    const seen = this.#seen.get(key)
    if (seen?.counter === counter) return expiryMs !== null && nowMs - seen.sinceMs >= expiryMs
    this.#seen.set(key, { counter, sinceMs: nowMs })
    return false
  }
}

/** By the store's clock alone, which made both times: nobody refreshed it for its whole expiry. What has none never is. */
export const isStale = ({ expiryMs, modifiedAt }: SeenPin, storeNow: Date): boolean =>
  expiryMs !== null && storeNow.getTime() - modifiedAt.getTime() > expiryMs

export async function readPins(
  { store, control }: Pick<Context, 'store' | 'control'>,
  kind: 'pin' | 'hold',
  options: AbortOptions,
): Promise<SeenPin[]> {
  const pins: SeenPin[] = []
  await forEachLimited(
    store.list(`${kind}s/`, options),
    limits.getsInFlight,
    async ({ key, modifiedAt }, signal) => {
      try {
        const pin = await control.get(kind, key, { signal })
        // Absent: its reader has ended since the listing.
        if (pin)
          pins.push({
            key,
            point: pointId(pin.hex('point', 8)),
            kind: kind === 'hold' ? 'hold' : pin.text('kind'),
            host: pin.has('host') ? pin.text('host') : '',
            expiryMs: kind === 'pin' && pin.has('expiryMs') ? pin.count('expiryMs') : null,
            counter: pin.has('counter') ? pin.count('counter') : 0,
            modifiedAt,
          })
      } catch (error) {
        if (!isIntegrityError(error)) throw error
        pins.push({ key, kind, host: '', expiryMs: null, counter: 0, modifiedAt })
      }
    },
    options,
  )
  return pins
}
