/** A ChunkSource over an image in memory: counts what is asked of it, can hold answers back, lose nodes from memory and fail. */
import { createHash } from 'node:crypto'
import { packId } from '../../src/core/ids.ts'
import type { AbortOptions } from '../../src/core/scope.ts'
import type { ChunkRef, ChunkSource } from '../../src/repository/repository.ts'

const PACK = packId('00'.repeat(16))

export interface MemoryChunkSourceOptions {
  readonly chunkSize: number
  /** Nodes are never in memory: locateNow answers nothing. */
  readonly cold?: boolean
  /** Bytes that a stored record takes, by default half a chunk. */
  readonly storedLength?: number
}

export class MemoryChunkSource implements ChunkSource {
  readonly size: number
  readonly chunkSize: number
  /** The refs of each fetch call, in order. */
  readonly fetches: (readonly ChunkRef[])[] = []
  locates = 0
  /** Set by tests of sources that compare. */
  matches?: (refs: readonly ChunkRef[], contents: Uint8Array) => Promise<Uint8Array>
  /** Awaited before each chunk is delivered: throw to fail, sleep to delay. */
  beforeDeliver: (ref: ChunkRef, index: number, signal: AbortSignal | undefined) => Promise<void> = async () => {}
  readonly #cold: boolean
  readonly #refs: (ChunkRef | undefined)[] = []
  readonly #contents = new Map<string, Uint8Array>()
  readonly #indexes = new Map<ChunkRef, number>()

  constructor(image: Uint8Array, options: MemoryChunkSourceOptions) {
    this.size = image.length
    this.chunkSize = options.chunkSize
    this.#cold = options.cold ?? false
    const length = options.storedLength ?? options.chunkSize / 2
    for (let at = 0; at < image.length; at += options.chunkSize) {
      const content = new Uint8Array(options.chunkSize)
      content.set(image.subarray(at, at + options.chunkSize))
      const slot = at / options.chunkSize
      if (content.every(byte => byte === 0)) {
        this.#refs.push(undefined)
        continue
      }
      const id = new Uint8Array(createHash('sha256').update(content).digest())
      const ref: ChunkRef = { id, pack: PACK, slot, offset: slot * length, length }
      this.#refs.push(ref)
      this.#indexes.set(ref, slot)
      this.#contents.set(Buffer.from(id).toString('hex'), content)
    }
  }

  content(ref: ChunkRef): Uint8Array {
    return this.#contents.get(Buffer.from(ref.id).toString('hex'))!
  }

  get chunksFetched(): number {
    return this.fetches.reduce((sum, refs) => sum + refs.length, 0)
  }

  async locate(
    first: number,
    count: number,
    { signal }: AbortOptions = {},
  ): Promise<readonly (ChunkRef | undefined)[]> {
    this.locates++
    await Promise.resolve()
    signal?.throwIfAborted()
    return this.#slice(first, count)
  }

  locateNow(first: number, count: number): readonly (ChunkRef | undefined)[] | undefined {
    return this.#cold ? undefined : this.#slice(first, count)
  }

  async fetch(
    refs: readonly ChunkRef[],
    deliver: (ref: ChunkRef, content: Uint8Array) => void,
    { signal }: AbortOptions = {},
  ): Promise<void> {
    this.fetches.push(refs)
    await Promise.all(
      refs.map(async ref => {
        await this.beforeDeliver(ref, this.#indexes.get(ref) ?? -1, signal)
        signal?.throwIfAborted()
        deliver(ref, this.content(ref).slice())
      }),
    )
  }

  #slice(first: number, count: number): readonly (ChunkRef | undefined)[] {
    if (first < 0 || first + count > this.#refs.length) throw new RangeError(`chunks ${first}+${count}`)
    return this.#refs.slice(first, first + count)
  }
}
