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
  // The cut falls between seconds: which of one second was later, the entries themselves say.
  const cut = keys.at(-limit)
  const from = cut === undefined ? 0 : keys.findIndex(key => key.startsWith(cut.slice(0, TIMED)))
  const entries: AuditEntry[] = []
  const damaged: string[] = []
  await forEachLimited(
    keys.slice(from),
    limits.getsInFlight,
    async (key, each) => {
      try {
        const fields = await control.get('audit', key, { signal: each })
        const [action, who, when] = [fields?.text('action'), fields?.text('who'), fields?.date('when')]
        // Lifeboat removes no entry: one that vanishes while it is read was removed by somebody.
        if (fields && action && who && when) entries.push({ key, when, who, action, details: fields.object('details') })
        else damaged.push(key)
      } catch (error) {
        if (!isIntegrityError(error)) throw error
        damaged.push(key)
      }
    },
    { signal },
  )
  const newest = entries.sort((a, b) => a.when.getTime() - b.when.getTime() || (a.key < b.key ? -1 : 1)).slice(-limit)
  return { entries: newest, damaged: damaged.sort(), earlier: from + entries.length - newest.length }
}

/** 'audit/<time>': the part of a key that is a time. */
const TIMED = auditPrefix.length + 16
