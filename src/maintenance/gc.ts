/** Garbage collection: the plan and its application in one. */
import { applyGc, type GcResult } from './gc-apply.ts'
import { planGc } from './gc-plan.ts'
import type { GcOptions } from './gc-progress.ts'
import type { MaintenanceContext } from './maintenance.ts'

export const collectGarbage = async (context: MaintenanceContext, options: GcOptions = {}): Promise<GcResult> =>
  applyGc(context, await planGc(context, options), options)
