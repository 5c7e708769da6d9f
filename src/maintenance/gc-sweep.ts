/**
 * Deletes what a collection has doomed, and counts what that frees: steps 9 to 12 of the run (docs/concurrency.md, section 6).
 * After each deletion every point that is there is whole.
 */
import { isLifeboatError } from '../core/errors.ts'
import type { PackId } from '../core/ids.ts'
import { forEachLimited } from '../core/scope.ts'
import { damagedPrefix } from '../repository/object-keys.ts'
import { compactPack } from './compaction.ts'
import type { CompactionPlan } from './compaction-plan.ts'
import type { CondemnedHint, CondemnedPack } from './condemned.ts'
import type { GcPlan } from './gc-plan.ts'
import type { GcOptions, KeptCounts } from './gc-progress.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { Mark } from './mark.ts'
import { removeObjects } from './removal.ts'

/** 64 MiB of sources each, and as much again that is read back. */
const COMPACTIONS_AT_ONCE = 2
const PACKS_PER_BATCH = 500

/** What step 8 leaves of C and D. */
export interface Doomed {
  readonly packs: readonly CondemnedPack[]
  readonly hints: readonly CondemnedHint[]
  readonly compact: readonly CompactionPlan[]
}

/** C loses packs with a live slot, D's dead slots lose live ones. */
export function doomedOf({ condemned, hints, compact }: GcPlan, { table }: Mark): Doomed {
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
    hints: hints.filter(({ key }) => !isMarkOfLiving(key)),
    compact: compact.flatMap(planned => {
      const row = table.find(planned.pack)
      const dead = row < 0 ? planned.dead : planned.dead.filter(slot => !table.isLive(row, slot))
      const isWorthIt = planned.sources.length > 1 || dead.length * 2 > planned.dead.length
      return isWorthIt ? [{ ...planned, dead }] : []
    }),
  }
}

export class GcSweep {
  /** Objects of packs that were deleted. */
  packs = 0
  bytesFreed = 0
  bytesRewritten = 0
  readonly #context: MaintenanceContext
  readonly #run: string
  readonly #kept: KeptCounts
  readonly #options: GcOptions
  #unanswered = 0

  constructor(context: MaintenanceContext, run: string, kept: KeptCounts, options: GcOptions) {
    this.#context = context
    this.#run = run
    this.#kept = kept
    this.#options = options
  }

  /** No deletion that was sent is without an answer. */
  get isSettled(): boolean {
    return this.#unanswered === 0
  }

  /** Gives those that a lock kept. */
  async delete(keys: readonly string[]): Promise<ReadonlySet<string>> {
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

  async compact(plans: readonly CompactionPlan[]): Promise<void> {
    let done = 0
    await forEachLimited(
      plans,
      COMPACTIONS_AT_ONCE,
      async (planned, signal) => {
        const remove = (keys: readonly string[]) => this.delete(keys)
        const { outcome, removed, bytesBefore, bytesAfter } = await compactPack(
          this.#context,
          { ...planned, run: this.#run, remove },
          { signal },
        )
        this.packs += removed
        this.bytesFreed += Math.max(0, bytesBefore - bytesAfter)
        this.bytesRewritten += bytesAfter
        if (outcome !== 'done') this.#kept.add(WHY_NOT_COMPACTED[outcome])
        this.#options.progress?.({ phase: 'compacting', done: ++done, total: plans.length })
      },
      { signal: this.#options.signal },
    )
  }

  async removePacks({ packs, hints }: Doomed): Promise<void> {
    const total = packs.reduce((sum, { keys }) => sum + keys.length, 0)
    const isMark = ({ key }: CondemnedHint) => key.startsWith(damagedPrefix)
    // Indexes go before the packs that they lead to, by which the next run finds them if this one ends between. Marks go after what they warn of.
    await this.#removeHints(hints.filter(hint => !isMark(hint)))
    for (let at = 0; at < packs.length; at += PACKS_PER_BATCH) {
      const batch = packs.slice(at, at + PACKS_PER_BATCH)
      const locked = await this.delete(batch.flatMap(({ keys }) => keys))
      this.#kept.add('dead objects that are locked', locked.size)
      for (const { keys, bytes } of batch) {
        const left = keys.filter(key => locked.has(key)).length
        this.packs += keys.length - left
        this.bytesFreed += bytes * (1 - left / keys.length)
      }
      this.#options.progress?.({ phase: 'removing', done: this.packs, total })
    }
    await this.#removeHints(hints.filter(isMark))
  }

  async #removeHints(hints: readonly CondemnedHint[]): Promise<void> {
    await this.delete(hints.map(({ key }) => key))
    for (const { bytes } of hints) this.bytesFreed += bytes
  }
}

const WHY_NOT_COMPACTED = {
  gone: 'mostly dead packs that another collection rewrites',
  damaged: 'mostly dead packs that are damaged or too large',
  nothing: 'mostly dead packs of which nothing is left to copy',
  locked: 'mostly dead packs that are locked',
} as const
