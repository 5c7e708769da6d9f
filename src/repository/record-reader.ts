/**
 * Records of packs, fetched and opened: neighbours in one ranged GET, several in flight, each authenticated for its place
 * and content id. What is not where its entry says, or is damaged there, is looked for in the rewritten objects of its pack
 * (READER step 5). One failed record never takes others with it.
 */
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { hex, type PackId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { Pipeline } from '../native/pipeline.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import type { ObjectVersion } from '../storage/versioned-store.ts'
import { ShadowedObjects } from './authentic.ts'
import { CachedRecords } from './cached-records.ts'
import { FairGate } from './fair-gate.ts'
import type { Keyring } from './keyring.ts'
import { packKey } from './object-keys.ts'
import type { RecordCache } from './record-cache.ts'
import { RecordKeys } from './record-keys.ts'
import { RecordOpener, type RecordRequest } from './record-opener.ts'
import { planRuns, type RecordRun, runLimitsOf } from './record-runs.ts'
import type { ChunkRef, ContentOrigin } from './repository.ts'
import { RewrittenPacks } from './rewritten-packs.ts'

/** Told of each record once, in any order. */
export interface RecordReceiver {
  deliver(ref: ChunkRef, content: Uint8Array, from: ContentOrigin): void
  /** An integrity error names object, pack and slot; others come from the store. */
  fail(ref: ChunkRef, error: unknown): void
}

export interface RecordReaderOptions {
  readonly store: ObjectStore
  readonly keyring: Keyring
  readonly pipeline: Pipeline
  readonly random: Random
  /** On this host; looked into before the store is asked. */
  readonly cache?: RecordCache
}

/** Where a record is read, and what it was sealed for. */
interface Placed {
  readonly ref: ChunkRef
  readonly pack: PackId
  readonly slot: number
  readonly offset: number
  readonly length: number
}

/** Records of one pack that are wanted, and what went wrong with each so far. */
interface Work extends AbortOptions {
  readonly request: RecordRequest
  readonly pack: PackId
  readonly left: Map<ChunkRef, LifeboatError | undefined>
  readonly receiver: RecordReceiver
}

export class RecordReader {
  readonly #store: ObjectStore
  readonly #opener: RecordOpener
  readonly #rewritten: RewrittenPacks
  readonly #shadowed: ShadowedObjects
  readonly #cached: CachedRecords | undefined
  /** One for all readers of a repository: what the store and this host's memory are asked for at once. */
  readonly #gate = new FairGate({
    perOwner: limits.getsInFlight,
    total: limits.getsInFlightOfAll,
    totalBytes: limits.getBytesInFlight,
    share: limits.getsInFlightShare,
  })

  constructor({ store, keyring, pipeline, random, cache }: RecordReaderOptions) {
    const recordKeys = new RecordKeys(keyring)
    this.#store = store
    this.#shadowed = new ShadowedObjects(store)
    this.#opener = new RecordOpener({ pipeline, recordKeys, random })
    const { repository } = keyring.repository
    this.#rewritten = new RewrittenPacks({ store, repository, recordKeys })
    this.#cached = cache && new CachedRecords({ cache, repository, opener: this.#opener })
  }

  /** Each ref must be an object of its own. Resolves when each was delivered or failed; rejects with the signal's reason only. */
  async read(
    request: RecordRequest,
    refs: readonly ChunkRef[],
    receiver: RecordReceiver,
    { signal }: AbortOptions = {},
  ): Promise<void> {
    const isKept = (ref: ChunkRef) => this.#cached?.has(request, ref) === true
    const kept = new Set(this.#cached && refs.filter(isKept))
    const absent = kept.size === 0 ? refs : refs.filter(ref => !kept.has(ref))
    // None rejects: every failure has gone to the receiver.
    await Promise.all([
      this.#readKept(request, [...kept], receiver, { signal }),
      this.#readStored(request, absent, receiver, { signal }),
    ])
    signal?.throwIfAborted()
  }

  /** From the cache of this host, and what is not good there from the store after all. */
  async #readKept(
    request: RecordRequest,
    refs: readonly ChunkRef[],
    receiver: RecordReceiver,
    options: AbortOptions,
  ): Promise<void> {
    if (!this.#cached || refs.length === 0) return
    const left = await this.#cached.read(request, refs, receiver, options)
    await this.#readStored(request, left, receiver, options)
  }

  async #readStored(
    request: RecordRequest,
    refs: readonly ChunkRef[],
    receiver: RecordReceiver,
    { signal }: AbortOptions,
  ): Promise<void> {
    const tasks: Promise<void>[] = []
    for (const [pack, ofPack] of Map.groupBy(refs, ref => ref.pack))
      for (const { records, length } of planRuns(ofPack, runLimitsOf(request))) {
        const left = new Map(records.map(ref => [ref, undefined]))
        const work = { request, pack, left, receiver, signal }
        tasks.push(this.#admitted(work, length, () => this.#readRun(work)))
      }
    await Promise.all(tasks)
  }

  /** Rejects only as `read` does. Who is interrupted while he waits for his turn leaves his records to the receiver. */
  async #admitted(work: Work, bytes: number, read: () => Promise<void>): Promise<void> {
    const { request, signal, left, receiver } = work
    let isAdmitted = false
    const admitted = () => {
      isAdmitted = true
      return read()
    }
    await this.#gate.run(request.owner ?? this, bytes, admitted, { signal }).catch(error => {
      if (isAdmitted) throw error
      for (const ref of left.keys()) receiver.fail(ref, error)
    })
  }

  /**
   * All versions of those of these records that were repaired. A node that another writer has stored under the same id points to that
   * writer's packs (docs/concurrency.md, section 11): who marks must mark what each of them reaches. What authenticates is delivered.
   */
  async readVersions(
    request: RecordRequest,
    refs: readonly ChunkRef[],
    deliver: RecordReceiver['deliver'],
    { signal }: AbortOptions = {},
  ): Promise<void> {
    const receiver = { deliver, fail: () => {} }
    for (const [pack, ofPack] of Map.groupBy(refs, ref => ref.pack)) {
      await this.#rewritten.refresh(request.kind, request.domain, pack, { signal })
      const original = packKey(request.kind, request.domain, pack)
      for (const ref of ofPack) {
        const copies = this.#rewritten.copies(request.kind, request.domain, pack, ref.id)
        // A compaction copies bytes, which say what they said before.
        if (copies.every(copy => copy.pack === pack)) continue
        for (const version of [{ object: original, ...asPlaced(ref) }, ...copies]) {
          const left = new Map([[ref, undefined]])
          const placed = [{ ...version, ref }]
          const work = { request, pack, left, receiver, signal }
          await this.#admitted(work, ref.length, () => this.#readObject(work, version.object, placed))
        }
      }
    }
  }

  async #readRun(work: Work): Promise<void> {
    const { request, pack, left, receiver, signal } = work
    try {
      signal?.throwIfAborted()
      const tried = new Set<string>()
      if (this.#rewritten.isKnown(request.kind, request.domain, pack)) await this.#readCopies(work, tried)
      const original = packKey(request.kind, request.domain, pack)
      await this.#readObject(work, original, [...left.keys()].map(asPlaced))
      while (left.size > 0) {
        const isNew = await this.#rewritten.refresh(request.kind, request.domain, pack, { signal })
        await this.#readCopies(work, tried)
        if (!isNew) break
      }
      for (const [ref, error] of left) receiver.fail(ref, error ?? this.#missing(work, ref, original))
    } catch (error) {
      for (const ref of left.keys()) receiver.fail(ref, error)
    }
  }

  /** From all rewritten objects that are known and not yet `tried`. */
  async #readCopies({ request, pack, left, ...work }: Work, tried: Set<string>): Promise<void> {
    const copies = [...left.keys()].flatMap(ref =>
      this.#rewritten.copies(request.kind, request.domain, pack, ref.id).map(copy => ({ ...copy, ref })),
    )
    for (const [object, inObject] of Map.groupBy(copies, copy => copy.object)) {
      if (tried.has(object)) continue
      tried.add(object)
      const wanted = inObject.filter(({ ref }) => left.has(ref))
      await this.#readObject({ request, pack, left, ...work }, object, wanted)
    }
  }

  async #readObject(work: Work, object: string, placed: readonly Placed[]): Promise<void> {
    for (const run of planRuns(placed, runLimitsOf(work.request))) {
      let bad = await this.#attempt(work, object, run)
      // Once more, for what a cache or a line has damaged on the way.
      if (bad.length > 0) bad = await this.#attempt(work, object, { ...run, records: bad })
      if (bad.length > 0) await this.#readBelow(work, object, { ...run, records: bad })
    }
  }

  /** In versions over which somebody has put others. */
  async #readBelow(work: Work, object: string, run: RecordRun<Placed>): Promise<void> {
    let bad = run.records
    for (const version of await this.#shadowed.candidates(object, { signal: work.signal })) {
      if (bad.length === 0) return
      const left = await this.#attempt(work, object, { ...run, records: bad }, version)
      if (left.length < bad.length) this.#shadowed.isGood(version)
      bad = left
    }
  }

  /** Delivers what opens. The records that are there and do not open are noted and returned; absent ones are only left. */
  async #attempt(work: Work, object: string, run: RecordRun<Placed>, version?: ObjectVersion): Promise<Placed[]> {
    const { request, left, receiver, signal } = work
    const bytes = await this.#get(object, run, version ?? this.#shadowed.versionOf(object), { signal })
    if (!bytes) return []
    const sealed = run.records.map(({ ref, pack, slot, offset, length }) => {
      const at = offset - run.offset
      const stored = bytes.subarray(at, at + length)
      return {
        object,
        pack,
        slot,
        id: ref.id,
        stored,
        target: request.targetOf?.(ref),
        offsets: request.sink?.offsetsOf(ref),
      }
    })
    const bad: Placed[] = []
    const open = async (first: number, end: number) => {
      const opened = await this.#opener.open(request, sealed.slice(first, end), { signal })
      for (const [n, content] of opened.entries()) {
        const record = run.records[first + n]!
        if (!left.has(record.ref)) continue
        if (content instanceof LifeboatError) {
          left.set(record.ref, content)
          bad.push(record)
        } else {
          left.delete(record.ref)
          // A repaired record was sealed under another name than it is asked for by.
          const isItself = record.pack === record.ref.pack && record.slot === record.ref.slot
          if (isItself && request.isKept !== false) this.#cached?.keep(request, record.ref, sealed[first + n]!.stored)
          receiver.deliver(record.ref, content, 'store')
        }
      }
    }
    if (request.kind === 'data' && sealed.length <= limits.openedAlone) {
      // A guest waits for the first of them: it is delivered while its neighbours are decoded.
      const results = await Promise.allSettled(sealed.map((_, n) => open(n, n + 1)))
      const failed = results.find(result => result.status === 'rejected')
      if (failed) throw failed.reason
    } else await open(0, sealed.length)
    // A cache keeps the bytes that it is offered.
    if (!this.#cached) giveBack(bytes)
    return bad
  }

  async #get(
    object: string,
    { offset, length }: RecordRun<Placed>,
    version: ObjectVersion | undefined,
    options: AbortOptions,
  ) {
    const { versioned } = this.#store
    try {
      if (version && versioned)
        return await versioned.getVersion(object, version.versionId, { offset, length }, options)
      return await this.#store.get(object, { offset, length }, options)
    } catch (error) {
      if (isLifeboatError(error, 'store-not-found')) return undefined
      throw error
    }
  }

  #missing({ request, pack }: Work, { slot, id }: ChunkRef, object: string): LifeboatError {
    const damaged = this.#rewritten.failure(request.kind, request.domain, pack)
    if (damaged) return damaged
    const noun = request.kind === 'data' ? 'chunk' : 'tree node'
    return new LifeboatError('missing-object', `${object}, with a ${noun} in slot ${slot}, is not there`, {
      details: { object, pack, slot, content: hex(id) },
      hint: 'Run `lifeboat verify` to see which points and disk ranges it harms; other points still restore.',
    })
  }
}

/**
 * Frees what the store gave us as our own memory. V8 would find out with the next full collection, and makes one for about
 * each 64 MiB of such answers: six for a restore of 1 GiB, which are now one or two.
 */
function giveBack({ buffer, byteLength }: Uint8Array): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength === byteLength) buffer.transfer(0)
}

const asPlaced = (ref: ChunkRef): Placed => ({ ...ref, ref })
