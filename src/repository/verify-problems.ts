/** What verify found, gathered by object: a lost pack of 256 chunks is one problem, with all that it harms. */
import { isLifeboatError, messageOf } from '../core/errors.ts'
import type { PackId, PointId } from '../core/ids.ts'
import { mergeRanges, type Range, rangeEnd } from '../core/range.ts'
import { packKey, parsePackKey } from './object-keys.ts'

/**
 * 'unchecked': it could not be found out, for instance because the store did not answer. 'rolled-back': this host has seen
 * another state of the repository, which this one does not follow from. 'hidden', 'overwritten': a delete marker or another
 * version lies over it, and it is read all the same.
 */
export type ProblemKind = 'missing' | 'corrupt' | 'absurd' | 'unchecked' | 'rolled-back' | 'hidden' | 'overwritten'

export interface VerifyProblem {
  /** The store's key. */
  readonly object: string
  readonly kind: ProblemKind
  /** The first of this kind in this object. */
  readonly message: string
  readonly points: readonly PointId[]
  /** Which records of a pack are bad: for its mark. Absent where the object is no pack. */
  readonly damage?: PackDamage
  /** Empty where the whole point cannot be opened. */
  readonly disks: readonly { readonly point: PointId; readonly disk: string; readonly ranges: readonly Range[] }[]
}

export interface PackDamage {
  readonly pack: PackId
  /** The pack's own key, also where a rewritten object of it was read. */
  readonly object: string
  readonly slots: readonly number[]
  /** Their content id prefixes. */
  readonly contents: readonly Uint8Array[]
}

export interface Problem {
  readonly object: string
  readonly kind: ProblemKind
  readonly message: string
  readonly points: Set<PointId>
  /** Content id prefixes by slot. */
  readonly records: Map<number, Uint8Array>
  readonly harmed: Map<string, { point: PointId; disk: string; ranges: Range[] }>
}

export class ProblemLog {
  readonly #problems = new Map<string, Problem>()

  /** `object`: what was being read, where the error does not name something else. */
  note(error: unknown, object: string): Problem {
    const named = isLifeboatError(error) ? (error.details.object ?? object) : object
    return this.problem(named, kindOf(error), messageOf(error))
  }

  problem(object: string, kind: ProblemKind, message: string): Problem {
    const name = `${kind} ${object}`
    const known = this.#problems.get(name)
    if (known) return known
    const problem: Problem = { object, kind, message, points: new Set(), records: new Map(), harmed: new Map() }
    this.#problems.set(name, problem)
    return problem
  }

  list(): VerifyProblem[] {
    return [...this.#problems.values()].map(({ object, kind, message, points, records, harmed }) => ({
      object,
      kind,
      message,
      points: [...points],
      ...damageOf(object, kind, records),
      disks: [...harmed.values()].map(({ point, disk, ranges }) => ({ point, disk, ranges: mergeRanges(ranges) })),
    }))
  }
}

export function addHarm(problem: Problem, point: PointId, disk: string, range: Range): void {
  problem.points.add(point)
  const name = `${point}/${disk}`
  const known = problem.harmed.get(name)
  const last = known?.ranges.at(-1)
  // Walks go in disk order, so that a lost pack of a sequential disk stays one range.
  if (known && last && rangeEnd(last) === range.offset)
    known.ranges[known.ranges.length - 1] = { offset: last.offset, length: last.length + range.length }
  else if (known) known.ranges.push(range)
  else problem.harmed.set(name, { point, disk, ranges: [range] })
}

function damageOf(object: string, kind: ProblemKind, records: Problem['records']): { damage?: PackDamage } {
  const place = kind === 'unchecked' ? undefined : parsePackKey(object)
  if (!place) return {}
  const own = packKey(place.kind, place.domain, place.pack)
  return { damage: { pack: place.pack, object: own, slots: [...records.keys()], contents: [...records.values()] } }
}

function kindOf(error: unknown): ProblemKind {
  if (isLifeboatError(error, 'missing-object') || isLifeboatError(error, 'no-such-point')) return 'missing'
  if (isLifeboatError(error, 'corrupt-object')) return 'corrupt'
  return isLifeboatError(error, 'absurd-object') ? 'absurd' : 'unchecked'
}
