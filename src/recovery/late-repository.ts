/**
 * The repository of a session whose disks are all on this host: opened when something is asked of it that this host does not know,
 * so that such a session is resumed while the repository is away. The point is the one that the mark describes.
 */
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ChunkSource, PointSummary, RecoveryPoint, Repository } from '../repository/repository.ts'
import type { HydrationMark } from './hydration-mark.ts'

export const summaryOf = ({ key, manifest }: HydrationMark): PointSummary => ({
  id: manifest.point,
  vm: manifest.vm,
  takenAt: manifest.takenAt,
  key,
  state: 'committed',
})

/** `open` gives a repository that stays its owner's. A failure is told to who asked, and the next one tries again. */
export function lateRepository(mark: HydrationMark, open: () => Promise<Repository>): Repository {
  const { id, chunkSize, encryption } = mark.repository
  const neverPut = new Set<string>()
  let opened: Repository | undefined
  let opening: Promise<Repository> | undefined
  const repository = async (): Promise<Repository> => {
    opening ??= open()
    try {
      opened = await opening
      return opened
    } catch (error) {
      opening = undefined
      throw error
    }
  }
  const mustBeOpen = (): Repository => {
    if (opened) return opened
    throw new LifeboatError('internal', 'the repository of a hydrated session is not open')
  }
  return {
    id: id as Repository['id'],
    chunkSize,
    encryption: encryption as Repository['encryption'],
    get capabilities() {
      return mustBeOpen().capabilities
    },
    get store() {
      return mustBeOpen().store
    },
    points: async options => (await repository()).points(options),
    manifest: async (point, options) => (await repository()).manifest(point, options),
    beginPoint: async request => (await repository()).beginPoint(request),
    async dropPin(pinId, options) {
      if (!neverPut.has(pinId)) await (await repository()).dropPin(pinId, options)
    },
    async openPoint(point, options) {
      if (point.id !== mark.manifest.point || options.pin !== 'session')
        return (await repository()).openPoint(point, options)
      if (options.newPinId !== undefined) neverPut.add(options.newPinId)
      return new LatePoint(mark, options.pinId, repository)
    },
    async [Symbol.asyncDispose]() {},
  }
}

/** Its pin is the session's, which nobody looks for: what is read here, GC cannot take. */
class LatePoint implements RecoveryPoint {
  readonly id: RecoveryPoint['id']
  readonly key: string
  readonly manifest: RecoveryPoint['manifest']
  readonly pinned: boolean
  readonly pinId?: string
  readonly #mark: HydrationMark
  readonly #repository: () => Promise<Repository>
  #opening: Promise<RecoveryPoint> | undefined

  constructor(mark: HydrationMark, pinId: string | undefined, repository: () => Promise<Repository>) {
    this.id = mark.manifest.point
    this.key = mark.key
    this.manifest = mark.manifest
    this.pinned = pinId !== undefined
    if (pinId !== undefined) this.pinId = pinId
    this.#mark = mark
    this.#repository = repository
  }

  keepPin(): void {}

  disk(name: string): ChunkSource {
    const disk = this.manifest.disks.find(candidate => candidate.name === name)
    if (!disk) throw new LifeboatError('no-such-disk', `Point ${this.id} has no disk '${name}'`)
    const source = async (options: AbortOptions = {}) => (await this.#open(options)).disk(name)
    return {
      size: disk.size,
      chunkSize: disk.chunkSize,
      locateNow: () => undefined,
      locate: async (first, count, options) => (await source(options)).locate(first, count, options),
      fetch: async (refs, deliver, options) => (await source(options)).fetch(refs, deliver, options),
    }
  }

  async #open({ signal }: AbortOptions): Promise<RecoveryPoint> {
    this.#opening ??= this.#repository().then(repository =>
      repository.openPoint(summaryOf(this.#mark), { pin: 'none' }),
    )
    const point = await this.#opening.catch(error => {
      this.#opening = undefined
      throw error
    })
    signal?.throwIfAborted()
    return point
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const point = await this.#opening?.catch(() => undefined)
    await point?.[Symbol.asyncDispose]()
  }
}
