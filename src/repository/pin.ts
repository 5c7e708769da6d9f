/** A reader's mark on the point that it reads (READER rules 1 and 6): GC leaves a pinned point alone. */
import { channel } from 'node:diagnostics_channel'
import type { Clock } from '../core/clock.ts'
import { isLifeboatError } from '../core/errors.ts'
import { hex, type PointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ControlObjects } from './control-object.ts'
import { pinKey } from './object-keys.ts'
import type { PinKind } from './repository.ts'

export interface PinRequest {
  /** The pin of a session that resumes (READER step 6): used if it is still there and of this point. */
  readonly resume?: string
  /** The id of a pin that is put: a session has written it down before, so that a crash leaves no pin that nobody knows. */
  readonly fresh?: string
  readonly point: PointId
  /** The manifest's key. */
  readonly manifest: string
  readonly kind: PinKind
  readonly host: string
}

export interface Pin extends AsyncDisposable {
  readonly id: string
  /** Dispose leaves it in place: a stopped session keeps its point. */
  keep(): void
}

/** Told of pins that could not be removed: { key, error }. */
const leftBehind = channel('lifeboat:pin-left-behind')

interface PinContext {
  readonly control: ControlObjects
  readonly clock: Clock
  readonly random: Random
}

/** A pin counts as alive while its counter rises within its expiry: a quarter leaves room for three failed attempts. */
const REFRESHES_PER_EXPIRY = 4

/** A session's pin stays until it is removed: the session may sleep for months. */
const expiryOf = (kind: PinKind): number | null => (kind === 'session' ? null : limits.pinExpiryMs)

/** Undefined where the store forbids writing, or is full: the caller then reads unpinned and says so. */
export async function placePin(
  { control, clock, random }: PinContext,
  { resume, fresh, ...request }: PinRequest,
  options: AbortOptions = {},
): Promise<Pin | undefined> {
  const resumed = resume !== undefined && (await isPinOf(control, resume, request.point, options))
  const id = resumed ? resume : (fresh ?? hex(random(8)))
  const key = pinKey(id)
  const created = clock.now().toISOString()
  const document = { ...request, expiryMs: expiryOf(request.kind), created }
  try {
    if (!resumed) await control.put('pin', key, { counter: 1, ...document }, options)
  } catch (error) {
    // A full store must not keep its points from those who need them.
    if (isLifeboatError(error, 'store-denied') || isLifeboatError(error, 'store-full')) return undefined
    // It may have been stored all the same, and a session's would stay for ever.
    if (document.expiryMs === null) await control.delete([key]).catch(() => {})
    throw error
  }
  let kept = resumed
  const ended = new AbortController()
  const refreshing = refresh()
  return {
    id,
    keep: () => {
      kept = true
    },
    async [Symbol.asyncDispose]() {
      ended.abort()
      await refreshing
      if (kept) return
      // A pin that stays behind expires by itself, and the reader has done its work.
      await control.delete([key]).catch(error => leftBehind.publish({ key, error }))
    },
  }

  async function refresh(): Promise<void> {
    const { expiryMs } = document
    if (expiryMs === null) return
    for (let counter = 2; ; counter++)
      try {
        await clock.sleep(expiryMs / REFRESHES_PER_EXPIRY, { signal: ended.signal })
        await control.put('pin', key, { counter, ...document }, { signal: ended.signal })
      } catch {
        // Either the reader has ended, or the next attempt comes in time.
        if (ended.signal.aborted) return
      }
  }
}

async function isPinOf(control: ControlObjects, id: string, point: PointId, options: AbortOptions): Promise<boolean> {
  const pin = await control.get('pin', pinKey(id), options)
  return pin?.text('point') === point
}
