/** Holds: what a person forbids to remove, with a reason (docs/repository-format.md, section 8). A hold is a pin without an end. */
import { isLifeboatError, LifeboatError, messageOf } from '../core/errors.ts'
import { hex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { holdKey } from '../repository/object-keys.ts'
import { readCommitted } from '../repository/recovery-point.ts'
import type { PointSummary } from '../repository/repository.ts'
import { recordAudit } from './audit.ts'
import { clearLegalHold, setLegalHold } from './legal-hold.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { WorkOptions } from './progress.ts'

/**
 * READER rules 1 to 4, in their order: the hold first, then a look whether the point is still there and not forgotten. One
 * that stands when this resolves is seen by every collection that could remove the point. Gives the hold's id.
 */
export async function addHold(
  context: MaintenanceContext,
  point: PointSummary,
  reason: string,
  { progress, ...options }: WorkOptions = {},
): Promise<string> {
  if (reason.trim() === '' || reason.length > limits.holdReasonMax)
    throw new LifeboatError('usage', `a hold needs a reason of at most ${limits.holdReasonMax} characters`, {
      hint: 'say why, for example --reason "audit 2026, ask Jane"',
    })
  const { control, clock, random, who } = context
  const id = hex(random(8))
  const details = { hold: id, point: point.key, reason }
  await recordAudit(context, 'hold-add', details, options)
  const created = clock.now().toISOString()
  const document = { point: point.id, manifest: point.key, kind: 'hold', host: hostOf(who), expiryMs: null, created }
  try {
    await control.put('hold', holdKey(id), { counter: 1, ...document, reason, who }, options)
    await readCommitted(context, point, options)
    await setLegalHold(context, { id, manifest: point.key }, { progress, ...options })
  } catch (error) {
    await withdraw(context, { id, point: point.id }, error)
    throw error
  }
  return id
}

/** After a failure, also one without an answer, no hold may stay of which nobody was told. */
async function withdraw(
  context: MaintenanceContext,
  { id, point }: { readonly id: string; readonly point: string },
  failure: unknown,
): Promise<void> {
  try {
    await clearLegalHold(context, { id, point })
    await context.control.delete([holdKey(id)])
  } catch (error) {
    const code = isLifeboatError(failure) ? failure.code : 'store-failed'
    throw new LifeboatError(code, `${messageOf(failure)}; ${holdKey(id)} may be there and holds the point`, {
      details: { object: holdKey(id) },
      hint: `Remove it with \`lifeboat hold remove --hold ${id}\`, then try again.`,
      cause: error,
    })
  }
}

/** By its id, so that one that does not authenticate can go as well. The audit says of which point, where that is known. */
export async function removeHold(
  context: MaintenanceContext,
  { id, point }: { readonly id: string; readonly point?: string },
  { progress, ...options }: WorkOptions = {},
): Promise<void> {
  await recordAudit(context, 'hold-remove', { hold: id, ...(point === undefined ? {} : { point }) }, options)
  // Its object goes last: as long as it is listed, it can be removed again.
  await clearLegalHold(context, { id, point }, { progress, ...options })
  await context.control.delete([holdKey(id)], options)
}

const hostOf = (who: string): string => who.slice(who.lastIndexOf('@') + 1)
