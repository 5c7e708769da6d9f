import type { AbortOptions } from '../core/scope.ts'
import { listDamage } from '../repository/damage-marks.ts'
import { suspectPoints } from '../repository/mark-damaged.ts'
import type { OpenedRepository } from '../repository/open.ts'
import type { PointSummary } from '../repository/repository.ts'
import type { Output } from './output.ts'

export const SUSPECT_HINT =
  '`lifeboat verify` says which ranges; back the VM up again with --full, then `lifeboat verify --all` shows what was healed'

/** Before a restore or a boot that may fail half-way: what verify knows already. It is a warning, for most of a point may be whole. */
export async function warnIfSuspect(
  { reading }: Pick<OpenedRepository, 'reading'>,
  { id, vm }: PointSummary,
  output: Output,
  options: AbortOptions,
): Promise<void> {
  const marks = await listDamage(reading.control, options)
  if (suspectPoints(marks).has(id)) output.warning(`${vm}@${id} is suspect, verify found damage in it: ${SUSPECT_HINT}`)
}
