/** Which points a new one may be built upon, and which one it follows (docs/concurrency.md, WRITER step 3). */
import { isIntegrityError } from '../core/errors.ts'
import type { PointId } from '../core/ids.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ControlObjects } from './control-object.ts'
import { forgottenKey, leaseFencesPrefix, parsePointKey, vmPointsPrefix } from './object-keys.ts'
import type { Manifest } from './repository.ts'
import { readStoredManifest, type StoredManifest } from './stored-manifest.ts'
import type { WriteContext } from './write-context.ts'

/** Manifest keys of a VM's points, oldest first by the time in their names. */
export async function listPointKeys(
  { store }: Pick<WriteContext, 'store'>,
  vm: string,
  options: AbortOptions,
): Promise<ReadonlyMap<PointId, string>> {
  const keys = new Map<PointId, string>()
  for await (const { key } of store.list(vmPointsPrefix(vm), options)) {
    const parsed = parsePointKey(key)
    if (parsed?.vm === vm) keys.set(parsed.point, key)
  }
  return keys
}

/**
 * The point's manifest if it may be built upon, else undefined. The order of the three questions is the rule: a forget
 * that was stored before the first answer is seen, and one that comes later belongs to a GC run that waits for our lease.
 */
export async function checkBase(
  context: Pick<WriteContext, 'store' | 'keys' | 'random'>,
  control: ControlObjects,
  point: PointId,
  key: string,
  options: AbortOptions,
): Promise<StoredManifest | undefined> {
  if (await isForgotten(control, point, options)) return undefined
  const stored = await readStoredManifest(context, key, options)
  if (!stored) return undefined
  if (await isFenced(control, stored.manifest, options)) return undefined
  return stored
}

export const isFenced = async (control: ControlObjects, { lease }: Pick<Manifest, 'lease'>, options: AbortOptions) => {
  for await (const _ of control.list('fence', { prefix: leaseFencesPrefix(lease), ...options })) return true
  return false
}

/** Whether it is there at all counts: a mark that does not authenticate is no reason to build upon a point. */
const isForgotten = async (control: ControlObjects, point: PointId, options: AbortOptions): Promise<boolean> => {
  try {
    return (await control.get('forgotten', forgottenKey(point), options)) !== undefined
  } catch (error) {
    if (isIntegrityError(error)) return true
    throw error
  }
}

export interface Succession {
  readonly sequence: number
  readonly previous?: NonNullable<Manifest['previous']>
}

/**
 * The new point's number and the point before it: the newest that is committed and not forgotten. Numbers never fall back,
 * whatever happened to the points between: hosts raise an alarm at a number that is not above the highest they saw.
 */
export async function succession(
  context: WriteContext,
  control: ControlObjects,
  keys: ReadonlyMap<PointId, string>,
  known: ReadonlyMap<PointId, StoredManifest>,
  options: AbortOptions,
): Promise<Succession> {
  let highest = 0
  let unread = 0
  for (const [point, key] of [...keys].reverse())
    try {
      const checked = known.get(point) ?? (await checkBase(context, control, point, key, options))
      const stored = checked ?? (await readStoredManifest(context, key, options))
      highest = Math.max(highest, stored?.manifest.sequence ?? 0)
      if (checked) return { sequence: highest + unread + 1, previous: { point, digest: checked.digest } }
    } catch (error) {
      // A damaged manifest must not stop all later backups; verify reports it.
      if (!isIntegrityError(error)) throw error
      unread++
    }
  return { sequence: highest + unread + 1 }
}
