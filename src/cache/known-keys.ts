/**
 * Cache keys of the chunks that were read lately, by place: a read of what is in memory takes them from here, without a walk
 * down the tree and without a new string, whose hash the cache's table would compute anew. Direct-mapped; pure state.
 */
import { limits } from '../core/limits.ts'

export class KnownKeys {
  readonly #chunks: Float64Array
  readonly #keys: (string | undefined)[]
  readonly #mask: number

  /** `count`: chunks of the disk. */
  constructor(count: number) {
    const places = Math.min(limits.knownKeys, 2 ** Math.ceil(Math.log2(Math.max(1, count))))
    this.#mask = places - 1
    this.#chunks = new Float64Array(places).fill(-1)
    this.#keys = new Array<string | undefined>(places).fill(undefined)
  }

  get(chunk: number): string | undefined {
    const place = chunk & this.#mask
    return this.#chunks[place] === chunk ? this.#keys[place] : undefined
  }

  set(chunk: number, key: string): void {
    const place = chunk & this.#mask
    this.#chunks[place] = chunk
    this.#keys[place] = key
  }
}
