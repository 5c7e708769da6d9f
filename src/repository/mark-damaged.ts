/** What verify found damaged is marked, so that no later backup reuses it (docs/concurrency.md, WRITER step 2). */
import { isLifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import { damagedKey, parsePackKey } from './object-keys.ts'
import type { OpenedRepository } from './open.ts'
import type { VerifyResult } from './verify.ts'

/** Whole packs: the neighbours of a rotten record lie on the same disk. Who may not write leaves no mark. */
export async function markDamaged(
  { reading }: Pick<OpenedRepository, 'reading'>,
  { problems }: Pick<VerifyResult, 'problems'>,
  now: Date,
  who: string,
  options: AbortOptions = {},
): Promise<void> {
  try {
    for (const { object, kind, message } of problems) {
      const pack = kind === 'unchecked' ? undefined : parsePackKey(object)?.pack
      if (!pack) continue
      const mark = { slots: null, who, when: now.toISOString(), what: message.slice(0, 1000) }
      await reading.control.put('damaged', damagedKey(pack), mark, options)
    }
  } catch (error) {
    if (!isLifeboatError(error, 'store-denied')) throw error
  }
}
