/** What verify found is kept as marks, for writers, readers and tables; marks of what was healed go. */
import { isLifeboatError } from '../core/errors.ts'
import type { PackId, PointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { type DamageMark, type KnownDamage, listDamage, putDamage } from './damage-marks.ts'
import { damagedKey, parsePackKey } from './object-keys.ts'
import type { OpenedRepository } from './open.ts'
import type { VerifyProblem } from './verify-problems.ts'

export interface Verified {
  readonly result: { readonly problems: readonly VerifyProblem[] }
  /** Points that were read, each of them whole. Empty for a sample. */
  readonly whole: readonly PointId[]
  /** Whether these are all points of the repository. */
  readonly isAll: boolean
  readonly who: string
  readonly now: Date
}

/** Who may not write leaves the marks as they are. */
export async function markDamaged(
  { reading: { store, control } }: Pick<OpenedRepository, 'reading'>,
  verified: Verified,
  options: AbortOptions = {},
): Promise<void> {
  const { result, isAll, whole } = verified
  const found = gather(result.problems)
  const marks = await listDamage(control, options)
  const harmed = new Set(result.problems.flatMap(({ points }) => points))
  const sound = new Set(whole.filter(point => !harmed.has(point)))
  // What could not be read, for instance below a lost node, may need a pack that looked sound from everywhere else.
  const isComplete = isAll && !result.problems.some(mayHide)
  try {
    for (const [pack, bad] of found) {
      // Every copy was tried, so that none of those that are there is good.
      const damage = { ...bad, runs: await runsOf(store, bad, options) }
      const before = isAll ? undefined : marks.find(mark => mark.pack === pack)?.known
      await putDamage(control, pack, before ? joined(before, damage, sound) : damage, verified, options)
    }
    const others = marks.filter(({ pack }) => !found.has(pack))
    if (isComplete)
      await control.delete(
        others.map(({ pack }) => damagedKey(pack)),
        options,
      )
    else
      for (const { pack, known } of others) {
        const points = known?.points.filter(point => !sound.has(point))
        if (known && points && points.length < known.points.length)
          await putDamage(control, pack, { ...known, points }, verified, options)
      }
  } catch (error) {
    if (!isLifeboatError(error, 'store-denied')) throw error
  }
}

async function runsOf(store: ObjectStore, { object }: KnownDamage, options: AbortOptions): Promise<readonly string[]> {
  const runs: string[] = []
  for await (const { key } of store.list(`${object}.`, options)) {
    const run = parsePackKey(key)?.run
    if (run !== undefined && runs.length < limits.rewrittenObjectsMax) runs.push(run)
  }
  return runs
}

const mayHide = ({ object, kind }: VerifyProblem): boolean =>
  kind !== 'rolled-back' && /^(?:points|packs|meta|keys)\//.test(object)

/** Points that some mark names as harmed. */
export const suspectPoints = (marks: readonly DamageMark[]): ReadonlySet<PointId> =>
  new Set(marks.flatMap(({ known }) => known?.points ?? []))

function gather(problems: readonly VerifyProblem[]): ReadonlyMap<PackId, KnownDamage> {
  const found = new Map<PackId, KnownDamage>()
  for (const { damage, points, message } of problems) {
    if (!damage) continue
    const { pack, object, slots, contents } = damage
    const known = { object, slots, contents, points, what: message }
    const before = found.get(pack)
    found.set(pack, before ? joined(before, known, new Set()) : known)
  }
  return found
}

function joined(a: KnownDamage, b: KnownDamage, sound: ReadonlySet<PointId>): KnownDamage {
  const contents = new Map([...a.contents, ...b.contents].map(id => [Buffer.from(id).toString('hex'), id]))
  return {
    object: b.object,
    slots: a.slots && b.slots && [...new Set([...a.slots, ...b.slots])],
    contents: [...contents.values()],
    runs: [...new Set([...(a.runs ?? []), ...(b.runs ?? [])])].slice(-limits.rewrittenObjectsMax),
    points: [...new Set([...a.points, ...b.points])].filter(point => !sound.has(point)),
    what: b.what,
  }
}
