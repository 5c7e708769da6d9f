/**
 * `--hydrate`: while a session is served, the rest of its point is copied to this host, and from then on its disks need the
 * repository no more. Reads of guests go first; the copy stops while the disk is nearly full, and waits while the store is away.
 * All of it happens beside the guest: where the copy fails, disks are read from the repository as without it.
 */
import { statfs } from 'node:fs/promises'
import path from 'node:path'
import { nodeOverlayFiles, type OverlayFiles } from '../block/overlay-files.ts'
import { hydrated } from '../cache/hydrated.ts'
import { LocalCopy } from '../cache/local-copy.ts'
import { pageCountOf } from '../cache/local-table.ts'
import type { Clock } from '../core/clock.ts'
import { messageOf } from '../core/errors.ts'
import { limits, MiB } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ChunkSource, RecoveryPoint, Repository } from '../repository/repository.ts'
import { fillCopy } from './fill-copy.ts'
import { encodeMark, type HydrationMark, type MarkedDisk, parseMark } from './hydration-mark.ts'
import type { Session } from './session.ts'
import type { SessionState } from './session-state.ts'

export interface HydrationOptions {
  /** The session's. */
  readonly folder: string
  readonly files: OverlayFiles
  readonly repository: Pick<Repository, 'id' | 'chunkSize' | 'encryption'>
  readonly clock: Clock
  /** Space that the copy leaves free: a guest is paused below it. */
  readonly reserveBytes: number
  readonly freeBytes?: (folder: string) => Promise<number>
  readonly bytesPerSecond?: number
  /** What reads and waits for the store comes first. */
  readonly isBusy: () => boolean
  /** For the person who looks at the session. */
  readonly tell: (message: string) => void
}

interface HydratedDisk {
  readonly name: string
  readonly copy: LocalCopy
  source: ChunkSource
}

const FOLDER = 'hydrated'
const MARK = 'mark'

export class Hydration implements AsyncDisposable {
  readonly #options: HydrationOptions
  readonly #folder: string
  readonly #disks = new Map<string, HydratedDisk>()
  readonly #closed = new AbortController()
  #point: RecoveryPoint | undefined
  #mark: HydrationMark | undefined
  #isBegun = false
  #ending = new AbortController()
  #work: Promise<void> = Promise.resolve()
  #hasRoom = true
  #told = ''
  #underWay = 0
  #paidUntilMs = Number.NEGATIVE_INFINITY
  #checkedBytes = 0

  constructor(options: HydrationOptions) {
    this.#options = options
    this.#folder = path.join(options.folder, FOLDER)
  }

