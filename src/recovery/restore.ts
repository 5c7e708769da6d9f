/** Restores one disk of a point into a file or block device: many chunks under way, each written as it arrives, sparse, whole or not at all. */
import { chunkKey } from '../cache/chunk-cache.ts'
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import type { ChunkRef, ChunkSource, RecoveryPoint } from '../repository/repository.ts'
import type { Exporter } from './exporter.ts'
import { convertToQcow2 } from './restore-qcow2.ts'
import { type OutputOptions, openTarget, outputError, type RestoreTarget } from './restore-target.ts'

export interface RestoreProgress {
  /** Bytes of the disk that are done, zeros included. */
  readonly done: number
  readonly size: number
}

export interface RestoreOptions extends OutputOptions, AbortOptions {
  readonly format?: 'raw' | 'qcow2'
  readonly clock: Clock
  readonly progress?: (progress: RestoreProgress) => void
  /** Needed for qcow2, with a folder for a short-lived socket. */
  readonly exporter?: Exporter
  readonly runDir?: string
}

export interface RestoreResult {
  readonly output: string
  readonly format: 'raw' | 'qcow2'
  readonly size: number
  /** Into the output. */
  readonly bytesWritten: number
  /** Stored bytes of the chunks that were asked of the repository. */
  readonly bytesFetched: number
  readonly seconds: number
}

/** Figures that grow while a restore runs. */
export interface RestoreCounts {
  bytesWritten: number
  bytesFetched: number
}

/** Throws 'output-exists', 'no-such-disk', 'disk-full', 'output-failed' and what the chunk source throws; then nothing is at the output that was not there before, unless it was written in place. */
export async function restoreDisk(point: RecoveryPoint, disk: string, options: RestoreOptions): Promise<RestoreResult> {
  const { output, format = 'raw', clock, signal } = options
  const source = point.disk(disk)
  const started = clock.monotonicMs()
  const counts: RestoreCounts = { bytesWritten: 0, bytesFetched: 0 }
  signal?.throwIfAborted()
  if (format === 'qcow2') await convertToQcow2(source, options, counts)
  else await restoreRaw(source, options, counts)
  const seconds = (clock.monotonicMs() - started) / 1000
  return { output, format, size: source.size, ...counts, seconds }
}

async function restoreRaw(source: ChunkSource, options: RestoreOptions, counts: RestoreCounts): Promise<void> {
  const target = await openTarget(options, source.size)
  try {
    await copyChunks(source, target, options, counts)
    await target.finish()
  } catch (error) {
    await target.abandon()
    throw target.inPlace
      ? partlyWritten(options.output, outputError(options.output, error))
      : outputError(options.output, error)
  }
}

/** In place there is no way back; the same command run again finishes the work and writes only what is missing. */
function partlyWritten(output: string, error: unknown): unknown {
  if (!(error instanceof LifeboatError)) return error
  return new LifeboatError(error.code, `${error.message}; ${output} is partly overwritten`, {
    retry: error.retry,
    details: error.details,
    hint: `${error.details.hint ?? ''} Run the same command with --onto to finish: it writes only what differs.`.trim(),
    cause: error,
  })
}

async function copyChunks(
  source: ChunkSource,
  target: RestoreTarget,
  { onto = false, progress, signal }: RestoreOptions,
  counts: RestoreCounts,
): Promise<void> {
  const { size, chunkSize } = source
  const total = Math.ceil(size / chunkSize)
  const atOnce = Math.max(1, Math.floor(limits.restoreBatchBytes / chunkSize))
  let done = 0
  await forEachLimited(
    target.inPlace ? batches(total, atOnce) : presentBatches(source, total, atOnce, { signal }),
    limits.restoreBatchesInFlight,
    async (batch, within) => {
      await copyBatch(source, target, onto, batch, counts, within)
      done += Math.min(size, (batch.first + batch.count) * chunkSize) - batch.first * chunkSize
      progress?.({ done, size })
    },
    { signal },
  )
  if (done < size) progress?.({ done: size, size })
}

interface Batch {
  readonly first: number
  readonly count: number
}

function* batches(total: number, atOnce: number): Iterable<Batch> {
  for (let first = 0; first < total; first += atOnce) yield { first, count: Math.min(atOnce, total - first) }
}

/** Those with anything but zeros in them: a new file is zeros already, and 64 TiB of them cost next to nothing. */
async function* presentBatches(
  source: ChunkSource,
  total: number,
  atOnce: number,
  options: AbortOptions,
): AsyncIterable<Batch> {
  if (!source.spans) return yield* batches(total, atOnce)
  let next = 0
  for await (const { first, count, isPresent } of source.spans(0, total, options)) {
    const end = isPresent ? first + count : 0
    for (next = Math.max(next, first - (first % atOnce)); next < end; next += atOnce)
      yield { first: next, count: Math.min(atOnce, total - next) }
  }
}

