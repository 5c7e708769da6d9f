/**
 * One disk's tree, read as it is needed (docs/repository-format.md, section 5). Every node is authenticated, its content id
 * recomputed, and kept in a bounded cache. Whoever misses the same node at once waits for one request, which is claimed
 * before the first await; leaves bring their next siblings along where those lie beside them.
 */
import { LRUCache } from 'lru-cache'
import { abortable } from '../core/abortable.ts'
import { LifeboatError } from '../core/errors.ts'
import { type DomainId, hex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { nodeId } from '../crypto/ids.ts'
import type { Keyring } from './keyring.ts'
import { parseNode, type TreeNode } from './node-codec.ts'
import { packKey } from './object-keys.ts'
import { epochOf } from './record-keys.ts'
import type { RecordReader } from './record-reader.ts'
import type { ChunkRef } from './repository.ts'
import { type TreeGeometry, widthAt } from './tree-geometry.ts'

export interface TreeSource {
  readonly domain: DomainId
  readonly geometry: TreeGeometry
  /** The encoded top list. */
  readonly top: Uint8Array
  readonly keyring: Keyring
  readonly records: RecordReader
  /** Bytes of parsed nodes that are kept. */
  readonly cacheBytes?: number
}

interface Claim {
  readonly name: number
  readonly level: number
  readonly index: number
  readonly settled: PromiseWithResolvers<TreeNode | undefined>
}

export class TreeReader implements AsyncDisposable {
  readonly geometry: TreeGeometry
  readonly domain: DomainId
  readonly top: TreeNode
  readonly #source: TreeSource
  readonly #known: LRUCache<number, TreeNode>
  readonly #pending = new Map<number, Promise<TreeNode | undefined>>()
  readonly #work = new Set<Promise<void>>()
  readonly #closed = new AbortController()

  /** Throws 'absurd-object' for a top list that does not fit the disk. */
  constructor(source: TreeSource) {
    this.#source = source
    this.geometry = source.geometry
    this.domain = source.domain
    this.top = parseNode(source.top, source.geometry, source.geometry.topLevel + 1, 0)
    this.#known = new LRUCache({
      maxSize: source.cacheBytes ?? limits.nodeCacheBytes,
      sizeCalculation: node => node.memoryBytes,
    })
  }

  /** Node `index` of `level`; topLevel + 1 is the top list. Undefined: all of it is zeros. */
  async node(level: number, index: number, options: AbortOptions = {}): Promise<TreeNode | undefined> {
    const known = this.nodeNow(level, index)
    if (known !== 'unknown') return known
    const [node] = await this.nodes(level, [index], options)
    return node
  }

  /** The same if all nodes on the way are in memory. */
  nodeNow(level: number, index: number): TreeNode | undefined | 'unknown' {
    if (level > this.geometry.topLevel) return this.top
    const known = this.#known.get(nameOf(level, index))
    if (known) return known
    const parent = this.nodeNow(level + 1, this.#parentOf(level, index))
    if (parent === 'unknown') return parent
    return parent?.has(this.#positionOf(level, index)) ? 'unknown' : undefined
  }

  /** Several nodes of one level, those that are not known in as few requests as their places allow. */
  async nodes(
    level: number,
    indexes: readonly number[],
    options: AbortOptions = {},
  ): Promise<(TreeNode | undefined)[]> {
    options.signal?.throwIfAborted()
    return await abortable(Promise.all(this.#request(level, indexes)), options)
  }

  /** The same, where one that cannot be read must not hide the others. */
  async settledNodes(level: number, indexes: readonly number[], options: AbortOptions = {}) {
    options.signal?.throwIfAborted()
    return await abortable(Promise.allSettled(this.#request(level, indexes)), options)
  }

  /** Reads the path to the first chunk, because every reader of a disk begins there. A failure is left to who asks next. */
  prefetchStart(): void {
    if (this.geometry.chunks === 0 || this.nodeNow(0, 0) !== 'unknown') return
    this.#own(this.nodes(0, [0]).then(ignore, ignore))
  }

  /** Aborts what is under way and waits for it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed.abort(new LifeboatError('interrupted', 'the disk was closed while it was read'))
    await Promise.all(this.#work)
  }

  /** Everything that is missing is claimed before this returns. */
  #request(level: number, indexes: readonly number[]): (Promise<TreeNode | undefined> | TreeNode | undefined)[] {
    const claims: Claim[] = []
    const results = indexes.map(index => {
      const known = this.nodeNow(level, index)
      if (known !== 'unknown') return known
      return this.#pending.get(nameOf(level, index)) ?? this.#claim(level, index, claims)
    })
    if (claims.length > 0) this.#start(level, claims)
    return results
  }

  #claim(level: number, index: number, claims: Claim[]): Promise<TreeNode | undefined> {
    const name = nameOf(level, index)
    const settled = Promise.withResolvers<TreeNode | undefined>()
    // A sibling that came along may have nobody who waits for it.
    settled.promise.catch(ignore)
    this.#pending.set(name, settled.promise)
    claims.push({ name, level, index, settled })
    return settled.promise
  }

  #start(level: number, asked: readonly Claim[]): void {
    const claims = [...asked]
    if (level === 0)
      for (const { index } of asked) {
        // Now, where that needs no waiting: who asks next for a sibling is to find it claimed.
        const parent = this.nodeNow(1, this.#parentOf(0, index))
        if (parent && parent !== 'unknown') this.#claimSiblings(parent, index, claims)
      }
    const work = this.#load(level, asked, claims)
      .catch(error => {
        for (const { settled } of claims) settled.reject(error)
      })
      .finally(() => {
        for (const { name } of claims) this.#pending.delete(name)
      })
    this.#own(work)
  }

  /** The tree owns its requests: they serve whoever else waits, so they end with the tree and not with one caller's signal. */
  #own(work: Promise<void>): void {
    const tracked: Promise<void> = work.finally(() => this.#work.delete(tracked))
    this.#work.add(tracked)
  }

  async #load(level: number, asked: readonly Claim[], claims: Claim[]): Promise<void> {
    const signal = this.#closed.signal
    const parentIndexes = [...new Set(asked.map(({ index }) => this.#parentOf(level, index)))]
    const parents = await this.nodes(level + 1, parentIndexes, { signal })
    const byIndex = new Map(parentIndexes.map((index, n) => [index, parents[n]]))
    const parentOf = (index: number) => byIndex.get(this.#parentOf(level, index))
    if (level === 0)
      for (const { index } of asked) {
        const parent = parentOf(index)
        if (parent) this.#claimSiblings(parent, index, claims)
      }
    const wanted = new Map<ChunkRef, Claim>()
    for (const claim of claims) {
      const ref = parentOf(claim.index)?.ref(this.#positionOf(level, claim.index))
      if (ref) wanted.set(ref, claim)
      else claim.settled.resolve(undefined)
    }
    const { keyring, records } = this.#source
    const epochs = new Set([...wanted.keys()].map(ref => epochOf(ref.pack)))
    const [epoch = 0] = epochs
    const { nodeIdKey } = await keyring.domainKeys(this.domain, epoch, { signal })
    const receiver = {
      deliver: (ref: ChunkRef, content: Uint8Array) => {
        const claim = wanted.get(ref)
        if (claim) this.#settle(claim, ref, content, nodeIdKey)
      },
      fail: (ref: ChunkRef, error: unknown) => wanted.get(ref)?.settled.reject(error),
    }
    const { chunkSize } = this.geometry
    await records.read(
      { kind: 'meta', domain: this.domain, chunkSize, checkIds: 'all', owner: this },
      [...wanted.keys()],
      receiver,
      { signal },
    )
  }

  /** The leaves right behind this one, as long as they lie behind it in its pack. */
  #claimSiblings(parent: TreeNode, index: number, claims: Claim[]): void {
    let last = parent.ref(this.#positionOf(0, index))
    for (let next = index + 1; last && next < index + limits.leavesPerGet; next++) {
      if (this.#parentOf(0, next) !== this.#parentOf(0, index)) return
      const ref = parent.ref(this.#positionOf(0, next))
      if (!ref || ref.pack !== last.pack || ref.offset !== last.offset + last.length) return
      const name = nameOf(0, next)
      if (!this.#known.has(name) && !this.#pending.has(name)) void this.#claim(0, next, claims)
      last = ref
    }
  }

  #settle({ name, level, index, settled }: Claim, ref: ChunkRef, content: Uint8Array, nodeIdKey: Uint8Array): void {
    try {
      const node = parseNode(content, this.geometry, level, index)
      if (Buffer.compare(nodeId(nodeIdKey, node), ref.id) !== 0)
        throw new LifeboatError('corrupt-object', 'holds another content than its id says')
      this.#known.set(name, node)
      settled.resolve(node)
    } catch (cause) {
      settled.reject(this.#named(ref, cause))
    }
  }

  #named(ref: ChunkRef, cause: unknown): unknown {
    if (!(cause instanceof LifeboatError)) return cause
    const object = packKey('meta', this.domain, ref.pack)
    return new LifeboatError(cause.code, `The tree node in slot ${ref.slot} of ${object}: ${cause.message}`, {
      details: { object, pack: ref.pack, slot: ref.slot, content: hex(ref.id) },
      hint: 'Run `lifeboat verify` to see which points and disk ranges it harms; other points still restore.',
      cause,
    })
  }

  #parentOf(level: number, index: number): number {
    return level >= this.geometry.topLevel ? 0 : Math.floor(index / widthAt(this.geometry, level + 1))
  }

  #positionOf(level: number, index: number): number {
    return level >= this.geometry.topLevel ? index : index % widthAt(this.geometry, level + 1)
  }
}

/** Levels are few, and a disk of 2^53 bytes has fewer than 2^35 leaves. */
const nameOf = (level: number, index: number): number => level * 2 ** 40 + index

const ignore = () => {}
