/** Opening a point by the READER's rules (docs/concurrency.md): pin first, then look whether the point still counts. */
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { Pipeline } from '../native/pipeline.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import type { ChunkFetcher } from './chunk-fetcher.ts'
import { DiskChunks } from './chunk-source.ts'
import type { ControlObjects } from './control-object.ts'
import type { Keyring } from './keyring.ts'
import type { RepositoryLock } from './lock-policy.ts'
import { forgottenKey, leaseFencesPrefix, pointKey } from './object-keys.ts'
import { type Pin, placePin } from './pin.ts'
import type { RecordReader } from './record-reader.ts'
import type { Manifest, ManifestDisk, PinKind, PointSummary, RecoveryPoint } from './repository.ts'
import { readStoredManifest } from './stored-manifest.ts'
import { treeGeometry } from './tree-geometry.ts'
import { TreeReader } from './tree-reader.ts'

export interface ReadContext {
  readonly store: ObjectStore
  readonly keyring: Keyring
  readonly control: ControlObjects
  readonly records: RecordReader
  readonly fetcher: ChunkFetcher
  readonly pipeline: Pipeline
  readonly clock: Clock
  readonly random: Random
  readonly host: string
  /** What is promised of the store's locks; undefined where nothing is. */
  readonly lock?: RepositoryLock
}

/** Steps 1 to 4. Throws 'point-forgotten', 'no-such-point' or 'not-committed'; what it pinned is then unpinned. */
export async function openRecoveryPoint(
  context: ReadContext,
  point: PointSummary,
  { pin: kind, pinId, newPinId, signal }: { pin: PinKind | 'none'; pinId?: string; newPinId?: string } & AbortOptions,
): Promise<RecoveryPoint> {
  const request = { point: point.id, manifest: point.key, host: context.host }
  const pin =
    kind === 'none'
      ? undefined
      : await placePin(context, { ...request, kind, resume: pinId, fresh: newPinId }, { signal })
  try {
    const manifest = await readCommitted(context, point, { signal })
    return new OpenedPoint(context, point, manifest, pin)
  } catch (error) {
    await pin?.[Symbol.asyncDispose]()
    throw error
  }
}

/** Steps 2 to 4, whose order is the rule: a GC that removes the point deletes its manifest before its mark. */
export async function readCommitted(
  { store, keyring, control }: Pick<ReadContext, 'store' | 'keyring' | 'control'>,
  { id, key }: PointSummary,
  options: AbortOptions = {},
): Promise<Manifest> {
  const forgotten = forgottenKey(id)
  if (await control.get('forgotten', forgotten, options))
    throw new LifeboatError('point-forgotten', `Point ${id} was forgotten and may be half gone`, {
      details: { object: forgotten, point: id },
      hint: 'Choose another point: `lifeboat points` lists those that can be restored.',
    })
  const stored = await readStoredManifest({ store, keys: keyring.repository }, key, options)
  if (!stored)
    throw new LifeboatError('no-such-point', `Point ${id} is not there any more`, {
      details: { object: key, point: id },
      hint: 'It was removed meanwhile: `lifeboat points` lists those that can be restored.',
    })
  for await (const fence of control.list('fence', { prefix: leaseFencesPrefix(stored.manifest.lease), ...options }))
    throw new LifeboatError('not-committed', `Point ${id} was never committed: its backup was given up`, {
      details: { object: key, point: id, fence },
      hint: 'Choose another point, or see whether all of it is there and adopt it: `lifeboat verify --adopt POINT`.',
    })
  return stored.manifest
}

class OpenedPoint implements RecoveryPoint {
  readonly id: PointSummary['id']
  readonly key: string
  readonly manifest: Manifest
  readonly pinned: boolean
  readonly #context: ReadContext
  readonly #pin: Pin | undefined
  readonly #disks = new Map<string, DiskChunks>()

  constructor(context: ReadContext, { id, key }: PointSummary, manifest: Manifest, pin: Pin | undefined) {
    this.id = id
    this.key = key
    this.manifest = manifest
    this.pinned = pin !== undefined
    this.#context = context
    this.#pin = pin
  }

  get pinId(): string | undefined {
    return this.#pin?.id
  }

  keepPin(): void {
    this.#pin?.keep()
  }

  disk(name: string): DiskChunks {
    const known = this.#disks.get(name)
    if (known) return known
    const disk = this.manifest.disks.find(candidate => candidate.name === name)
    if (!disk) throw noSuchDisk(this.manifest, name)
    const tree = openTree(this.#context, this.manifest, disk)
    const opened = new DiskChunks(tree, this.#context.fetcher, { point: this.id, disk: name }, this.#context)
    this.#disks.set(name, opened)
    tree.prefetchStart()
    return opened
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#disks.values()].map(({ tree }) => tree[Symbol.asyncDispose]()))
    await this.#pin?.[Symbol.asyncDispose]()
  }
}

export function openTree(
  { keyring, records }: Pick<ReadContext, 'keyring' | 'records'>,
  { domain, vm, takenAt, point }: Manifest,
  { name, size, chunkSize, top }: ManifestDisk,
): TreeReader {
  try {
    return new TreeReader({ domain, geometry: treeGeometry(size, chunkSize), top, keyring, records })
  } catch (cause) {
    if (!(cause instanceof LifeboatError)) throw cause
    throw new LifeboatError(cause.code, `disk ${name} of point ${point}: ${cause.message}`, {
      // The top list stands in the manifest.
      details: { object: pointKey(vm, takenAt, point), ...cause.details, point, disk: name },
      cause,
    })
  }
}

const noSuchDisk = ({ point, disks }: Manifest, name: string): LifeboatError =>
  new LifeboatError('no-such-disk', `Point ${point} has no disk '${name}'`, {
    details: { point, disk: name },
    hint: `Its disks are: ${disks.map(disk => disk.name).join(', ') || 'none'}.`,
  })
