import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { type DomainId, hex, type PackId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { OpenNode, Pipeline } from '../native/pipeline.ts'
import type { OpenFile } from '../native/sparse-file.ts'
import type { PackKind } from './pack-codec.ts'
import type { PackSecret, RecordKeys } from './record-keys.ts'
import type { ChunkRef } from './repository.ts'

export interface RecordRequest {
  readonly kind: PackKind
  readonly domain: DomainId
  /** Of data records. */
  readonly chunkSize: number
  /** 'all' recomputes each content id, 'sampled' 1 in 64. Ids of nodes are for the tree reader. */
  readonly checkIds: 'sampled' | 'all'
  /** Whose reads are told apart from others', so that they wait for their own kind only: a disk. */
  readonly owner?: object
  /** Memory for a content, chunkSize bytes; only where ids are sampled. Absent: fresh memory. */
  readonly targetOf?: (ref: ChunkRef) => Uint8Array
  /** False: not offered to the cache of this host. */
  readonly isKept?: boolean
  /** Contents go into a file instead; what is delivered is then empty. Only where ids are sampled. */
  readonly sink?: ChunkSink
}

export interface ChunkSink {
  readonly file: OpenFile
  /** The end of the disk, where its last chunk is cut off. */
  readonly end: number
  /** Where a content goes, bytes from the beginning of the file. */
  readonly offsetsOf: (ref: ChunkRef) => readonly number[]
}

/** Sealed bytes, with what they were sealed for: pack and slot of the origin. */
export interface SealedRecord {
  readonly object: string
  readonly pack: PackId
  readonly slot: number
  readonly id: Uint8Array
  readonly stored: Uint8Array
  readonly target?: Uint8Array
  /** With a sink. */
  readonly offsets?: readonly number[]
}

export interface RecordOpenerOptions {
  readonly pipeline: Pipeline
  readonly recordKeys: RecordKeys
  readonly random: Random
}

const WRITTEN = new Uint8Array(0)
const OTHER_CONTENT = 'holds another content than its id says'
const NO_KEY = new Uint8Array(32)

/** Opens records in batches; for each its content, or the error that names it. */
export class RecordOpener {
  readonly #options: RecordOpenerOptions
  #dice: Uint8Array = new Uint8Array(0)
  #thrown = 0

  constructor(options: RecordOpenerOptions) {
    this.#options = options
  }

  async open(
    request: RecordRequest,
    records: readonly SealedRecord[],
    options: AbortOptions,
  ): Promise<(Uint8Array | LifeboatError)[]> {
    try {
      return await this.#openBatch(request, records, options)
    } catch (error) {
      if (!isLifeboatError(error, 'corrupt-object')) throw error
      const [only] = records
      const what = error.details.reason === 'id' ? OTHER_CONTENT : undefined
      if (records.length === 1 && only) return [damaged(only, request, error, what)]
    }
    // A batch fails as a whole: one by one tells the good from the bad.
    const results: (Uint8Array | LifeboatError)[] = []
    for (const record of records) results.push(...(await this.open(request, [record], options)))
    return results
  }

  async #openBatch(
    request: RecordRequest,
    records: readonly SealedRecord[],
    options: AbortOptions,
  ): Promise<(Uint8Array | LifeboatError)[]> {
    const { recordKeys, pipeline } = this.#options
    const batch: OpenNode[] = []
    let secret: ({ readonly of: PackId } & PackSecret) | undefined
    for (const { pack, slot, id, stored } of records) {
      // Records of a run mostly come from one pack.
      if (secret?.of !== pack)
        secret = { of: pack, ...(await recordKeys.of(request.kind, request.domain, pack, options)) }
      batch.push({ stored, slot, id, key: secret.key, aadPrefix: secret.aadPrefix })
    }
    if (request.kind === 'meta') return pipeline.openNodes(batch)
    if (request.sink) {
      await this.#write(request.sink, request, records, batch, options)
      return batch.map(() => WRITTEN)
    }
    const targets = targetsOf(records, request)
    await pipeline.openChunks(batch.map((record, n) => ({ ...record, target: targets.chunks[n]! })))
    const results: (Uint8Array | LifeboatError)[] = targets.chunks
    if (request.checkIds === 'all') await this.#checkIds(request, records, targets.whole, results, options)
    else
      for (const [n, record] of records.entries())
        if (this.#isSampled()) {
          const checked: (Uint8Array | LifeboatError)[] = [targets.chunks[n]!]
          await this.#checkIds(request, [record], targets.chunks[n]!, checked, options)
          results[n] = checked[0]!
        }
    return results
  }

  async #write(
    { file, end }: ChunkSink,
    { domain, chunkSize }: RecordRequest,
    records: readonly SealedRecord[],
    batch: readonly OpenNode[],
    options: AbortOptions,
  ): Promise<void> {
    const [first] = records
    if (!first) return
    const { recordKeys, pipeline } = this.#options
    // The id keys of all epochs of a domain are the same.
    const { chunkIdKey } = await recordKeys.domain(domain, first.pack, options)
    await pipeline.writeChunks(
      batch.map((record, n) => ({
        ...record,
        offsets: records[n]?.offsets ?? [],
        checkId: chunkIdKey !== undefined && this.#isSampled(),
      })),
      { file, chunkSize, end, idKey: chunkIdKey ?? NO_KEY },
    )
  }

  /** Replaces the contents in `results` whose recomputed id is another than their entry's. */
  async #checkIds(
    request: RecordRequest,
    records: readonly SealedRecord[],
    whole: Uint8Array,
    results: (Uint8Array | LifeboatError)[],
    options: AbortOptions,
  ): Promise<void> {
    const [first] = records
    if (!first) return
    // The id keys of all epochs of a domain are the same.
    const { chunkIdKey } = await this.#options.recordKeys.domain(request.domain, first.pack, options)
    if (!chunkIdKey) return
    const { ids, zero } = await this.#options.pipeline.digestChunks(whole, request.chunkSize, chunkIdKey)
    for (const [n, record] of records.entries())
      if (zero[n] === 1 || Buffer.compare(ids.subarray(n * 32, n * 32 + 32), record.id) !== 0)
        results[n] = damaged(record, request, undefined, OTHER_CONTENT)
  }

  #isSampled(): boolean {
    if (this.#thrown === this.#dice.length) {
      this.#dice = this.#options.random(1024)
      this.#thrown = 0
    }
    return this.#dice[this.#thrown++]! % limits.idCheckOneIn === 0
  }
}

