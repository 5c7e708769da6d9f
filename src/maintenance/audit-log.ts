/** What was done to the repository, and by whom, as the audit entries say. */
import { isIntegrityError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import type { JsonObject } from '../repository/json-fields.ts'
import { auditPrefix, keyTime, parseAuditKey } from '../repository/object-keys.ts'
import type { MaintenanceContext } from './maintenance.ts'

export interface AuditEntry {
  readonly key: string
  readonly when: Date
  readonly who: string
  /** One of AuditAction, or what a newer version calls its own. */
  readonly action: string
  readonly details: JsonObject
}

export interface AuditLog {
  /** Ascending in time, by the clocks of those who wrote them. */
  readonly entries: readonly AuditEntry[]
  /** Keys of entries that are there and do not authenticate. */
  readonly damaged: readonly string[]
  /** Entries before these, which `limit` left out. */
  readonly earlier: number
}

/** The newest `limit` entries since `since`. */
export async function readAuditLog(
  { store, control }: Pick<MaintenanceContext, 'store' | 'control'>,
  { since, limit, signal }: { since?: Date; limit: number } & AbortOptions,
): Promise<AuditLog> {
  const keys: string[] = []
  const startAfter = since && `${auditPrefix}${keyTime(since)}`
  for await (const { key } of store.list(auditPrefix, { startAfter, signal })) if (parseAuditKey(key)) keys.push(key)
  const earlier = Math.max(0, keys.length - limit)
  const entries: AuditEntry[] = []
  const damaged: string[] = []
  await forEachLimited(
    keys.slice(earlier),
    limits.getsInFlight,
    async (key, each) => {
      try {
        const fields = await control.get('audit', key, { signal: each })
        const [action, who, when] = [fields?.text('action'), fields?.text('who'), fields?.date('when')]
        // One that vanishes while it is read was removed by somebody: an audit is never removed by Lifeboat.
        if (fields && action && who && when) entries.push({ key, when, who, action, details: fields.object('details') })
        else damaged.push(key)
      } catch (error) {
        if (!isIntegrityError(error)) throw error
        damaged.push(key)
      }
    },
    { signal },
  )
  return { entries: entries.sort((a, b) => (a.key < b.key ? -1 : 1)), damaged: damaged.sort(), earlier }
}
