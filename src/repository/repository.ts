/**
 * Repository: bytes <-> recovery points, by docs/repository-format.md and docs/concurrency.md.
 *
 * What it is: the only place that knows chunks, packs, trees, manifests, leases, pins. Writing a point (`PointWriter`) and
 * reading one (`RecoveryPoint`) are different types, so that an unfinished point cannot be opened.
 * What it guarantees: a point exists only when its manifest does, which is written last; nothing is changed in place; a
 * byte is delivered only if its chunk authenticated; "could not check" is an error, never "absent".
 * What it does not know: hypervisors, NBD, caches, people.
 */
import type { DomainId, LeaseId, PackId, PointId, RepositoryId } from '../core/ids.ts'
import type { Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { OpenFile } from '../native/sparse-file.ts'
import type { ObjectStore, StoreCapabilities } from '../storage/object-store.ts'

export type PointKind = 'full' | 'incremental' | 'differential'
export type Consistency = 'application' | 'filesystem' | 'crash'
export type PinKind = 'session' | 'export' | 'mount' | 'restore' | 'verify'

/** Figures of one disk in one point, all in bytes. */
export interface DiskStats {
  /** Read from the source, with the scan that finds changes where there is no bitmap, without the audit. */
  readonly bytesRead: number
  /** Whole chunks whose content differs from the base (or all non-zero ones without a base). */
  readonly bytesChanged: number
  /** Plain bytes of chunks that this backup stored. */
  readonly bytesNew: number
  /** Bytes of packs and meta packs written for this disk. */
  readonly bytesStored: number
  readonly bytesAudited: number
}

export interface ManifestDisk extends DiskStats {
  readonly name: string
  readonly size: number
  readonly chunkSize: number
  readonly level: number
  readonly salt: string
  readonly root: string
  /** The encoded top list. */
  readonly top: Uint8Array
  readonly base?: PointId
  readonly reason?: string
  /** What the hypervisor said of the disk; opaque here. */
  readonly description: Readonly<Record<string, unknown>>
}

export interface Manifest {
  readonly point: PointId
  readonly vm: string
  readonly takenAt: Date
  readonly sequence: number
  readonly previous?: { readonly point: PointId; readonly digest: string }
  /** The point that was void, and whose trees these are. */
  readonly adoptedFrom?: PointId
  readonly kind: PointKind
  readonly consistency: Consistency
  readonly lease: LeaseId
  readonly domain: DomainId
  readonly host: string
  /** What the hypervisor said of the VM; opaque here. */
  readonly description: Readonly<Record<string, unknown>>
  readonly firmwareVariables?: Uint8Array
  readonly disks: readonly ManifestDisk[]
  readonly omitted: readonly { readonly name: string; readonly reason: string }[]
}

export interface PointSummary {
  readonly id: PointId
  readonly vm: string
  readonly takenAt: Date
  readonly key: string
  /** 'void' points are fenced, 'forgotten' ones wait for GC; only listed when `all` is asked for. */
  readonly state: 'committed' | 'void' | 'forgotten'
  /** Somebody has deleted the manifest, which is still there under the marker. */
  readonly isHidden?: boolean
}

/** A chunk that is stored somewhere. Position in the disk is not part of it. */
export interface ChunkRef {
  /** 32 bytes: the content id. */
  readonly id: Uint8Array
  readonly pack: PackId
  readonly slot: number
  /** In the pack object, bytes. */
  readonly offset: number
  /** Stored length, bytes. */
  readonly length: number
}

/** Consecutive chunks that are all stored, or all zeros. */
export interface ChunkSpan {
  readonly first: number
  readonly count: number
  readonly isPresent: boolean
}

/** 'host': from what this host keeps of the store. */
export type ContentOrigin = 'store' | 'host'

export interface FetchOptions extends AbortOptions {
  /** chunkSize bytes for the content of this ref, the caller's again when the fetch has settled. A source may deliver from elsewhere all the same. */
  readonly targetOf?: (ref: ChunkRef) => Uint8Array
  /** False: what is read once, and kept by the reader, is not offered to this host's cache. */
  readonly isKept?: boolean
}

/**
 * The chunks of one disk of one point. Between the tree and the cache: requests for nodes are joined here, and so are
 * neighbouring records of one pack into one ranged GET.
 */
export interface ChunkSource {
  readonly size: number
  readonly chunkSize: number
  /** Where chunks [first, first + count) lie; undefined = zeros. Reads tree nodes as needed. */
  locate(first: number, count: number, options?: AbortOptions): Promise<readonly (ChunkRef | undefined)[]>
  /** The same if all nodes on the way are in memory, else undefined at once. */
  locateNow(first: number, count: number): readonly (ChunkRef | undefined)[] | undefined
  /**
   * Which of chunks [first, first + count) are stored, in order. Unlike `locate` it makes no reference for each, and steps over
   * absent subtrees: for whole disks. A source without a tree may leave it out.
   */
  spans?(first: number, count: number, options?: AbortOptions): AsyncIterable<ChunkSpan>
  /**
   * Fetches and authenticates; `deliver` is called once for each ref, in any order, as soon as it is there, with chunkSize
   * bytes that the receiver owns, in the memory that `targetOf` gives for it or in fresh memory. Coalesces refs that lie close together, several GETs in flight. Fails with an integrity
   * error that names object, chunk and reason after one refetch and after looking for `<pack>.<run>` copies.
   */
  fetch(
    refs: readonly ChunkRef[],
    deliver: (ref: ChunkRef, content: Uint8Array, from?: ContentOrigin) => void,
    options?: FetchOptions,
  ): Promise<void>
  /**
   * Fetches and authenticates as `fetch` does, and writes each chunk at its offsets into the file, cut off at `size`, without
   * holding it in memory. Settles when nothing is written any longer. Also throws what the system says of a write. A source
   * that only has contents in memory leaves it out.
   */
  writeTo?(file: OpenFile, places: ReadonlyMap<ChunkRef, readonly number[]>, options?: AbortOptions): Promise<void>
  /**
   * 1 where refs[i] holds exactly bytes [i x chunkSize, (i + 1) x chunkSize) of `contents`, told by its keyed id and without a
   * request. Absent where the holder of the keys may not compute ids. For `restore --onto`, which then fetches only what differs.
   */
  matches?(refs: readonly ChunkRef[], contents: Uint8Array): Promise<Uint8Array>
}

/** A committed point, pinned for as long as it is open (READER rules). Dispose removes the pin. */
export interface RecoveryPoint extends AsyncDisposable {
  readonly id: PointId
  readonly key: string
  readonly manifest: Manifest
  /** Undefined pin: the store refused to write one; reads are then safe for GC's grace only, and the caller says so. */
  readonly pinned: boolean
  /** The pin's id, which a session file remembers; undefined when not pinned. */
  readonly pinId?: string
  /** From now on dispose leaves the pin in place: a stopped session keeps its point until `Repository.dropPin`. */
  keepPin(): void
  /** Throws 'no-such-disk'. */
  disk(name: string): ChunkSource
}

export interface BeginPoint extends AbortOptions {
  readonly vm: string
  readonly point: PointId
  readonly takenAt: Date
  /** Names the lease's work to others: 'backup', 'commit'. */
  readonly kind: string
  /** Points of this VM to build upon; each disk names one of them. Those that fail the WRITER's step 3 are left out of `bases`. */
  readonly bases: readonly PointId[]
  /** Keys of its own for a VM that has no points yet, so that they can be destroyed alone. A VM that has them keeps them unasked. */
  readonly ownDomain?: boolean
}

export interface PointWriter extends AsyncDisposable {
  readonly point: PointId
  /** The bases that passed the checks and may be named in `disk()`. */
  readonly bases: ReadonlyMap<PointId, Manifest>
  disk(request: DiskRequest): Promise<DiskWriter>
  /** Steps 5 to 7. Resolves only when the point is COMMITTED; otherwise throws, after giving up by step 8. */
  commit(details: CommitDetails, options?: AbortOptions): Promise<Manifest>
  /** What `commit` could heal of the damage that verify had found in earlier points. */
  readonly healed: HealResult
  /** Dispose without commit gives up by step 8: nothing that it wrote counts. */
}

export interface HealResult {
  /** Records of damaged packs that read again. */
  readonly records: number
  readonly packs: readonly PackId[]
  /** Why some could not be stored; the next backup tries again. */
  readonly failure?: string
}

export interface DiskRequest {
  readonly name: string
  readonly size: number
  /** A point of `bases`: chunks not written are taken from its disk of that name. Absent: not written = zeros. */
  readonly base?: PointId
  readonly description: Readonly<Record<string, unknown>>
}

export interface DiskWriter {
  /** The base's disk size or 0, for the caller that resized. */
  readonly baseSize: number
  /**
   * `data` replaces the chunks from `offset` (a multiple of the chunk size) on; its length is a multiple of the chunk size but
   * at the end of the disk. Offsets of write and zero calls rise. The buffer is the writer's until the promise settles, which
   * waits while too much is under way: this is the back-pressure of the whole backup.
   */
  write(offset: number, data: Uint8Array, options?: AbortOptions): Promise<void>
  /** Whole chunks that read as zeros. */
  zero(range: Range, options?: AbortOptions): Promise<void>
  /** Whether the base holds exactly these bytes at `offset` (whole chunks): the audit. Counted in bytesAudited. */
  matchesBase(offset: number, data: Uint8Array, options?: AbortOptions): Promise<boolean>
  /** `reason`: why the disk was read whole, known only after the audit; kept in the manifest. */
  finish(stats: { bytesRead: number; reason?: string }, options?: AbortOptions): Promise<DiskStats>
}

export interface CommitDetails {
  readonly kind: PointKind
  readonly consistency: Consistency
  readonly description: Readonly<Record<string, unknown>>
  readonly firmwareVariables?: Uint8Array
  readonly omitted: readonly { readonly name: string; readonly reason: string }[]
}

export interface Repository extends AsyncDisposable {
  readonly id: RepositoryId
  readonly chunkSize: number
  readonly encryption: 'aes-256-gcm' | 'none'
  readonly capabilities: StoreCapabilities
  readonly store: ObjectStore
  /** Ascending by VM name and time. One LIST of points/, forgotten/ and fences/ each. */
  points(options?: { vm?: string; all?: boolean } & AbortOptions): Promise<readonly PointSummary[]>
  /** The manifest without a pin: for tables and plans, never for data. */
  manifest(point: PointSummary, options?: AbortOptions): Promise<Manifest>
  /** READER steps 1 to 4. */
  openPoint(
    point: PointSummary,
    /**
     * `pinId`: the pin of a session that resumes; used if it still exists, else a new one is put (READER step 6).
     * `newPinId`: 16 hex digits never used before, the id of a pin that is put.
     */
    options: { pin: PinKind | 'none'; pinId?: string; newPinId?: string } & AbortOptions,
  ): Promise<RecoveryPoint>
  /** Removes a pin that `keepPin` left; an absent one is no error. */
  dropPin(pinId: string, options?: AbortOptions): Promise<void>
  /** WRITER steps 1 to 3. */
  beginPoint(request: BeginPoint): Promise<PointWriter>
}
