/** Restores one disk of a point into a file or block device: many chunks under way, in order within a batch, sparse, whole or not at all. */
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
  const atOnce = chunksAtOnce(chunkSize)
  const copy: Copy = { source, target, compare: onto, counts, atOnce, buffers: [] }
  let done = 0
  await forEachLimited(
    target.inPlace ? batches(total, atOnce) : presentBatches(source, total, atOnce, { signal }),
    limits.restoreBatchesInFlight,
    async (batch, within) => {
      await copyBatch(copy, batch, within)
      done += Math.min(size, (batch.first + batch.count) * chunkSize) - batch.first * chunkSize
      progress?.({ done, size })
    },
    { signal },
  )
  if (done < size) progress?.({ done: size, size })
}

export const chunksAtOnce = (chunkSize: number): number => Math.max(1, Math.floor(limits.restoreBatchBytes / chunkSize))

interface Copy {
  readonly source: ChunkSource
  readonly target: RestoreTarget
  readonly compare: boolean
  readonly counts: RestoreCounts
  /** Chunks of a batch. */
  readonly atOnce: number
  /**
   * For one batch each; they are used again, because V8 answers 64 MiB of new buffers with a full collection: with fresh
   * memory for each chunk, half of a restore's CPU was garbage collection.
   */
  readonly buffers: Uint8Array[]
}

export interface Batch {
  readonly first: number
  readonly count: number
}

function* batches(total: number, atOnce: number): Iterable<Batch> {
  for (let first = 0; first < total; first += atOnce) yield { first, count: Math.min(atOnce, total - first) }
}

/** The batches of a restore to a new file: those with anything but zeros in them. A new file is zeros already, and 64 TiB of them cost next to nothing. */
export async function* presentBatches(
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

async function copyBatch(copy: Copy, batch: Batch, signal: AbortSignal): Promise<void> {
  const { source, target, compare } = copy
  const refs = await source.locate(batch.first, batch.count, { signal })
  const there = target.inPlace ? await readBatch(source, target, batch.first, batch.count) : undefined
  if (source.writeTo && !compare) await writeBatch(copy, batch, refs, there, signal)
  else await mergeBatch(copy, batch, refs, there, signal)
}

/** Contents go from where they are decoded into the file; here only zeros are written, where there is something else. */
async function writeBatch(
  { source, target, counts }: Copy,
  { first }: Batch,
  refs: readonly (ChunkRef | undefined)[],
  there: Uint8Array | undefined,
  signal: AbortSignal,
): Promise<void> {
  const { size, chunkSize } = source
  const offsets = new Map<string, number[]>()
  const places = new Map<ChunkRef, readonly number[]>()
  for (const [i, ref] of refs.entries()) {
    const offset = (first + i) * chunkSize
    const length = Math.min(chunkSize, size - offset)
    if (ref) {
      const key = chunkKey(ref.id)
      const known = offsets.get(key)
      if (known) known.push(offset)
      else {
        const own = [offset]
        offsets.set(key, own)
        places.set(ref, own)
        counts.bytesFetched += ref.length
      }
    } else {
      if (!there || isZero(there.subarray(i * chunkSize, (i + 1) * chunkSize))) continue
      await target.write(ZEROS.subarray(0, length), offset)
    }
    counts.bytesWritten += length
  }
  if (places.size > 0) await source.writeTo?.(target.file, places, { signal })
}

/** A batch's contents are decoded to where they stand in one buffer, and leave it in as few writes as there are runs. */
async function mergeBatch(
  { source, target, compare, counts, atOnce, buffers }: Copy,
  { first, count }: Batch,
  refs: readonly (ChunkRef | undefined)[],
  there: Uint8Array | undefined,
  signal: AbortSignal,
): Promise<void> {
  const { chunkSize } = source
  const same = there && compare ? await alreadyThere(source, refs, there) : undefined
  const content = buffers.pop() ?? new Uint8Array(Buffer.allocUnsafeSlow(atOnce * chunkSize).buffer)
  const chunkOf = (bytes: Uint8Array, i: number) => bytes.subarray(i * chunkSize, (i + 1) * chunkSize)
  const isWritten = new Uint8Array(count)
  const wanted = new Map<string, Wanted>()
  for (const [i, ref] of refs.entries()) {
    if (!ref) {
      if (!there || isZero(chunkOf(there, i))) continue
      chunkOf(content, i).fill(0)
      isWritten[i] = 1
    } else if (!same?.[i]) {
      const key = chunkKey(ref.id)
      const known = wanted.get(key)
      if (known) known.indexes.push(i)
      else wanted.set(key, { ref, indexes: [i] })
    }
  }
  const indexesOf = new Map<ChunkRef, readonly number[]>()
  for (const { ref, indexes } of wanted.values()) {
    indexesOf.set(ref, indexes)
    counts.bytesFetched += ref.length
  }
  const targetOf = (ref: ChunkRef) => chunkOf(content, indexesOf.get(ref)?.[0] ?? 0)
  const deliver = (ref: ChunkRef, bytes: Uint8Array) => {
    for (const i of indexesOf.get(ref) ?? []) {
      const place = chunkOf(content, i)
      if (place.byteOffset !== bytes.byteOffset || place.buffer !== bytes.buffer) place.set(bytes)
      if (!compare || !there || Buffer.compare(chunkOf(there, i), bytes) !== 0) isWritten[i] = 1
    }
  }
  if (indexesOf.size > 0) await source.fetch([...indexesOf.keys()], deliver, { signal, targetOf })
  for (const run of runsOf(isWritten)) {
    signal.throwIfAborted()
    const offset = (first + run.first) * chunkSize
    const end = Math.min(source.size, offset + run.count * chunkSize)
    await target.write(content.subarray(run.first * chunkSize, run.first * chunkSize + end - offset), offset)
    counts.bytesWritten += end - offset
  }
  // Not after a failure: then it is the garbage collector's, whoever may still write into it.
  buffers.push(content)
}

function* runsOf(flags: Uint8Array): Iterable<Batch> {
  for (let at = flags.indexOf(1); at >= 0; ) {
    const zero = flags.indexOf(0, at)
    const end = zero < 0 ? flags.length : zero
    yield { first: at, count: end - at }
    at = flags.indexOf(1, end)
  }
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
