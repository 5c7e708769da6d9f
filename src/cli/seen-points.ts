/**
 * Which points this host has seen in a repository. Whoever can write to the store can remove the newest points, or put an old
 * copy of all of it in place, and every object still authenticates: only somebody who remembers notices. A point may go when it was
 * forgotten, which leaves an audit entry; any other that goes raises an alarm.
 */
import { createHash } from 'node:crypto'
import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { parsePointKey } from '../repository/object-keys.ts'
import type { PointSummary } from '../repository/repository.ts'
import type { ChainLink } from '../repository/verify-chain.ts'
import { readSmallFile } from './host-files.ts'

/** Manifest keys of the points whose forgetting the audit tells since `since`. */
export type ForgottenSince = (since: Date, options: AbortOptions) => Promise<ReadonlySet<string>>

export interface SeenPointsRequest {
  readonly stateDir: string
  readonly url: string
  readonly now: () => Date
  readonly forgottenSince: ForgottenSince
}

interface Seen {
  /** Of the manifest, once it was read whole; else ''. */
  readonly digest: string
  /** When it was last listed. */
  readonly at: number
}

const fileOf = (stateDir: string, url: string): string =>
  path.join(stateDir, 'seen', `${createHash('sha256').update(url).digest('hex').slice(0, 32)}.json`)

/** An audit entry bears the time of the host that wrote it. */
const CLOCKS_APART_MS = 24 * 3_600_000

export class SeenPoints {
  readonly #request: SeenPointsRequest
  readonly #file: string
  /** By manifest key, which names VM, time and point. */
  readonly #points: Map<string, Seen>
  readonly #missing = new Set<string>()
  /** What this process has to say; the file is read again before it is written, for others remember as well. */
  #changes = new Map<string, Seen | undefined>()

  private constructor(request: SeenPointsRequest, points: Map<string, Seen>) {
    this.#request = request
    this.#file = fileOf(request.stateDir, request.url)
    this.#points = points
  }

  /** A file that cannot be read is as good as none: the alarm begins anew. */
  static async load(request: SeenPointsRequest): Promise<SeenPoints> {
    return new SeenPoints(request, await readSeen(fileOf(request.stateDir, request.url)))
  }

  /** Keys of points that are gone without a trace, as far as was listed. */
  get missing(): readonly string[] {
    return [...this.#missing].sort()
  }

  /** `listed`: all of the repository or of `vm`, also void and forgotten ones. Gives those whose loss is new to this process. */
  async listed(
    listed: readonly PointSummary[],
    vm: string | undefined,
    options: AbortOptions = {},
  ): Promise<readonly string[]> {
    const now = this.#request.now().getTime()
    const there = new Map(listed.map(point => [point.key, point.state]))
    const gone: string[] = []
    let since = now
    for (const [key, { at }] of this.#points) {
      if (vm !== undefined && parsePointKey(key)?.vm !== vm) continue
      const state = there.get(key)
      // Whoever saw its mark expects it to go.
      if (state !== undefined && state !== 'committed') this.#drop(key)
      if (state !== undefined) continue
      gone.push(key)
      since = Math.min(since, at)
    }
    for (const { key, state } of listed) if (state === 'committed' && this.#points.has(key)) this.#add(key, now)
    const fresh = gone.length === 0 ? [] : await this.#unexplained(gone, new Date(since - CLOCKS_APART_MS), options)
    await this.save()
    return fresh
  }

  /** Its manifest authenticated, or was written here: a name in a listing alone may be planted, to raise an alarm when it goes. */
  proven(key: string): void {
    this.#add(key, this.#request.now().getTime())
  }

  /** Points that are there under their names and are not what they were. */
  async exchanged(links: readonly (ChainLink & { readonly key: string })[]): Promise<readonly string[]> {
    const exchanged: string[] = []
    for (const { key, digest } of links) {
      const seen = this.#points.get(key)
      if (seen?.digest === digest) continue
      if (seen && seen.digest !== '') exchanged.push(key)
      else this.#set(key, { at: seen?.at ?? this.#request.now().getTime(), digest })
    }
    await this.save()
    return exchanged
  }

  /** The loss is known, and no longer an alarm. */
  async accept(keys: readonly string[]): Promise<void> {
    for (const key of keys) this.#drop(key)
    this.#missing.clear()
    await this.save()
  }

  async #unexplained(gone: readonly string[], since: Date, options: AbortOptions): Promise<readonly string[]> {
    const forgotten = await this.#request.forgottenSince(since, options)
    const fresh: string[] = []
    for (const key of gone)
      if (forgotten.has(key)) this.#drop(key)
      else if (!this.#missing.has(key)) {
        this.#missing.add(key)
        fresh.push(key)
      }
    return fresh
  }

  #add(key: string, at: number): void {
    const known = this.#points.get(key)
    if (known && at - known.at < REFRESH_MS) return
    this.#set(key, { digest: known?.digest ?? '', at })
  }

  #set(key: string, seen: Seen): void {
    this.#points.set(key, seen)
    this.#changes.set(key, seen)
  }

  #drop(key: string): void {
    if (this.#points.delete(key)) this.#changes.set(key, undefined)
  }

  /** To be called when what was proven is to be remembered. */
  async save(): Promise<void> {
    if (this.#changes.size === 0) return
    const merged = await readSeen(this.#file)
    for (const [key, seen] of this.#changes) {
      merged.delete(key)
      if (seen) merged.set(key, seen)
    }
    this.#changes = new Map()
    for (const key of merged.keys()) {
      if (merged.size <= limits.seenPointsMax) break
      merged.delete(key)
    }
    const points = Object.fromEntries([...merged].map(([key, { digest, at }]) => [key, [at, digest]]))
    const temporary = `${this.#file}.${process.pid}`
    try {
      await mkdir(path.dirname(this.#file), { recursive: true, mode: 0o700 })
      await writeFile(temporary, `${JSON.stringify({ url: this.#request.url, points })}\n`, { mode: 0o600 })
      await rename(temporary, this.#file)
    } catch (error) {
      await rm(temporary, { force: true })
      // A host that may not remember can still restore.
      if (!(error instanceof Error && 'code' in error)) throw new Error(messageOf(error), { cause: error })
    }
  }
}

/** How stale the time of the last listing may be, so that a listing without news writes nothing. */
const REFRESH_MS = 3_600_000

async function readSeen(file: string): Promise<Map<string, Seen>> {
  try {
    return new Map(entriesOf(JSON.parse(await readSmallFile(file, limits.seenFileMax))))
  } catch {
    return new Map()
  }
}

function* entriesOf(document: unknown): Iterable<[string, Seen]> {
  if (typeof document !== 'object' || document === null || !('points' in document)) return
  const { points } = document
  if (typeof points !== 'object' || points === null) return
  for (const [key, value] of Object.entries(points)) {
    if (!parsePointKey(key) || !Array.isArray(value)) continue
    const [at, digest]: readonly unknown[] = value
    if (typeof at === 'number' && typeof digest === 'string') yield [key, { at, digest }]
  }
}
