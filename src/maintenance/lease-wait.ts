/** Waits for leases, and ends those that are dead: step 5 of a collection, and all of `unlock`. */
import { LifeboatError } from '../core/errors.ts'
import type { LeaseId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { forEachLimited } from '../core/scope.ts'
import { leaseKey } from '../repository/object-keys.ts'
import type { GcOptions } from './gc-progress.ts'
import { type LeaseEnd, type LeaseState, LeaseWatch } from './lease-watch.ts'
import type { MaintenanceContext } from './maintenance.ts'

/** How each ended, by lease. */
export type LeaseEnds = Readonly<Record<string, LeaseEnd | 'alive'>>

const POLL_MAX_MS = 60_000
const POLL_MIN_MS = 250

export interface LeaseWaitOptions extends GcOptions {
  /** A lease whose counter rises is left alone, and not waited for. */
  readonly leaveAlive?: boolean
}

export async function awaitLeases(
  context: MaintenanceContext,
  run: string,
  { signal, progress, exclusive, leaveAlive }: LeaseWaitOptions,
): Promise<LeaseEnds> {
  const watch = new LeaseWatch(context, run)
  const waiting = new Set(await watch.list({ signal }))
  const ends: Record<string, LeaseEnd | 'alive'> = {}
  const total = waiting.size
  while (waiting.size > 0) {
    const states: LeaseState[] = []
    await forEachLimited(
      [...waiting],
      limits.getsInFlight,
      async (lease, each) => {
        const state = await watch.look(lease, { signal: each })
        const end = await endOf(lease, state)
        if (end) {
          ends[lease] = end
          waiting.delete(lease)
        } else if (state) states.push(state)
      },
      { signal },
    )
    if (states.length === 0) continue
    const remainingMs = states.reduce((most, state) => Math.max(most, state.remainingMs), 0)
    const soonestMs = states.reduce((least, state) => Math.min(least, state.remainingMs), POLL_MAX_MS)
    progress?.({
      phase: 'leases',
      done: total - waiting.size,
      total,
      waitsFor: states.map(({ kind, vm, host }) => `${kind}${vm ? ` of ${vm}` : ''} on ${host}`).sort(),
      remainingMs,
    })
    await context.clock.sleep(Math.max(soonestMs, POLL_MIN_MS), { signal })
  }
  return ends

  async function endOf(lease: LeaseId, state: LeaseState | undefined): Promise<LeaseEnd | 'alive' | undefined> {
    if (!state) return 'ended'
    if (state.remainingMs === 0) return await watch.end(lease)
    if (!state.isAlive) return undefined
    if (leaveAlive) return 'alive'
    if (exclusive)
      throw new LifeboatError('gc-stopped', `A ${state.kind} of ${state.vm} on ${state.host} is under way`, {
        details: { object: leaseKey(lease) },
        hint: 'Nothing was removed. --exclusive is for when nobody else works: leave it out, or wait until that has ended.',
      })
    return undefined
  }
}
