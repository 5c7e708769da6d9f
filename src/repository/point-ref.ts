/** How people name points: `VM@latest`, `VM@latest~1`, `VM@1f3a`, `VM@2026-11-21T10:00`, with `/DISK` and `:/path` behind. */
import { LifeboatError } from '../core/errors.ts'
import { nearNames } from '../core/near-names.ts'
import { instantIn } from './local-time.ts'
import type { PointSummary } from './repository.ts'

export interface PointReference {
  readonly vm: string
  readonly at:
    | { readonly kind: 'latest' }
    /** An id or its first letters. */
    | { readonly kind: 'id'; readonly prefix: string }
    /** The newest at or before. */
    | { readonly kind: 'time'; readonly time: Date }
  /** `~n`: so many points before that. */
  readonly back: number
  /** What stands behind the first `/`: a disk's name, perhaps with a partition (see `splitDisk`). */
  readonly disk?: string
  /** Absolute. */
  readonly path?: string
}

const REFERENCE =
  /^(?<vm>.+?)@(?:(?<latest>latest)|(?<id>[0-9a-f]{1,16})|(?<date>\d{4}-\d\d-\d\d)(?:[T ](?<clock>\d\d:\d\d(?::\d\d(?:\.\d{1,3})?)?))?(?<zone>Z|[+-]\d\d:\d\d)?(?:(?<=Z)-(?<exact>[0-9a-f]{16}))?)(?:~(?<back>\d{1,6}))?(?:\/(?<disk>.+?))?(?::(?<path>\/.*))?$/su

/** `zone`: of times that name none, an IANA name. Throws 'usage'. */
export function parsePointReference(text: string, { zone = 'UTC' }: { zone?: string } = {}): PointReference {
  const found = REFERENCE.exec(text)?.groups
  if (!found)
    throw new LifeboatError('usage', `'${text}' names no point`, {
      hint: 'Write VM@latest, VM@latest~1, VM@ID (or its first letters) or VM@2026-11-21T10:00, then perhaps /DISK or :/path.',
    })
  // The mount names points of one second by both.
  const { vm = '', latest, exact, id = exact, back, disk, path } = found
  return {
    vm,
    at: latest
      ? { kind: 'latest' }
      : id
        ? { kind: 'id', prefix: id }
        : { kind: 'time', time: timeOf(text, found, zone) },
    back: Number(back ?? 0),
    ...(disk === undefined ? {} : { disk }),
    ...(path === undefined ? {} : { path }),
  }
}

function timeOf(
  text: string,
  { date, clock, zone }: Readonly<Record<string, string | undefined>>,
  local: string,
): Date {
  // A day alone means all of it.
  const civil = new Date(`${date}T${clock ?? '23:59:59.999'}Z`)
  if (Number.isNaN(civil.getTime()) || !civil.toISOString().startsWith(date ?? ' '))
    throw new LifeboatError('usage', `'${text}' names a time that does not exist`, {
      hint: 'Write it as 2026-11-21T10:00.',
    })
  if (zone === undefined) return instantIn(local, civil)
  return new Date(`${date}T${clock ?? '23:59:59.999'}${zone}`)
}

/**
 * The point that is meant. `points` are those of the whole repository or of the VM, ascending in time. Void and forgotten ones
 * are found by id only. Throws 'no-such-vm', 'no-such-point' or 'ambiguous', each naming what there is.
 */
export function resolvePoint(reference: PointReference, points: readonly PointSummary[]): PointSummary {
  const ofVm = points.filter(({ vm }) => vm === reference.vm)
  if (ofVm.length === 0) throw noSuchVm(reference.vm, points)
  const committed = ofVm.filter(({ state }) => state === 'committed')
  const newest = chosen(reference, ofVm, committed)
  if (reference.back === 0) return newest
  const before = committed[committed.indexOf(newest) - reference.back]
  if (committed.includes(newest) && before) return before
  throw noSuchPoint(`${reference.vm} has no ${reference.back} points before ${newest.id}`, committed)
}

function chosen(
  { vm, at }: PointReference,
  ofVm: readonly PointSummary[],
  committed: readonly PointSummary[],
): PointSummary {
  if (at.kind === 'latest') {
    const latest = committed.at(-1)
    if (latest) return latest
    throw noSuchPoint(`${vm} has no committed point`, committed)
  }
  if (at.kind === 'time') {
    const before = committed.findLast(({ takenAt }) => takenAt <= at.time)
    if (before) return before
    throw noSuchPoint(`${vm} has no point at or before ${at.time.toISOString()}`, committed)
  }
  const [found, another] = ofVm.filter(({ id }) => id.startsWith(at.prefix))
  if (!found) throw noSuchPoint(`${vm} has no point ${at.prefix}`, committed)
  if (!another) return found
  const ids = ofVm.filter(({ id }) => id.startsWith(at.prefix)).map(({ id }) => id)
  throw new LifeboatError('ambiguous', `${at.prefix} begins the ids of ${ids.length} points of ${vm}`, {
    details: { points: ids },
    hint: `Write more letters: ${ids.slice(0, NAMED).join(', ')}.`,
  })
}

/** How many alternatives a message names. */
const NAMED = 5

function noSuchPoint(message: string, committed: readonly PointSummary[]): LifeboatError {
  const last = committed.slice(-NAMED).map(({ id, takenAt }) => `${id} (${takenAt.toISOString()})`)
  return new LifeboatError('no-such-point', message, {
    hint: last.length > 0 ? `The newest are: ${last.join(', ')}.` : 'List them with `lifeboat points --all`.',
  })
}

function noSuchVm(vm: string, points: readonly PointSummary[]): LifeboatError {
  const known = [...new Set(points.map(point => point.vm))]
  const near = nearNames(vm, known)
  const named = (near.length > 0 ? near : known).slice(0, NAMED).join(', ')
  return new LifeboatError('no-such-vm', `There is no point of a VM '${vm}'`, {
    details: { vm, near },
    hint:
      near.length > 0
        ? `Did you mean ${named}?`
        : named
          ? `There are: ${named}.`
          : 'The repository holds no points yet.',
  })
}

/** `vda/p2` as disk and volume: a disk's name may itself contain slashes, so the longest that fits is taken. */
export function splitDisk(text: string, disks: readonly string[]): { disk: string; volume?: string } {
  if (disks.includes(text)) return { disk: text }
  const fitting = disks.filter(name => text.startsWith(`${name}/`)).sort((a, b) => b.length - a.length)
  const [disk] = fitting
  if (disk !== undefined) return { disk, volume: text.slice(disk.length + 1) }
  throw new LifeboatError('no-such-disk', `The point has no disk '${text}'`, {
    hint: `Its disks are: ${disks.join(', ') || 'none'}.`,
  })
}
