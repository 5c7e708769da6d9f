/** WRITER steps 6 and 8 (docs/concurrency.md), for whoever makes a point. */
import type { Clock } from '../core/clock.ts'
import { isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'
import type { LeaseId, PointId } from '../core/ids.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { type ControlObjects, getBounded } from './control-object.ts'
import { fenceKey, forgottenKey, leaseKey } from './object-keys.ts'

/** Step 8 is a few small requests; whoever gives up does not wait for ever for a store that is gone. */
const GIVE_UP_MS = 60_000

/** Without an answer the same bytes go again, and then the store is asked what it has. Throws unless the manifest is there. */
export async function putManifest(
  store: ObjectStore,
  key: string,
  bytes: Uint8Array,
  options: AbortOptions,
): Promise<void> {
  let failure: unknown
  for (let attempt = 0; attempt < 2; attempt++)
    try {
      await store.put(key, [bytes], options)
      return
    } catch (error) {
      options.signal?.throwIfAborted()
      failure = error
      const stored = await getBounded(store, key, bytes.length, options).catch(() => undefined)
      if (stored && Buffer.compare(stored, bytes) === 0) return
    }
  throw failure
}

export interface GivenUp {
  readonly control: ControlObjects
  readonly clock: Clock
  readonly host: string
  readonly lease: LeaseId
  readonly point: PointId
  /** The manifest's key. */
  readonly manifest: string
  /** From the first attempt on, the store may hold it, whatever it answered. */
  readonly isManifestSent: boolean
}

/** To be called when nothing of the point is under way any more, so that nothing of it is written after this. */
export async function giveUpPoint(
  { control, clock, host, lease, point, manifest, isManifestSent }: GivenUp,
  reason: unknown,
): Promise<void> {
  const bounded = new AbortController()
  const { signal } = bounded
  const timer = clock.sleep(GIVE_UP_MS, { signal }).then(
    () => bounded.abort(new LifeboatError('store-unreachable', 'The store did not answer in time')),
    () => {},
  )
  try {
    const mark = { who: host, when: clock.now().toISOString() }
    // Without a manifest under way there is nothing that a fence could void, and it would stay for ever.
    if (isManifestSent) {
      await control.put('fence', fenceKey(lease, 'self'), { ...mark, manifest }, { signal })
      const why = `never committed: ${messageOf(reason)}`.slice(0, 1000)
      await control.put('forgotten', forgottenKey(point), { ...mark, why, manifest }, { signal })
    }
    await control.delete([leaseKey(lease)], { signal })
  } catch (error) {
    // The first failure is the one to be told. What could not be marked is void when GC has fenced the lease, which stays.
    if (!isLifeboatError(error)) throw error
  } finally {
    bounded.abort()
    await timer
  }
}
