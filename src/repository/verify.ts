/**
 * Proves that points can be read: every node and chunk authenticated and its content id recomputed, each stored record once
 * however many points share it. It never stops at a failure, and says of each which points and disk ranges it harms.
 */
import { unhex } from '../core/ids.ts'
import { limits, MiB } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { EntrySums } from './entry-sums.ts'
import { topRoot } from './node-codec.ts'
import { packKey } from './object-keys.ts'
import type { OpenedRepository } from './open.ts'
import { idPrefixBytes, type PackKind } from './pack-codec.ts'
import { PlaceSet } from './place-set.ts'
import type { ReadPlan } from './read-plan.ts'
import { openRecoveryPoint, openTree, type ReadContext } from './recovery-point.ts'
import type { ChunkRef, Manifest, ManifestDisk, PointSummary } from './repository.ts'
import type { TreeReader } from './tree-reader.ts'
import { type WalkedRecord, walkTree } from './tree-walk.ts'
import { FooterCheck } from './verify-footers.ts'
import { addHarm, type Problem, ProblemLog, type VerifyProblem } from './verify-problems.ts'

export interface VerifyResult {
  /** Points that were opened. */
  readonly points: number
  /** Records that authenticated: nodes and chunks. */
  readonly checked: number
  /** Their stored bytes. */
  readonly bytes: number
  readonly problems: readonly VerifyProblem[]
}

export interface VerifyRequest extends AbortOptions {
  readonly points: readonly PointSummary[]
  /** Of the chunks; nodes are always read. 100 by default. */
  readonly samplePercent?: number
  readonly progress?: (done: { readonly checked: number; readonly bytes: number }) => void
  /** Chunks that an interrupted run has proven: not read again. Those that this run proves are added. */
  readonly proven?: PlaceSet
  /** Told of each record once, before it is read. */
  readonly visit?: (ref: ChunkRef) => void
  /** For a dry run: chunks are entered here instead of being read. Nodes are read: they say which chunks there are. */
  readonly plan?: ReadPlan
}

/** Chunks in one go, so that neighbours share GETs; their contents are dropped as soon as they were checked. */
const BATCH_BYTES = 32 * MiB

export async function verifyPoints(
  { reading }: Pick<OpenedRepository, 'reading'>,
  { points, samplePercent = 100, signal, ...rest }: VerifyRequest,
): Promise<VerifyResult> {
  const run = new VerifyRun(reading, samplePercent / 100, rest)
  const opened: Manifest[] = []
  for (const point of points) {
    signal?.throwIfAborted()
    const manifest = await run.point(point, { signal })
    if (manifest) opened.push(manifest)
  }
  await run.footers({ signal })
  // Only now is known what is bad; a record that one point passed over because another had read it harms both.
  if (run.hasDamage) for (const manifest of opened) await run.attribute(manifest, { signal })
  await run.settleFooters({ signal })
  return { points: opened.length, checked: run.checked, bytes: run.bytes, problems: run.problems() }
}

/** The same for a manifest that no reader opens, because its point is void. */
export async function verifyManifest(
  { reading }: Pick<OpenedRepository, 'reading'>,
  point: PointSummary,
  manifest: Manifest,
  { signal, ...request }: Pick<VerifyRequest, 'progress' | 'visit' | 'signal'>,
): Promise<VerifyResult> {
  const run = new VerifyRun(reading, 1, request)
  await run.disks(point, manifest, { signal })
  return { points: 1, checked: run.checked, bytes: run.bytes, problems: run.problems() }
}

class VerifyRun {
  checked = 0
  bytes = 0
  readonly #context: ReadContext
  readonly #fraction: number
  readonly #progress: VerifyRequest['progress']
  readonly #plan: ReadPlan | undefined
  readonly #proven: PlaceSet | undefined
  readonly #visit: VerifyRequest['visit']
  readonly #seen = new PlaceSet()
  readonly #bad = new PlaceSet()
  readonly #sums = new EntrySums()
  readonly #footers: FooterCheck
  readonly #problems = new ProblemLog()
  /** By record, what is wrong with it. */
  readonly #problemOf = new Map<string, Problem>()

  constructor(
    context: ReadContext,
    fraction: number,
    { progress, plan, proven, visit }: Pick<VerifyRequest, 'progress' | 'plan' | 'proven' | 'visit'>,
  ) {
    this.#context = context
    this.#fraction = fraction
    this.#progress = progress
    this.#proven = proven
    this.#visit = visit
    this.#footers = new FooterCheck(context, this.#sums, this.#seen)
    this.#plan = plan
  }

  get hasDamage(): boolean {
    return this.#problemOf.size > 0 || this.#footers.hasBad
  }