/**
 * Memory for contents, not zeroed: it leaves here only when it has been filled. Each chunk has its own, because its
 * receiver may keep it for long; where all ids are checked it is one piece, which is digested at once.
 */
function targetsOf(records: readonly SealedRecord[], { chunkSize, checkIds }: RecordRequest) {
  if (checkIds === 'sampled') {
    const chunks = records.map(({ target }) => target ?? new Uint8Array(Buffer.allocUnsafeSlow(chunkSize).buffer))
    return { chunks, whole: new Uint8Array(0) }
  }
  const whole = new Uint8Array(Buffer.allocUnsafeSlow(chunkSize * records.length).buffer)
  const chunks = records.map((_, n) => whole.subarray(n * chunkSize, (n + 1) * chunkSize))
  return { chunks, whole }
}

function damaged(
  { object, pack, slot, id }: SealedRecord,
  { kind }: RecordRequest,
  cause: unknown,
  what = 'does not authenticate',
): LifeboatError {
  const noun = kind === 'data' ? 'chunk' : 'tree node'
  return new LifeboatError('corrupt-object', `The ${noun} in slot ${slot} of ${object} ${what}`, {
    details: { object, pack, slot, content: hex(id) },
    hint: 'Run `lifeboat verify` to see which points and disk ranges it harms; other points still restore.',
    cause,
  })
}