  /** From now on `source` gives disks of this point. What was copied of another is used where it is the same. */
  async turnTo(point: RecoveryPoint, disks: readonly string[]): Promise<void> {
    this.#ending.abort()
    await this.#work
    if (!this.#point) await this.#open(point, disks)
    else for (const { copy } of this.#disks.values()) await copy.begin()
    this.#point = point
    for (const disk of this.#disks.values()) disk.source = point.disk(disk.name)
    if (this.#isBegun) this.begin()
  }

  source(disk: string): ChunkSource {
    const found = this.#disks.get(disk)
    if (!found) throw new Error(`disk ${disk} is not hydrated`)
    return hydrated(found.source, found.copy)
  }

  begin(): void {
    this.#isBegun = true
    this.#ending = new AbortController()
    const signal = AbortSignal.any([this.#closed.signal, this.#ending.signal])
    this.#work = this.#run({ signal }).catch(error => {
      if (!signal.aborted) this.#tell(`the hydration has ended: ${messageOf(error)}`)
    })
  }

  /** The rest is there, and durable. */
  get isDone(): boolean {
    return this.#mark !== undefined && this.#mark.manifest.point === this.#point?.id && this.#isWhole
  }

  /** Bytes of the disks that need the repository no more, and of all. */
  figures(): Readonly<Record<string, number>> {
    const disks = [...this.#disks.values()]
    const bytes = disks.reduce((sum, { copy }) => sum + copy.wholeBytes, 0)
    const total = disks.reduce((sum, { copy }) => sum + copy.size, 0)
    // The last byte counts when all of them are durable.
    return { hydratedBytes: this.isDone ? total : Math.min(bytes, Math.max(0, total - 1)), hydrateBytes: total }
  }

  get #isWhole(): boolean {
    return [...this.#disks.values()].every(({ copy }) => copy.isWhole)
  }

  async #open(point: RecoveryPoint, names: readonly string[]): Promise<void> {
    const { files } = this.#options
    await files.makeFolder(this.#folder)
    const mark = await readMark(files, this.#folder)
    this.#mark = mark?.manifest.point === point.id ? mark : undefined
    for (const name of names) {
      const source = point.disk(name)
      const { size, chunkSize } = source
      // Numbered as the point has them: a disk's name may be anything.
      const number = point.manifest.disks.findIndex(disk => disk.name === name)
      const data = await files.open(path.join(this.#folder, `disk${number}.data`), { create: true })
      const table = await files.open(path.join(this.#folder, `disk${number}.table`), { create: true })
      const sums = sumsOf(this.#mark, { name, size, chunkSize })
      const copy = new LocalCopy({ data, table, size, chunkSize, sums, name: path.join(this.#folder, `disk${number}`) })
      this.#disks.set(name, { name, copy, source })
    }
    await files.syncFolder(this.#folder)
  }

  async #run({ signal }: { readonly signal: AbortSignal }): Promise<void> {
    const { clock } = this.#options
    const watch = this.#watchSpace({ signal })
    let wasDone = this.isDone
    try {
      for (;;) {
        // A page that was found damaged is not whole any longer: it is copied once more.
        const problem = this.isDone ? undefined : await this.#fillAll({ signal }).catch(error => error)
        signal.throwIfAborted()
        if (problem) this.#tell(`the hydration waits: ${messageOf(problem)}`)
        if (this.isDone && !wasDone)
          this.#tell('all of the point is on this host: the session needs the repository no more')
        wasDone = this.isDone
        await clock.sleep(limits.hydrateRestMs, { signal })
      }
    } finally {
      this.#ending.abort()
      await watch
    }
  }

  /** Gives what kept it from being done. */
  async #fillAll({ signal }: { readonly signal: AbortSignal }): Promise<unknown> {
    let damage: unknown
    const onWindow = async () => {
      const written = [...this.#disks.values()].reduce((sum, { copy }) => sum + copy.writtenBytes, 0)
      if (written - this.#checkedBytes < limits.hydrateCheckpointBytes) return
      await this.#checkpoint()
      this.#checkedBytes = written
    }
    for (const { source, copy } of this.#disks.values()) {
      const admit = (bytes: number, options: AbortOptions) => this.#admit(bytes, options)
      damage = (await fillCopy(source, copy, { admit, onWindow, signal })) ?? damage
    }
    await this.#checkpoint()
    return damage
  }

  /** What is whole is made durable, and then the mark that says so. */
  async #checkpoint(): Promise<void> {
    const { files, repository } = this.#options
    const point = this.#point
    if (!point) return
    const disks: MarkedDisk[] = []
    for (const { name, copy } of this.#disks.values())
      disks.push({ name, size: copy.size, chunkSize: copy.chunkSize, sums: await copy.sync() })
    const { id, chunkSize, encryption } = repository
    const mark = { key: point.key, manifest: point.manifest, repository: { id, chunkSize, encryption }, disks }
    await writeMark(files, this.#folder, mark)
    this.#mark = mark
  }

  /** One GET at a time while a guest waits for its own, so that one that never rests delays the copy and does not end it. */
  async #admit(bytes: number, { signal }: AbortOptions): Promise<{ end(): void }> {
    const { clock, isBusy, bytesPerSecond } = this.#options
    while (!this.#hasRoom || (isBusy() && this.#underWay > 0)) await clock.sleep(limits.hydrateYieldMs, { signal })
    this.#underWay++
    const end = () => {
      this.#underWay--
    }
    if (bytesPerSecond === undefined) return { end }
    const now = clock.monotonicMs()
    const waitMs = this.#paidUntilMs - now
    this.#paidUntilMs = Math.max(this.#paidUntilMs, now) + (bytes / bytesPerSecond) * 1000
    try {
      if (waitMs > 0) await clock.sleep(waitMs, { signal })
    } catch (error) {
      end()
      throw error
    }
    return { end }
  }

  async #watchSpace({ signal }: { readonly signal: AbortSignal }): Promise<void> {
    const { clock, reserveBytes, freeBytes = freeIn } = this.#options
    while (!signal.aborted) {
      // A guest is paused at the reserve, which the copy must not bring it to.
      const least = reserveBytes + reserveBytes / 2
      const free = await freeBytes(this.#folder).catch(() => Number.POSITIVE_INFINITY)
      const hadRoom = this.#hasRoom
      this.#hasRoom = free >= (hadRoom ? least : least + reserveBytes / 8)
      for (const { copy } of this.#disks.values()) copy.mayGrow = this.#hasRoom
      if (hadRoom && !this.#hasRoom)
        this.#tell(
          `the hydration waits for space: ${Math.floor(free / MiB)} MiB are free in ${this.#folder}, ${Math.ceil(least / MiB)} MiB are to stay free. The guest goes on`,
        )
      if (!hadRoom && this.#hasRoom) this.#tell('the hydration goes on: there is space again')
      await clock.sleep(limits.hydrateSpaceMs, { signal }).catch(() => {})
    }
  }

  /** The same trouble again is no news. */
  #tell(message: string): void {
    if (message !== this.#told) this.#options.tell(message)
    this.#told = message
  }

  /** What has come so far is kept for who resumes. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed.abort()
    await this.#work
    if (!this.isDone && this.#isBegun) await this.#checkpoint().catch(() => {})
    for (const { copy } of this.#disks.values()) await copy[Symbol.asyncDispose]()
    this.#disks.clear()
  }
}

/** A mark of other disks tells nothing. */
function sumsOf(mark: HydrationMark | undefined, { name, size, chunkSize }: Omit<MarkedDisk, 'sums'>) {
  const disk = mark?.disks.find(disk => disk.name === name && disk.size === size && disk.chunkSize === chunkSize)
  return disk?.sums.length === pageCountOf(size, chunkSize) ? disk.sums : undefined
}

async function freeIn(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder)
  return bavail * bsize
}

export interface HydrateRequest {
  /** Of what is read ahead of everybody; reads of guests are not slowed. */
  readonly bytesPerSecond?: number
  readonly freeBytes?: HydrationOptions['freeBytes']
}

/** Undefined where nobody asked for it, neither now nor when the session was begun. */
export function hydrationOf(
  session: Pick<Session, 'folder' | 'state'>,
  request: Pick<HydrationOptions, 'repository' | 'clock'> & {
    readonly hydrate?: HydrateRequest
    readonly reserveBytes?: number
    readonly tell?: (message: string) => void
  },
  isBusy: () => boolean,
): Hydration | undefined {
  const { repository, clock, reserveBytes = limits.sessionReserveBytes, tell = () => {} } = request
  const wanted: HydrateRequest | undefined = request.hydrate ?? session.state()?.hydrate
  if (!wanted) return undefined
  const { folder } = session
  return new Hydration({ ...wanted, folder, files: nodeOverlayFiles, repository, clock, reserveBytes, tell, isBusy })
}

/** For the session's state. */
export const keptHydrate = (hydrate: HydrateRequest | undefined): SessionState['hydrate'] =>
  hydrate && (hydrate.bytesPerSecond === undefined ? {} : { bytesPerSecond: hydrate.bytesPerSecond })

/** The mark of a session's folder. Undefined where there is none that can be believed. */
export async function hydrationMark(files: OverlayFiles, sessionFolder: string): Promise<HydrationMark | undefined> {
  return readMark(files, path.join(sessionFolder, FOLDER))
}

async function readMark(files: OverlayFiles, folder: string): Promise<HydrationMark | undefined> {
  const file = await files.open(path.join(folder, MARK), { create: false }).catch(error => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  })
  if (!file) return undefined
  try {
    const size = await file.size()
    if (size > limits.hydrateMarkMax) return undefined
    const bytes = Buffer.alloc(size)
    return (await file.readAt(bytes, 0)) === size ? parseMark(bytes) : undefined
  } finally {
    await file.close()
  }
}

async function writeMark(files: OverlayFiles, folder: string, mark: HydrationMark): Promise<void> {
  const draft = path.join(folder, `${MARK}.new`)
  const file = await files.open(draft, { create: true })
  try {
    const bytes = encodeMark(mark)
    await file.truncate(bytes.length)
    await file.writeAt(bytes, 0)
    await file.sync()
  } finally {
    await file.close()
  }
  await files.rename(draft, path.join(folder, MARK))
  await files.syncFolder(folder)
}