  /** Compares what all trees said of their packs with what the packs say. */
  async footers(options: AbortOptions): Promise<void> {
    if (this.#plan) for (const [, { count }] of this.#sums) this.#plan.addFooter(count)
    else await this.#footers.run(options)
  }

  /** A pack whose own description is lost is no problem once all that points need of it lies in other objects. */
  async settleFooters(options: AbortOptions): Promise<void> {
    for (const { object, error, records } of await this.#footers.unhealed(options)) {
      const problem = this.#problems.note(error, object)
      for (const [slot, content] of records) problem.records.set(slot, content)
    }
  }

  /** Checks what no point before it has checked. Undefined where it cannot be opened at all. */
  async point(summary: PointSummary, options: AbortOptions): Promise<Manifest | undefined> {
    try {
      await using point = await openRecoveryPoint(this.#context, summary, { pin: 'verify', ...options })
      await this.disks(summary, point.manifest, options)
      return point.manifest
    } catch (error) {
      options.signal?.throwIfAborted()
      this.#problems.note(error, summary.key).points.add(summary.id)
      return undefined
    }
  }

  async disks(summary: PointSummary, manifest: Manifest, options: AbortOptions): Promise<void> {
    for (const disk of manifest.disks)
      await this.#guarded(summary, disk.name, options, () => this.#disk(summary, manifest, disk, options))
  }

  /** Finds the bad records in a point's trees and notes whom they harm. */
  async attribute(manifest: Manifest, options: AbortOptions): Promise<void> {
    for (const disk of manifest.disks) {
      const note = ({ ref, range }: WalkedRecord) => {
        this.#footers.note(ref)
        const problem = this.#bad.has(ref) ? this.#problemOf.get(nameOf(ref)) : undefined
        if (problem) addHarm(problem, manifest.point, disk.name, range)
      }
      // What fails here has failed before, and was noted then.
      const visitor = {
        enters: (record: WalkedRecord) => {
          note(record)
          return !this.#bad.has(record.ref)
        },
        read: () => {},
        failed: () => {},
      }
      await using tree = openTree(this.#context, manifest, disk)
      for await (const chunks of walkTree(tree, visitor, options)) for (const chunk of chunks) note(chunk)
    }
  }

  problems(): VerifyProblem[] {
    return this.#problems.list()
  }

  async #guarded(summary: PointSummary, disk: string, options: AbortOptions, work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      options.signal?.throwIfAborted()
      const problem = this.#problems.note(error, summary.key)
      problem.points.add(summary.id)
      problem.harmed.set(`${summary.id}/${disk}`, { point: summary.id, disk, ranges: [] })
    }
  }

  async #disk(summary: PointSummary, manifest: Manifest, disk: ManifestDisk, options: AbortOptions): Promise<void> {
    await using tree = openTree(this.#context, manifest, disk)
    const root = topRoot(unhex(disk.salt), tree.geometry, tree.top)
    if (Buffer.compare(root, unhex(disk.root)) !== 0)
      addHarm(
        this.#problems.problem(summary.key, 'corrupt', `the root of disk ${disk.name} is not that of its entries`),
        summary.id,
        disk.name,
        { offset: 0, length: disk.size },
      )
    // Two batches: one is fetched while the other is decoded.
    await forEachLimited(
      this.#batches(tree, options),
      2,
      (batch, signal) => this.#chunks(tree, batch, { signal }),
      options,
    )
  }

  async *#batches(tree: TreeReader, options: AbortOptions): AsyncIterable<readonly ChunkRef[]> {
    const visitor = {
      enters: ({ ref }: WalkedRecord) => this.#isNew('meta', tree, ref),
      read: ({ ref }: WalkedRecord) => this.#good(ref),
      failed: ({ ref }: WalkedRecord, error: unknown) => this.#failed(tree, 'meta', ref, error),
    }
    const size = Math.max(limits.leafWidth, BATCH_BYTES / tree.geometry.chunkSize)
    let batch: ChunkRef[] = []
    for await (const chunks of walkTree(tree, visitor, options)) {
      for (const { ref } of chunks)
        if (this.#isNew('data', tree, ref) && !this.#proven?.has(ref) && this.#isSampled()) batch.push(ref)
      if (batch.length < size) continue
      yield batch
      batch = []
    }
    if (batch.length > 0) yield batch
  }

  async #chunks(tree: TreeReader, batch: readonly ChunkRef[], options: AbortOptions): Promise<void> {
    if (this.#plan) {
      this.#plan.add(batch, tree.geometry.chunkSize)
      return
    }
    const { domain } = tree
    const request = { kind: 'data', domain, chunkSize: tree.geometry.chunkSize, checkIds: 'all' } as const
    const receiver = {
      deliver: (ref: ChunkRef) => {
        this.#proven?.add(ref)
        this.#good(ref)
      },
      fail: (ref: ChunkRef, error: unknown) => {
        if (!options.signal?.aborted) this.#failed(tree, 'data', ref, error)
      },
    }
    await this.#context.records.read(request, batch, receiver, options)
    this.#progress?.({ checked: this.checked, bytes: this.bytes })
  }

  #isNew(kind: PackKind, { domain }: TreeReader, ref: ChunkRef): boolean {
    const isNew = this.#seen.add(ref)
    if (!isNew) return false
    this.#sums.add(kind, domain, ref)
    this.#visit?.(ref)
    return true
  }

  #good(ref: ChunkRef): void {
    this.checked++
    this.bytes += ref.length
  }

  #failed({ domain }: TreeReader, kind: PackKind, ref: ChunkRef, error: unknown): void {
    const problem = this.#problems.note(error, packKey(kind, domain, ref.pack))
    problem.records.set(ref.slot, ref.id.slice(0, idPrefixBytes))
    this.#bad.add(ref)
    this.#problemOf.set(nameOf(ref), problem)
  }

  #isSampled(): boolean {
    return this.#fraction >= 1 || drawFraction(this.#context.random) < this.#fraction
  }
}

const nameOf = ({ pack, slot }: ChunkRef): string => `${pack}/${slot}`

function drawFraction(random: Random): number {
  const [high = 0, low = 0] = random(2)
  return (high * 256 + low) / 65_536
}
