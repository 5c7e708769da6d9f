import { listDamage } from '../repository/damage-marks.ts'
import { suspectPoints } from '../repository/mark-damaged.ts'
import type { Invocation, OpenedRepository } from './invocation.ts'
import { type ResolvedPoint, resolvePoint } from './resolve-point.ts'

export const SUSPECT_HINT =
  '`lifeboat verify` says which ranges; back the VM up again with --full, then `lifeboat verify --all` shows what was healed'

/**
 * The point that a restore, an export or a boot is to read, with what verify knows already of it: they may fail half-way.
 * It is a warning, for most of a point may be whole.
 */
export async function pointToRead(
  { output, signal }: Invocation,
  { repository }: OpenedRepository,
  text: string,
): Promise<ResolvedPoint> {
  const resolved = await resolvePoint(repository, text, { signal })
  const { id, vm } = resolved.point
  const marks = await listDamage(repository.reading.control, { signal })
  if (suspectPoints(marks).has(id)) output.warning(`${vm}@${id} is suspect, verify found damage in it: ${SUSPECT_HINT}`)
  return resolved
}
