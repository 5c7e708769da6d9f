/** Ledgers of finished renewals (docs/repository-format.md, section 8): how long everything that is kept is locked at least. */
import { isIntegrityError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ControlObjects } from './control-object.ts'
import { extendBefore, lockUntil, promisedUntil, type RepositoryLock } from './lock-policy.ts'

export interface RenewalState {
  /** When the last renewal that finished had begun; undefined before the first. */
  readonly last?: Date
  readonly who?: string
  /** All that kept points reach is locked until then at least. */
  readonly until: Date
  /** By then the next renewal should have begun. */
  readonly due: Date
  /** Past the quarter of an interval that is left for runs that come late: new points do not build upon old ones. */
  readonly isOverdue: boolean
}

/** One that does not authenticate is nobody's: without any, what was put at the beginning counts. */
export async function renewalState(
  control: ControlObjects,
  lock: RepositoryLock,
  now: Date,
  options: AbortOptions = {},
): Promise<RenewalState> {
  let newest: { until: Date; last: Date; who: string } | undefined
  for await (const key of control.list('lock-ledger', options))
    try {
      const ledger = await control.get('lock-ledger', key, options)
      if (!ledger) continue
      const found = { until: ledger.date('until'), last: ledger.date('when'), who: ledger.text('who') }
      if (!newest || found.until > newest.until) newest = found
    } catch (error) {
      if (!isIntegrityError(error)) throw error
    }
  const since = newest?.last ?? lock.since
  const until = newest?.until ?? lockUntil(lock, lock.since)
  return {
    ...(newest ? { last: newest.last, who: newest.who } : {}),
    until,
    due: new Date(since.getTime() + lock.renewEveryMs),
    isOverdue: until < promisedUntil(lock, now),
  }
}

/** What a renewal that began then leaves behind. */
export const assuredBy = (lock: RepositoryLock, began: Date): Date => extendBefore(lock, began)
