/**
 * Removes what a plan proposes: steps 4 to 13 of the run (docs/concurrency.md, section 6), by the process that announced it and
 * by no other. Until step 9 nothing is deleted; from there on every step leaves a repository in which each point that is
 * there is whole, so that it may end anywhere.
 */
import { LifeboatError } from '../core/errors.ts'
import type { PointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { forgottenKey } from '../repository/object-keys.ts'
import { recordAudit } from './audit.ts'
import { type Leftovers, removeLeftovers } from './exclusive.ts'
import { type ForgottenPoints, withoutPinned } from './forgotten-points.ts'
import { GcAnnouncement } from './gc-announcement.ts'
import { countingPins, type GcPlan, isEmptyPlan } from './gc-plan.ts'
import { type GcOptions, KeptCounts } from './gc-progress.ts'
import { doomedOf, GcSweep } from './gc-sweep.ts'
import { awaitLeases, type LeaseEnds } from './lease-wait.ts'
import type { MaintenanceContext } from './maintenance.ts'
import { Mark, storedNodes } from './mark.ts'
import { PackTable } from './pack-table.ts'
import { listFences, listPointObjects, markRoots } from './roots.ts'

export interface GcResult {
  readonly run: string
  /** Points whose manifests were deleted. */
  readonly removed: readonly PointId[]
  /** Never committed, and marked now: the next run removes them. */
  readonly forgotten: readonly PointId[]
  /** Objects of packs that were deleted. */
  readonly packs: number
  readonly bytesFreed: number
  /** Of packs that were rewritten, what was copied. */
  readonly bytesRewritten: number
  /** What stays although it could go, by reason. */
  readonly kept: Readonly<Record<string, number>>
  /** How the leases ended that the run waited for. */
  readonly leases: LeaseEnds
  /** With --exclusive: keys of what dead processes had left. */
  readonly leftovers?: Leftovers
}

/** Step 8 is done again when it took longer than half the grace; where nearly no grace is wanted, than this. */
const REMARK_PATIENCE_MIN_MS = 60_000

export async function applyGc(context: MaintenanceContext, plan: GcPlan, options: GcOptions = {}): Promise<GcResult> {
  const announcement = new GcAnnouncement(context, options)
  const work = new GcRun(context, plan, announcement, options)
  await work.forgetAbandoned()
  if (!isEmptyPlan(plan)) {
    await announcement.make(plan) // 4
    try {
      await work.wait()
      await work.markAgain()
      await work.remove()
    } catch (error) {
      // This process will remove nothing more, so nobody needs to keep away from what it named. A deletion without an answer
      // may still be on its way: then the record stays.
      if (work.isSettled) await announcement.withdraw()
      throw error
    }
  }
  if (options.exclusive) await work.tidy()
  return work.result()
}

class GcRun {
  readonly #context: MaintenanceContext
  readonly #plan: GcPlan
  readonly #announcement: GcAnnouncement
  readonly #options: GcOptions
  readonly #kept = new KeptCounts()
  readonly #sweep: GcSweep
  #forget: ForgottenPoints
  #mark: Mark
  #leases: LeaseEnds = {}
  #forgotten: readonly PointId[] = []
  #removed: PointId[] = []
  #leftovers: Leftovers | undefined

  constructor(context: MaintenanceContext, plan: GcPlan, announcement: GcAnnouncement, options: GcOptions) {
    this.#context = context
    this.#plan = plan
    this.#announcement = announcement
    this.#options = options
    this.#sweep = new GcSweep(context, announcement.run, this.#kept, options)
    this.#forget = plan.forget
    this.#mark = plan.mark
    for (const [reason, count] of Object.entries(plan.kept)) this.#kept.add(reason, count)
  }

  get isSettled(): boolean {
    return this.#sweep.isSettled
  }

  get #signal(): AbortOptions {
    return { signal: this.#options.signal }
  }

  /** A mark that is stored now is not in F: this run did not see it before it looked for pins. */
  async forgetAbandoned(): Promise<void> {
    const { control, clock, who } = this.#context
    const abandoned = [...this.#plan.abandoned]
    if (abandoned.length === 0) return
    const why = 'never committed'
    await recordAudit(this.#context, 'forget', { points: abandoned.map(([, manifest]) => manifest), why }, this.#signal)
    for (const [point, manifest] of abandoned) {
      const when = clock.now().toISOString()
      await control.put('forgotten', forgottenKey(point), { who, when, why, manifest }, this.#signal)
    }
    this.#forgotten = abandoned.map(([point]) => point)
  }

  async wait(): Promise<void> {
    this.#leases = await awaitLeases(this.#context, this.#announcement.run, this.#options) // 5
    await this.#announcement.outwaitGrace() // 6
  }

  async markAgain(): Promise<void> {
    const { clock } = this.#context
    const { graceMs = limits.gcGraceMs } = this.#options
    for (;;) {
      const beganMs = clock.monotonicMs()
      // 7
      const pins = await this.#plan.pins.list(this.#signal)
      this.#forget = withoutPinned(this.#forget, countingPins(pins, this.#plan.storeNow, this.#options), this.#kept)
      const outcome = await this.#markTwice() // 8
      if (outcome === 'torn') this.#mark = new Mark(new PackTable(), storedNodes(this.#context))
      const isQuick = clock.monotonicMs() - beganMs <= Math.max(graceMs / 2, REMARK_PATIENCE_MIN_MS)
      if (outcome === 'done' && isQuick) return
    }
  }

  /**
   * Two passes, because one in pages can miss a point whose page was read before it was stored, while its base goes away on a
   * later page. What is marked stays so: C and D hold nothing of it, and manifests never change.
   */
  async #markTwice(): Promise<'done' | 'gone' | 'torn'> {
    const { progress, signal } = this.#options
    const removed = new Set(this.#forget.values())
    for (let pass = 0; pass < 2; pass++) {
      const listed = await listPointObjects(this.#context, this.#signal)
      const fences = await listFences(this.#context, this.#signal)
      const keys = listed.map(({ key }) => key).filter(key => !removed.has(key))
      const { outcome } = await markRoots(this.#context, this.#mark, keys, {
        fences,
        signal,
        progress: (done, total) => progress?.({ phase: 'marking-again', done, total }),
      })
      if (outcome !== 'done') return outcome
    }
    return 'done'
  }

  async remove(): Promise<void> {
    await this.#announcement.check()
    await this.#audit()
    await this.#removeManifests() // 9
    const doomed = doomedOf(this.#plan, this.#mark)
    await this.#sweep.compact(doomed.compact) // 10
    await this.#sweep.removePacks(doomed) // 11
    await this.#sweep.delete(this.#removed.map(forgottenKey)) // 12
    await this.#sweep.delete([this.#announcement.key]) // 13
  }

  async #audit(): Promise<void> {
    const { packs, compact } = doomedOf(this.#plan, this.#mark)
    const points = [...this.#forget.values()]
    await recordAudit(
      this.#context,
      'gc',
      {
        run: this.#announcement.run,
        points: points.slice(0, limits.auditPointsMax),
        pointCount: points.length,
        packs: packs.length,
        bytes: packs.reduce((sum, { bytes }) => sum + bytes, 0),
        compacted: compact.length,
      },
      this.#signal,
    )
  }

  async #removeManifests(): Promise<void> {
    const locked = await this.#sweep.delete([...this.#forget.values()])
    this.#removed = [...this.#forget].filter(([, manifest]) => !locked.has(manifest)).map(([point]) => point)
    if (locked.size === 0) return
    // It was locked since the plan was made. A manifest that stays keeps what it reaches.
    this.#kept.add('points that are locked', locked.size)
    const fences = await listFences(this.#context, this.#signal)
    const { outcome } = await markRoots(this.#context, this.#mark, [...locked], { fences, ...this.#signal })
    if (outcome === 'torn')
      throw new LifeboatError('gc-stopped', 'A manifest that could not be deleted vanished all the same', {
        hint: 'Points that were forgotten are removed, no pack is. Collect again.',
      })
  }

  /** With the operator's word that nobody else works. */
  async tidy(): Promise<void> {
    const work = { run: this.#announcement.run, plan: this.#plan, mark: this.#mark }
    this.#leftovers = await removeLeftovers(this.#context, work, this.#signal)
  }

  result(): GcResult {
    const { packs, bytesFreed, bytesRewritten } = this.#sweep
    return {
      run: this.#announcement.run,
      removed: this.#removed,
      forgotten: this.#forgotten,
      packs,
      bytesFreed: Math.round(bytesFreed),
      bytesRewritten,
      kept: this.#kept.all(),
      leases: this.#leases,
      ...(this.#leftovers ? { leftovers: this.#leftovers } : {}),
    }
  }
}
