/** One instant: frozen by the agent if there is one, paused for the milliseconds of the switch, running and thawed again whatever happens. */
import type { Clock } from '../../core/clock.ts'
import { LifeboatError, messageOf } from '../../core/errors.ts'
import { limits } from '../../core/limits.ts'
import type { AbortOptions } from '../../core/scope.ts'
import type { Capture } from '../hypervisor.ts'
import { withDeadline } from './deadline.ts'
import type { GuestAgent } from './guest-agent.ts'
import { asObject, isTrue } from './json.ts'
import { HOLD_MARKER, mark, unmark } from './markers.ts'
import type { QmpClient } from './qmp.ts'

export interface Guest {
  readonly qmp: QmpClient
  readonly agent?: GuestAgent
  readonly clock: Clock
  readonly log: (message: string) => void
}

type Consistency = Capture['consistency']

/** `switchOver` runs while no guest instruction does. When it fails the guest runs again before this rejects. */
export async function atOneInstant(
  guest: Guest,
  switchOver: (options: AbortOptions) => Promise<void>,
  options: AbortOptions = {},
): Promise<Consistency> {
  const { qmp } = guest
  if (!(await isRunning(qmp))) {
    // Paused by its owner, or not started yet: nothing to hold, and nothing to let go afterwards.
    await switchOver(options)
    return 'crash'
  }
  await mark(qmp, HOLD_MARKER)
  const consistency = await whileFrozen(guest, options, () => whilePaused(guest, switchOver, options))
  await unmark(qmp, HOLD_MARKER)
  return consistency
}

async function whilePaused(
  { qmp, clock }: Guest,
  switchOver: (options: AbortOptions) => Promise<void>,
  options: AbortOptions,
): Promise<void> {
  try {
    // QEMU works commands off in order: should we stop waiting for this one, the `cont` below still comes after it.
    await qmp.execute('stop', undefined, options)
    await withDeadline(clock, limits.frozenMaxMs, tooLong, signal => switchOver({ signal }), options)
  } finally {
    await qmp.execute('cont')
  }
}

async function whileFrozen(guest: Guest, options: AbortOptions, work: () => Promise<void>): Promise<Consistency> {
  const { agent } = guest
  if (!agent) {
    await work()
    return 'crash'
  }
  let consistency: Consistency = 'crash'
  let mine = false
  try {
    const before = await agent.status(options)
    // Agents of long ago do not know the question; theirs are not Windows.
    const windows = await agent.isWindows(options).catch(() => false)
    if (before === 'frozen') guest.log('the guest was frozen already, by somebody else: left to them')
    else {
      mine = true
      await agent.freeze(options)
    }
    consistency = windows ? 'application' : 'filesystem'
  } catch (error) {
    if (options.signal?.aborted) {
      if (mine) await agent.thaw()
      throw error
    }
    guest.log(`the guest could not be frozen, so this point is only crash-consistent: ${messageOf(error)}`)
  }
  try {
    await work()
  } finally {
    if (mine) await agent.thaw()
  }
  return consistency
}

const tooLong = () =>
  new LifeboatError('qmp-failed', `the switch took longer than ${limits.frozenMaxMs} ms; the guest was let go`, {
    hint: "The host's disks are overloaded. Try again later.",
  })

export async function isRunning(qmp: QmpClient): Promise<boolean> {
  return isTrue(asObject(await qmp.execute('query-status')), 'running')
}
