/** What a writer must not point to although it is there (WRITER step 2): what open GC runs condemn, and what verify found damaged. */
import { isIntegrityError } from '../core/errors.ts'
import type { PackId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ControlObjects } from './control-object.ts'
import type { DamageMark } from './damage-marks.ts'
import { parsePackKey } from './object-keys.ts'

export interface ReuseRules {
  mayReuse(pack: PackId, slot: number): boolean
  /** False: nothing of this pack may be reused, so its footer need not be read. */
  mayReadPack(pack: PackId): boolean
  /** Whether an open GC run may remove it. */
  isCondemned(pack: PackId, slot: number): boolean
}

/** A run's record may name all packs of a repository. */
const CONDEMNED_MAX = 10_000_000

/** To be called after the lease is stored and before any pack is looked for: that order is what GC relies on. */
export async function readReuseRules(
  control: ControlObjects,
  damaged: readonly DamageMark[],
  options: AbortOptions,
): Promise<ReuseRules> {
  const packs = new Set<string>()
  const slots = new Map<string, Set<number>>()
  try {
    for await (const key of control.list('gc', options)) {
      const run = await control.get('gc', key, options)
      // Gone since it was listed: the run has deleted what it condemned, so that a look at the pack will tell.
      if (!run) continue
      for (const object of run.texts('condemned', CONDEMNED_MAX)) {
        const condemned = parsePackKey(object)
        if (condemned) packs.add(condemned.pack)
      }
      const dead = run.fields('dead')
      for (const pack of Object.keys(run.object('dead')))
        for (const slot of dead.counts(pack, limits.packSlotsMax)) {
          const ofPack = slots.get(pack) ?? new Set()
          slots.set(pack, ofPack.add(slot))
        }
    }
  } catch (error) {
    // A record that cannot be read may condemn anything: without it nothing is safe to reuse but the base.
    if (isIntegrityError(error)) return { mayReuse: () => false, mayReadPack: () => false, isCondemned: () => true }
    throw error
  }
  // Whole packs: the neighbours of a rotten record lie on the same disk.
  const rotten = new Set<string>(damaged.map(({ pack }) => pack))
  const isCondemned = (pack: PackId, slot: number) => packs.has(pack) || slots.get(pack)?.has(slot) === true
  return {
    mayReuse: (pack, slot) => !rotten.has(pack) && !isCondemned(pack, slot),
    mayReadPack: pack => !rotten.has(pack) && !packs.has(pack),
    isCondemned,
  }
}
