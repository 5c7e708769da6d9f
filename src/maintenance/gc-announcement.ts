/**
 * What a collection says before it removes anything, `gc/<run>`: from then on no new lease reuses what it names. Steps 4, 6 and 13
 * of the run (docs/concurrency.md, section 6).
 */
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { hex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { gcKey } from '../repository/object-keys.ts'
import type { GcPlan } from './gc-plan.ts'
import type { GcOptions } from './gc-progress.ts'
import type { MaintenanceContext } from './maintenance.ts'
import { removeObjects } from './removal.ts'

/** The wait is told in so many parts. */
const GRACE_PARTS = 100
/** Withdrawing an announcement is one request; whoever stops does not wait for ever for a store that is gone. */
const WITHDRAW_MS = 30_000

export class GcAnnouncement {
  readonly run: string
  readonly key: string
  readonly #context: MaintenanceContext
  readonly #options: GcOptions
  #announcedMs = 0

  constructor(context: MaintenanceContext, options: GcOptions) {
    this.run = hex(context.random(8))
    this.key = gcKey(this.run)
    this.#context = context
    this.#options = options
  }

  /** Step 4. */
  async make({ forget, condemned, hints, compact }: GcPlan): Promise<void> {
    const { control, clock, who } = this.#context
    const record = {
      forget: [...forget.values()],
      condemned: [...condemned.flatMap(({ keys }) => keys), ...hints.map(hint => hint.key)],
      dead: Object.fromEntries(compact.map(({ pack, dead }) => [pack, dead])),
      sources: Object.fromEntries(compact.map(({ pack, sources }) => [pack, sources])),
      when: clock.now().toISOString(),
      who,
    }
    await this.#probe()
    try {
      await control.put('gc', this.key, record, this.#signal)
    } catch (error) {
      await this.withdraw()
      throw error
    }
    this.#announcedMs = clock.monotonicMs()
  }

  /** Step 6, on this process's own clock: readers without the right to pin go on for so long. */
  async outwaitGrace(): Promise<void> {
    const { clock } = this.#context
    const { graceMs = limits.gcGraceMs, progress, signal } = this.#options
    const endMs = this.#announcedMs + graceMs
    for (;;) {
      const remainingMs = endMs - clock.monotonicMs()
      if (remainingMs <= 0) return
      const waitsFor = ['readers without the right to pin']
      progress?.({ phase: 'grace', done: graceMs - remainingMs, total: graceMs, waitsFor, remainingMs })
      await clock.sleep(Math.min(remainingMs, Math.max(1000, graceMs / GRACE_PARTS)), { signal })
    }
  }

  /** Whoever took this run for dead and removed its record has let others reuse what it names. */
  async check(): Promise<void> {
    if ((await this.#context.store.head(this.key, this.#signal)) !== undefined) return
    throw new LifeboatError('gc-stopped', 'Somebody removed the record of this collection while it waited', {
      details: { object: this.key },
      hint: 'Nothing was removed. Do not say --exclusive while another collection runs. Collect again.',
    })
  }

  async withdraw(): Promise<void> {
    const { clock, control } = this.#context
    const bounded = new AbortController()
    const timer = clock.sleep(WITHDRAW_MS, { signal: bounded.signal }).then(
      () => bounded.abort(new LifeboatError('store-unreachable', 'The store did not answer in time')),
      () => {},
    )
    try {
      await control.delete([this.key], { signal: bounded.signal })
    } catch (error) {
      // A record that stays keeps what it names out of dedup, nothing else; the first failure is the one to be told.
      if (!isLifeboatError(error)) throw error
    } finally {
      bounded.abort()
      await timer
    }
  }

  get #signal(): AbortOptions {
    return { signal: this.#options.signal }
  }

  /** A record of nothing, to find out now and not after a day whether this store lists and deletes as it must. */
  async #probe(): Promise<void> {
    const { control, random, clock, who, store } = this.#context
    const key = gcKey(hex(random(8)))
    const nothing = { forget: [], condemned: [], dead: {}, sources: {}, when: clock.now().toISOString(), who }
    await control.put('gc', key, nothing, this.#signal)
    let isListed = this.#options.exclusive === true
    for await (const listed of control.list('gc', this.#signal)) isListed ||= listed === key
    await removeObjects(this.#context, [key])
    if (isListed) return
    throw new LifeboatError('gc-stopped', `${store.url} does not list what was just stored`, {
      details: { object: key },
      hint: 'Nothing was removed: a backup that runs could be missed. If its listings are always late, stop all other work on the repository and say --exclusive.',
    })
  }
}
