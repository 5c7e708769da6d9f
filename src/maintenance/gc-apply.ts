/**
 * Removes what a plan proposes: steps 4 to 13 of the run (docs/concurrency.md, section 6), by the process that announced it and
 * by no other. Until step 9 nothing is deleted; from there on every step leaves a repository in which each point that is
 * there is whole, so that it may end anywhere.
 */
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { hex, type PackId, type PointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { damagedPrefix, forgottenKey, gcKey } from '../repository/object-keys.ts'
import { recordAudit } from './audit.ts'
import { compactPack } from './compaction.ts'
import type { CompactionPlan } from './compaction-plan.ts'
import type { CondemnedPack } from './condemned.ts'
import { type Leftovers, removeLeftovers } from './exclusive.ts'
import { type ForgottenPoints, withoutPinned } from './forgotten-points.ts'
import { countingPins, type GcPlan, isEmptyPlan } from './gc-plan.ts'
import { type GcOptions, KeptCounts } from './gc-progress.ts'
import { awaitLeases, type LeaseEnds } from './lease-wait.ts'
import type { MaintenanceContext } from './maintenance.ts'
import { Mark, storedNodes } from './mark.ts'
import { PackTable } from './pack-table.ts'
import { removeObjects } from './removal.ts'
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
/** The wait is told in so many parts. */
const GRACE_PARTS = 100
/** 64 MiB of sources each, and as much again that is read back. */
const COMPACTIONS_AT_ONCE = 2
/** Withdrawing an announcement is one request; whoever stops does not wait for ever for a store that is gone. */
const WITHDRAW_MS = 30_000

/** What step 8 leaves of C and D. */
interface Doomed {
  readonly packs: readonly CondemnedPack[]
  readonly hints: readonly string[]
  readonly compact: readonly CompactionPlan[]
}

export async function applyGc(context: MaintenanceContext, plan: GcPlan, options: GcOptions = {}): Promise<GcResult> {
  const run = hex(context.random(8))
  const work = new GcRun(context, plan, run, options)
  await work.forgetAbandoned()
  if (!isEmptyPlan(plan)) {
    await work.announce()
    try {
      await work.wait()
      await work.markAgain()
      await work.remove()
    } catch (error) {
      // This process will remove nothing more, so nobody needs to keep away from what it named. A deletion without an answer
      // may still be on its way: then the record stays.
      if (work.isSettled) await work.withdraw()
      throw error
    }
  }
  if (options.exclusive) await work.tidy()
  return work.result()
}

class GcRun {
  readonly #context: MaintenanceContext
  readonly #plan: GcPlan
  readonly #run: string
  readonly #options: GcOptions
  readonly #kept = new KeptCounts()
  #forget: ForgottenPoints
  #mark: Mark
  #leases: LeaseEnds = {}
  #announcedMs = 0
  #forgotten: readonly PointId[] = []
  #removed: PointId[] = []
  #packs = 0
  #bytesFreed = 0
  #bytesRewritten = 0
  /** Deletions that were sent and not answered. */
  #unanswered = 0
  #leftovers: Leftovers | undefined

  constructor(context: MaintenanceContext, plan: GcPlan, run: string, options: GcOptions) {
    this.#context = context
    this.#plan = plan
    this.#run = run
    this.#options = options
    this.#forget = plan.forget
    this.#mark = plan.mark
    for (const [reason, count] of Object.entries(plan.kept)) this.#kept.add(reason, count)
  }

  get isSettled(): boolean {
    return this.#unanswered === 0
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

  /** Step 4. From here on no new lease reuses what the record names. */
  async announce(): Promise<void> {
    const { control, clock, who } = this.#context
    const { forget, condemned, hints, compact } = this.#plan
    const key = gcKey(this.#run)
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
      await control.put('gc', key, record, this.#signal)
    } catch (error) {
      await this.withdraw()
      throw error
    }
    this.#announcedMs = clock.monotonicMs()
  }

  async wait(): Promise<void> {
    const { clock } = this.#context
    const { graceMs = limits.gcGraceMs, progress, signal } = this.#options
    this.#leases = await awaitLeases(this.#context, this.#run, this.#options) // 5
    // 6. On this process's own clock.
    const endMs = this.#announcedMs + graceMs
    for (;;) {
      const remainingMs = endMs - clock.monotonicMs()
      if (remainingMs <= 0) return
      const waitsFor = ['readers without the right to pin']
      progress?.({ phase: 'grace', done: graceMs - remainingMs, total: graceMs, waitsFor, remainingMs })
      await clock.sleep(Math.min(remainingMs, Math.max(1000, graceMs / GRACE_PARTS)), { signal })
    }
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
    // Whoever took this run for dead and removed its record has let others reuse what it names.
    if ((await this.#context.store.head(gcKey(this.#run), this.#signal)) === undefined)
      throw new LifeboatError('gc-stopped', 'Somebody removed the record of this collection while it waited', {
        details: { object: gcKey(this.#run) },
        hint: 'Nothing was removed. Do not say --exclusive while another collection runs. Collect again.',
      })
    await this.#audit()
    await this.#removeManifests() // 9
    const { packs, hints, compact } = this.#doomed()
    await this.#compact(compact) // 10
    await this.#removePacks(packs, hints) // 11
    await this.#delete(this.#removed.map(forgottenKey)) // 12
    await this.#delete([gcKey(this.#run)]) // 13
  }

  async #audit(): Promise<void> {
    const { packs, compact } = this.#doomed()
    const points = [...this.#forget.values()]
    await recordAudit(
      this.#context,
      'gc',
      {
        run: this.#run,
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
    const locked = await this.#delete([...this.#forget.values()])
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

  /** C loses packs with a live slot, D's dead slots lose live ones. */
  #doomed(): Doomed {
    const { table } = this.#mark
    const { condemned, hints, compact } = this.#plan
    const isLive = (pack: PackId) => {
      const row = table.find(pack)
      return row >= 0 && table.liveCount(row) > 0
    }
    const packs = condemned.filter(({ pack }) => !isLive(pack))
    const dying = new Set(packs.flatMap(({ pack }) => `${damagedPrefix}${pack}`))
    const isMarkOfLiving = (key: string) =>
      key.startsWith(damagedPrefix) && !dying.has(key.slice(0, damagedPrefix.length + 32))
    return {
      packs,
      hints: hints.map(({ key }) => key).filter(key => !isMarkOfLiving(key)),
      compact: compact.flatMap(planned => {
        const row = table.find(planned.pack)
        const dead = row < 0 ? planned.dead : planned.dead.filter(slot => !table.isLive(row, slot))
        const isWorthIt = planned.sources.length > 1 || dead.length * 2 > planned.dead.length
        return isWorthIt ? [{ ...planned, dead }] : []
      }),
    }
  }

  async #compact(plans: readonly CompactionPlan[]): Promise<void> {
    let done = 0
    await forEachLimited(
      plans,
      COMPACTIONS_AT_ONCE,
      async (planned, signal) => {
        const remove = (keys: readonly string[]) => this.#delete(keys)
        const { outcome, removed, bytesBefore, bytesAfter } = await compactPack(
          this.#context,
          { ...planned, run: this.#run, remove },
          { signal },
        )
        this.#packs += removed
        this.#bytesFreed += Math.max(0, bytesBefore - bytesAfter)
        this.#bytesRewritten += bytesAfter
        if (outcome !== 'done') this.#kept.add(WHY_NOT_COMPACTED[outcome])
        this.#options.progress?.({ phase: 'compacting', done: ++done, total: plans.length })
      },
      this.#signal,
    )
  }

  async #removePacks(packs: readonly CondemnedPack[], hints: readonly string[]): Promise<void> {
    const total = packs.reduce((sum, { keys }) => sum + keys.length, 0)
    const isMark = (key: string) => key.startsWith(damagedPrefix)
    // Indexes go before the packs that they lead to, by which the next run finds them if this one ends between. Marks go after what they warn of.
    await this.#removeHints(hints.filter(key => !isMark(key)))
    for (let at = 0; at < packs.length; at += PACKS_PER_BATCH) {
      const batch = packs.slice(at, at + PACKS_PER_BATCH)
      const locked = await this.#delete(batch.flatMap(({ keys }) => keys))
      this.#kept.add('dead objects that are locked', locked.size)
      for (const { keys, bytes } of batch) {
        const left = keys.filter(key => locked.has(key)).length
        this.#packs += keys.length - left
        this.#bytesFreed += bytes * (1 - left / keys.length)
      }
      this.#options.progress?.({ phase: 'removing', done: this.#packs, total })
    }
    await this.#removeHints(hints.filter(isMark))
  }

  async #removeHints(keys: readonly string[]): Promise<void> {
    await this.#delete(keys)
    for (const { key, bytes } of this.#plan.hints) if (keys.includes(key)) this.#bytesFreed += bytes
  }

  async #delete(keys: readonly string[]): Promise<ReadonlySet<string>> {
    const { signal } = this.#options
    signal?.throwIfAborted()
    this.#unanswered++
    try {
      const locked = await removeObjects(this.#context, keys)
      this.#unanswered--
      return locked
    } catch (error) {
      if (isLifeboatError(error, 'store-denied')) this.#unanswered--
      throw error
    }
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

  async withdraw(): Promise<void> {
    const { clock, control } = this.#context
    const bounded = new AbortController()
    const timer = clock.sleep(WITHDRAW_MS, { signal: bounded.signal }).then(
      () => bounded.abort(new LifeboatError('store-unreachable', 'The store did not answer in time')),
      () => {},
    )
    try {
      await control.delete([gcKey(this.#run)], { signal: bounded.signal })
    } catch (error) {
      // A record that stays keeps what it names out of dedup, nothing else; the first failure is the one to be told.
      if (!isLifeboatError(error)) throw error
    } finally {
      bounded.abort()
      await timer
    }
  }

  /** With the operator's word that nobody else works. */
  async tidy(): Promise<void> {
    const work = { run: this.#run, plan: this.#plan, mark: this.#mark }
    this.#leftovers = await removeLeftovers(this.#context, work, this.#signal)
  }

  result(): GcResult {
    return {
      run: this.#run,
      removed: this.#removed,
      forgotten: this.#forgotten,
      packs: this.#packs,
      bytesFreed: Math.round(this.#bytesFreed),
      bytesRewritten: this.#bytesRewritten,
      kept: this.#kept.all(),
      leases: this.#leases,
      ...(this.#leftovers ? { leftovers: this.#leftovers } : {}),
    }
  }
}

const PACKS_PER_BATCH = 500

const WHY_NOT_COMPACTED = {
  gone: 'mostly dead packs that another collection rewrites',
  damaged: 'mostly dead packs that are damaged or too large',
  nothing: 'mostly dead packs of which nothing is left to copy',
  locked: 'mostly dead packs that are locked',
} as const