/** One ref and all chunk indexes of the batch that have this content. */
interface Wanted {
  readonly ref: ChunkRef
  readonly indexes: number[]
}

async function copyBatch(
  source: ChunkSource,
  target: RestoreTarget,
  compare: boolean,
  { first, count }: Batch,
  counts: RestoreCounts,
  signal: AbortSignal,
): Promise<void> {
  const refs = await source.locate(first, count, { signal })
  const there = target.inPlace ? await readBatch(source, target, first, count) : undefined
  const same = there && compare ? await alreadyThere(source, refs, there) : undefined
  const writes = new WriteGroup(source, target, counts, signal)
  const wanted = new Map<string, Wanted>()
  for (const [i, ref] of refs.entries()) {
    if (!ref) {
      if (there && !isZero(there.subarray(i * source.chunkSize, (i + 1) * source.chunkSize)))
        writes.add(new Uint8Array(source.chunkSize), first + i)
    } else if (!same?.[i]) {
      const key = chunkKey(ref.id)
      const known = wanted.get(key)
      if (known) known.indexes.push(i)
      else wanted.set(key, { ref, indexes: [i] })
    }
  }
  const fetched = [...wanted.values()].map(({ ref }) => ref)
  for (const ref of fetched) counts.bytesFetched += ref.length
  const deliver = (ref: ChunkRef, content: Uint8Array) => {
    for (const i of wanted.get(chunkKey(ref.id))?.indexes ?? []) {
      const at = i * source.chunkSize
      if (!compare || !there || Buffer.compare(there.subarray(at, at + content.length), content) !== 0)
        writes.add(content, first + i)
    }
  }
  await writes.during(fetched.length === 0 ? undefined : within => source.fetch(fetched, deliver, { signal: within }))
}

/** What is at the target, whole chunks; past its end and the disk's, zeros. */
async function readBatch(
  source: ChunkSource,
  target: RestoreTarget,
  first: number,
  count: number,
): Promise<Uint8Array> {
  const there = new Uint8Array(count * source.chunkSize)
  const offset = first * source.chunkSize
  await target.read(there.subarray(0, Math.min(there.length, source.size - offset)), offset)
  return there
}

/** Flags of the chunks that need not even be fetched, where the source is able to tell. */
async function alreadyThere(
  source: ChunkSource,
  refs: readonly (ChunkRef | undefined)[],
  there: Uint8Array,
): Promise<Uint8Array | undefined> {
  if (!source.matches) return undefined
  const present = refs.flatMap((ref, i) => (ref ? [{ ref, i }] : []))
  const contents = new Uint8Array(present.length * source.chunkSize)
  for (const [n, { i }] of present.entries())
    contents.set(there.subarray(i * source.chunkSize, (i + 1) * source.chunkSize), n * source.chunkSize)
  const equal = await source.matches(
    present.map(({ ref }) => ref),
    contents,
  )
  const flags = new Uint8Array(refs.length)
  for (const [n, { i }] of present.entries()) flags[i] = equal[n]!
  return flags
}

const isZero = (bytes: Uint8Array): boolean => Buffer.compare(bytes, ZEROS.subarray(0, bytes.length)) === 0
const ZEROS = new Uint8Array(limits.chunkSizeMax)

/** The writes of one batch. The first that fails ends the fetch that feeds them. */
class WriteGroup {
  readonly #source: ChunkSource
  readonly #target: RestoreTarget
  readonly #counts: RestoreCounts
  readonly #failed = new AbortController()
  readonly #signal: AbortSignal
  readonly #running = new Set<Promise<void>>()

  constructor(source: ChunkSource, target: RestoreTarget, counts: RestoreCounts, signal: AbortSignal) {
    this.#source = source
    this.#target = target
    this.#counts = counts
    this.#signal = AbortSignal.any([signal, this.#failed.signal])
  }

  /** Writes the chunk, clipped to the disk. */
  add(content: Uint8Array, index: number): void {
    const offset = index * this.#source.chunkSize
    const bytes =
      offset + content.length > this.#source.size ? content.subarray(0, this.#source.size - offset) : content
    const task: Promise<void> = this.#target.write(bytes, offset).then(
      () => {
        this.#counts.bytesWritten += bytes.length
        this.#running.delete(task)
      },
      error => {
        this.#running.delete(task)
        this.#failed.abort(error)
      },
    )
    this.#running.add(task)
  }

  /** Runs `feed`, then waits for every write; no write runs any longer when this settles. */
  async during(feed: ((signal: AbortSignal) => Promise<void>) | undefined): Promise<void> {
    try {
      await feed?.(this.#signal)
    } finally {
      while (this.#running.size > 0) await Promise.all(this.#running)
    }
    this.#failed.signal.throwIfAborted()
  }
}
