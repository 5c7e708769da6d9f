/**
 * What people and timers did to the repository (docs/repository-format.md, section 8). An entry is stored before its action
 * takes effect: no action goes without one, and an entry without its effect is an attempt that failed.
 */
import { hex } from '../core/ids.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { JsonObject } from '../repository/json-fields.ts'
import { auditKey } from '../repository/object-keys.ts'
import type { MaintenanceContext } from './maintenance.ts'

export type AuditAction =
  | 'forget'
  | 'hold-add'
  | 'hold-remove'
  | 'key-add'
  | 'key-remove'
  | 'key-rotate'
  | 'key-destroy'
  | 'policy-set'
  | 'policy-unset'
  | 'gc'
  | 'lock-renew'
  | 'unlock'
  | 'adopt'

/** `details` say what it is done to: points, keys, ids, counts; never secrets. */
export async function recordAudit(
  { control, clock, random, who }: Pick<MaintenanceContext, 'control' | 'clock' | 'random' | 'who'>,
  action: AuditAction,
  details: JsonObject,
  options: AbortOptions = {},
): Promise<void> {
  const when = clock.now()
  const document = { action, who, when: when.toISOString(), details }
  await control.put('audit', auditKey(when, hex(random(8))), document, options)
}
