/**
 * What manifests tell of points, read when somebody looks into a point, some of it kept. Whoever walks from point to point, as
 * `find` and `ls -R` do, finds the next ones read already: several at a time, where one by one each would cost a round trip.
 */
import { LRUCache } from 'lru-cache'
import { abortable } from '../core/abortable.ts'
import type { Clock } from '../core/clock.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { allocatedAtMost } from '../repository/allocated.ts'
import { type Hold, listHolds } from '../repository/holds.ts'
import type { OpenedRepository } from '../repository/open.ts'
import type { Manifest, PointSummary } from '../repository/repository.ts'

export interface DescribedDisk {
  readonly name: string
  readonly size: number
  readonly allocated: number
}

export interface DescribedPoint {
  readonly takenAt: Date
  readonly disks: readonly DescribedDisk[]
  /** `manifest.json` without its holds. */
  readonly document: Readonly<Record<string, unknown>>
}

export interface DescribedPointsOptions {
  readonly repository: Pick<OpenedRepository, 'manifest' | 'reading'>
  readonly clock: Clock
  /** So many points after this one, in the order in which people walk. */
  readonly following: (point: PointSummary, count: number) => readonly PointSummary[]
}

export class DescribedPoints implements AsyncDisposable {
  readonly #options: DescribedPointsOptions
  readonly #ended = new AbortController()
  readonly #kept = new LRUCache<string, DescribedPoint>({
    maxSize: limits.mountManifestBytes,
    sizeCalculation: point => memoryOf(point),
  })
  readonly #underWay = new Map<string, Promise<DescribedPoint>>()
  /** The points that a walker comes to next. */
  #expected: ReadonlySet<string> = new Set()
  #holds: { readonly listed: Promise<readonly Hold[]>; readonly atMs: number } | undefined

  constructor(options: DescribedPointsOptions) {
    this.#options = options
  }

  async of(point: PointSummary, options: AbortOptions = {}): Promise<DescribedPoint> {
    const kept = this.#kept.get(point.key)
    const described = kept ?? abortable(this.#read(point), options)
    this.#goAhead(point)
    return await described
  }

  async holdsOf({ id }: PointSummary, options: AbortOptions = {}): Promise<readonly Hold[]> {
    const now = this.#options.clock.monotonicMs()
    if (!this.#holds || now - this.#holds.atMs >= limits.mountHoldsMs) {
      const { control } = this.#options.repository.reading
      const listed = listHolds(control, { signal: this.#ended.signal }).then(({ holds }) => holds)
      const asked = { listed, atMs: now }
      this.#holds = asked
      listed.catch(() => {
        if (this.#holds === asked) this.#holds = undefined
      })
    }
    return (await abortable(this.#holds.listed, options)).filter(({ point }) => point === id)
  }

  #read(point: PointSummary): Promise<DescribedPoint> {
    const known = this.#underWay.get(point.key)
    if (known) return known
    const reading = this.#options.repository
      .manifest(point, { signal: this.#ended.signal })
      .then(manifest => {
        const described = describe(manifest)
        this.#kept.set(point.key, described)
        return described
      })
      .finally(() => this.#underWay.delete(point.key))
    this.#underWay.set(point.key, reading)
    return reading
  }

  /** From the second point in a row on. Who fails to be read ahead is nobody's yet: whoever comes to it meets that, and is told. */
  #goAhead(point: PointSummary): void {
    const isWalking = this.#expected.has(point.key)
    const next = this.#options.following(point, limits.mountManifestsAhead)
    this.#expected = new Set([point.key, ...next.map(({ key }) => key)])
    if (!isWalking) return
    for (const ahead of next) if (!this.#kept.has(ahead.key)) this.#read(ahead).catch(() => {})
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort()
    await Promise.allSettled([...this.#underWay.values(), this.#holds?.listed])
  }
}

function describe(manifest: Manifest): DescribedPoint {
  const { disks, firmwareVariables, lease: _lease, domain: _domain, point: id, ...rest } = manifest
  return {
    takenAt: manifest.takenAt,
    disks: disks.map(disk => ({ name: disk.name, size: disk.size, allocated: allocatedAtMost(disk) })),
    document: {
      id,
      ...rest,
      firmwareVariablesBytes: firmwareVariables?.length,
      disks: disks.map(({ top: _top, salt: _salt, root: _root, level: _level, ...disk }) => disk),
    },
  }
}

export const manifestText = ({ document }: DescribedPoint, holds: readonly Hold[]): string => {
  const told = holds.map(({ id, who, reason, created }) => ({ id, who, reason, created }))
  return `${JSON.stringify({ ...document, holds: told }, null, 2)}\n`
}

/** Objects take some three times their text. */
const memoryOf = ({ document, disks }: DescribedPoint): number =>
  512 + 128 * disks.length + 3 * JSON.stringify(document).length
