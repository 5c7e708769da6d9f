/** Ends leases of writers that died, without a collection: step 5 of its run, for those whose counters stand still. */
import { hex } from '../core/ids.ts'
import type { AbortOptions } from '../core/scope.ts'
import { leasesPrefix } from '../repository/object-keys.ts'
import { recordAudit } from './audit.ts'
import type { GcProgress } from './gc-progress.ts'
import { awaitLeases, type LeaseEnds } from './lease-wait.ts'
import type { MaintenanceContext } from './maintenance.ts'

export interface UnlockOptions extends AbortOptions {
  readonly progress?: (progress: GcProgress) => void
}

/** Waits the expiry of each lease that was there when it began; those whose writers live are left alone. */
export async function unlockLeases(context: MaintenanceContext, options: UnlockOptions = {}): Promise<LeaseEnds> {
  const run = hex(context.random(8))
  const leases: string[] = []
  for await (const key of context.control.list('lease', options)) leases.push(key.slice(leasesPrefix.length))
  if (leases.length === 0) return {}
  await recordAudit(context, 'unlock', { run, leases }, options)
  return await awaitLeases(context, run, { ...options, leaveAlive: true })
}
