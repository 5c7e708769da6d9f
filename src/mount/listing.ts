/**
 * Which points there are, as the mount shows them: listed anew when somebody looks and the last listing is old. One listing
 * tells of all VMs and opens no manifest. While the store is away what was known stays, and what was not known is not said to be absent.
 */
import { abortable } from '../core/abortable.ts'
import type { Clock } from '../core/clock.ts'
import { messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { PointSummary, Repository } from '../repository/repository.ts'
import { safeName, timeName } from './names.ts'

export interface ListedVm {
  /** Safe. */
  readonly name: string
  /** Never another VM's, for as long as the mount lives. */
  readonly inode: bigint
  /** By name, ascending in time; never empty. */
  readonly points: ReadonlyMap<string, PointSummary>
  readonly latest: string
}

export interface Listing {
  /** Ascending by VM and time. */
  readonly points: readonly PointSummary[]
  /** By safe name, ascending. */
  readonly vms: ReadonlyMap<string, ListedVm>
  /** Of the newest point, or of the mount. */
  readonly modified: Date
  /** Why it could not be listed anew: it is what was there then, and there may be more by now. */
  readonly failure?: { readonly error: unknown }
}

/** Undefined: there is none of that name. What cannot be known while the store is away is an error. */
export function found<T>(value: T | undefined, { failure }: Listing): T | undefined {
  if (value === undefined && failure) throw failure.error
  return value
}

export interface PointListingOptions {
  readonly repository: Pick<Repository, 'points'>
  readonly clock: Clock
  readonly onTrouble: (message: string, error?: unknown) => void
}

export class PointListing implements AsyncDisposable {
  readonly #options: PointListingOptions
  readonly #begun: Date
  readonly #ended = new AbortController()
  readonly #inodes = new Map<string, bigint>()
  #known: Listing | undefined
  #askedAtMs = 0
  #asking: Promise<void> | undefined
  /** Of the first listing. */
  #failure: unknown

  constructor(options: PointListingOptions) {
    this.#options = options
    this.#begun = options.clock.now()
  }

  /** What comes after this point for one who walks through all, as far as it was listed. */
  following({ vm, key }: PointSummary, count: number): readonly PointSummary[] {
    const points = this.#known?.points ?? []
    // Keys of one VM are in order of time.
    let [from, to] = [0, points.length]
    while (from < to) {
      const middle = (from + to) >> 1
      const point = points[middle]!
      if (point.vm < vm || (point.vm === vm && point.key <= key)) from = middle + 1
      else to = middle
    }
    return points.slice(from, from + count)
  }

  async current(options: AbortOptions = {}): Promise<Listing> {
    const { clock } = this.#options
    if (!this.#asking && (!this.#known || clock.monotonicMs() - this.#askedAtMs >= limits.mountListMs))
      this.#asking = this.#ask()
    if (this.#asking) await (this.#known ? this.#patiently(this.#asking, options) : abortable(this.#asking, options))
    if (this.#known) return this.#known
    throw this.#failure
  }

  /** Patience counts from when the store was asked, for a path is many looks. */
  async #patiently(asking: Promise<void>, { signal }: AbortOptions): Promise<void> {
    const { clock } = this.#options
    const leftMs = this.#askedAtMs + limits.mountListPatienceMs - clock.monotonicMs()
    if (leftMs <= 0) return
    const done = new AbortController()
    const enough = signal ? AbortSignal.any([signal, done.signal]) : done.signal
    const patience = clock.sleep(leftMs, { signal: enough })
    patience.catch(() => {})
    try {
      await Promise.race([abortable(asking, { signal }), patience])
    } finally {
      done.abort()
    }
  }

  async #ask(): Promise<void> {
    const { repository, clock, onTrouble } = this.#options
    this.#askedAtMs = clock.monotonicMs()
    try {
      const summaries = await repository.points({ signal: this.#ended.signal })
      if (this.#known?.failure) onTrouble('the points can be listed again')
      this.#take(summaries)
    } catch (error) {
      // The next one to look tries again; the interval counts from here, for a store that is away takes its time to say so.
      this.#askedAtMs = clock.monotonicMs()
      this.#failure = error
      if (!this.#known || this.#ended.signal.aborted) return
      if (!this.#known.failure)
        onTrouble(`the points cannot be listed, what was known of them is shown: ${messageOf(error)}`)
      this.#known = { ...this.#known, failure: { error } }
    } finally {
      this.#asking = undefined
    }
  }

  /** A listing without news leaves everything as it is; one with news leaves each point what it was, for it may be open. */
  #take(summaries: readonly PointSummary[]): void {
    const known = this.#known
    const isOld =
      known && known.points.length === summaries.length && known.points.every((p, n) => p.key === summaries[n]!.key)
    if (isOld && !known.failure) return
    const before = new Map(known?.points.map(point => [point.key, point]))
    const points = summaries.map(point => before.get(point.key) ?? point)
    const vms = new Map<string, ListedVm>()
    for (const [vm, ofVm] of Map.groupBy(points, point => point.vm)) {
      const name = safeName(vm)
      const named = namedPoints(ofVm)
      vms.set(name, { name, inode: this.#inodeOf(vm), points: named, latest: [...named.keys()].at(-1)! })
    }
    const newest = points.reduce((time, { takenAt }) => Math.max(time, takenAt.getTime()), 0)
    this.#known = { points, vms, modified: points.length === 0 ? this.#begun : new Date(newest) }
  }

  #inodeOf(vm: string): bigint {
    const known = this.#inodes.get(vm)
    if (known !== undefined) return known
    const inode = BigInt(this.#inodes.size + 1)
    this.#inodes.set(vm, inode)
    return inode
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort()
    await this.#asking
  }
}

/** By time; where several were taken in one second, all of them bear their ids as well. */
export function namedPoints(ascending: readonly PointSummary[]): ReadonlyMap<string, PointSummary> {
  const bySecond = Map.groupBy(ascending, ({ takenAt }) => timeName(takenAt))
  const named = new Map<string, PointSummary>()
  for (const [time, points] of bySecond)
    for (const point of points) named.set(points.length === 1 ? time : `${time}-${point.id}`, point)
  return named
}
