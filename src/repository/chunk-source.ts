import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { Pipeline } from '../native/pipeline.ts'
import type { OpenFile } from '../native/sparse-file.ts'
import type { ChunkFetcher } from './chunk-fetcher.ts'
import { type Harm, withHarm } from './harm.ts'
import type { Keyring } from './keyring.ts'
import type { TreeNode } from './node-codec.ts'
import { presentSpans } from './presence.ts'
import type { ChunkRef, ChunkSource, ChunkSpan, ContentOrigin, FetchOptions } from './repository.ts'
import type { TreeReader } from './tree-reader.ts'

/** What ids are computed with. */
export interface IdContext {
  readonly keyring: Keyring
  readonly pipeline: Pipeline
}

/** The chunks of one disk: places from its tree, contents through the repository's fetcher. */
export class DiskChunks implements ChunkSource {
  readonly size: number
  readonly chunkSize: number
  readonly tree: TreeReader
  readonly #fetcher: ChunkFetcher
  readonly #harm: Harm
  readonly #ids: IdContext

  /** `harm`: whose disk this is, for errors. */
  constructor(tree: TreeReader, fetcher: ChunkFetcher, harm: Harm, ids: IdContext) {
    this.#harm = harm
    this.#ids = ids
    this.size = tree.geometry.size
    this.chunkSize = tree.geometry.chunkSize
    this.tree = tree
    this.#fetcher = fetcher
  }

  async locate(first: number, count: number, options: AbortOptions = {}): Promise<readonly (ChunkRef | undefined)[]> {
    this.#refuseOutside(first, count)
    const firstLeaf = Math.floor(first / limits.leafWidth)
    const lastLeaf = Math.floor((first + Math.max(1, count) - 1) / limits.leafWidth)
    const indexes = Array.from({ length: lastLeaf - firstLeaf + 1 }, (_, n) => firstLeaf + n)
    const leaves = await this.tree.nodes(0, indexes, options).catch(error => {
      const ranges = [{ offset: first * this.chunkSize, length: count * this.chunkSize }]
      throw withHarm(error, { ...this.#harm, ranges })
    })
    return collect(first, count, leaf => leaves[leaf - firstLeaf])
  }

  locateNow(first: number, count: number): readonly (ChunkRef | undefined)[] | undefined {
    this.#refuseOutside(first, count)
    const firstLeaf = Math.floor(first / limits.leafWidth)
    const leaves: (TreeNode | undefined)[] = []
    for (let leaf = firstLeaf; leaf * limits.leafWidth < first + count; leaf++) {
      const node = this.tree.nodeNow(0, leaf)
      if (node === 'unknown') return undefined
      leaves.push(node)
    }
    return collect(first, count, leaf => leaves[leaf - firstLeaf])
  }

  spans(first: number, count: number, options: AbortOptions = {}): AsyncIterable<ChunkSpan> {
    this.#refuseOutside(first, count)
    return presentSpans(this.tree, first, count, options)
  }

  async fetch(
    refs: readonly ChunkRef[],
    deliver: (ref: ChunkRef, content: Uint8Array, from?: ContentOrigin) => void,
    { targetOf, isKept, ...options }: FetchOptions = {},
  ): Promise<void> {
    try {
      await this.#fetcher.fetch({ ...this.#request(), targetOf, isKept }, refs, deliver, options)
    } catch (error) {
      throw withHarm(error, this.#harm)
    }
  }

  async writeTo(
    file: OpenFile,
    places: ReadonlyMap<ChunkRef, readonly number[]>,
    options: AbortOptions = {},
  ): Promise<void> {
    const sink = { file, end: this.size, offsetsOf: (ref: ChunkRef) => places.get(ref) ?? [] }
    try {
      await this.#fetcher.write({ ...this.#request(), sink }, [...places.keys()], options)
    } catch (error) {
      throw withHarm(error, this.#harm)
    }
  }

  async matches(refs: readonly ChunkRef[], contents: Uint8Array): Promise<Uint8Array> {
    const flags = new Uint8Array(refs.length)
    // The id keys of all epochs of a domain are those of its epoch 0.
    const { chunkIdKey } = await this.#ids.keyring.domainKeys(this.tree.domain, 0)
    if (!chunkIdKey || refs.length === 0) return flags
    const { ids, zero } = await this.#ids.pipeline.digestChunks(contents, this.chunkSize, chunkIdKey)
    for (const [i, { id }] of refs.entries())
      flags[i] = zero[i] === 0 && Buffer.compare(ids.subarray(i * id.length, (i + 1) * id.length), id) === 0 ? 1 : 0
    return flags
  }

  #request() {
    const { domain } = this.tree
    return { kind: 'data', domain, chunkSize: this.chunkSize, checkIds: 'sampled', owner: this.tree } as const
  }

  #refuseOutside(first: number, count: number): void {
    if (first < 0 || count < 0 || first + count > this.tree.geometry.chunks)
      throw new RangeError(`chunks ${first} to ${first + count} of ${this.tree.geometry.chunks}`)
  }
}

function collect(
  first: number,
  count: number,
  leafAt: (index: number) => TreeNode | undefined,
): readonly (ChunkRef | undefined)[] {
  const refs: (ChunkRef | undefined)[] = []
  for (let chunk = first; chunk < first + count; chunk++) {
    const leaf = leafAt(Math.floor(chunk / limits.leafWidth))
    refs.push(leaf?.ref(chunk % limits.leafWidth))
  }
  return refs
}
