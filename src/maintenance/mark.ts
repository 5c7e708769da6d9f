/**
 * Marks all that points reach: every chunk and every tree node, by pack and slot. Only metadata is read. A subtree that several
 * points share is walked once: the bit of its node in its meta pack says that somebody has it.
 *
 * Everything that has its bit was walked, or is in `lost`; an error that leaves it otherwise makes the whole mark useless, and
 * is thrown. That is what makes it safe to pass over a node that has its bit.
 */
import { isIntegrityError, isLifeboatError, LifeboatError } from '../core/errors.ts'
import type { DomainId, LeaseId, PackId, PointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { parseNode, type TreeNode } from '../repository/node-codec.ts'
import { metaPrefix, parsePackKey } from '../repository/object-keys.ts'
import type { RecordReceiver } from '../repository/record-reader.ts'
import type { ChunkRef, Manifest, ManifestDisk } from '../repository/repository.ts'
import { type TreeGeometry, treeGeometry, widthAt } from '../repository/tree-geometry.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { PackTable } from './pack-table.ts'

/** How the mark reads tree nodes; a benchmark makes them up. */
export interface NodeSource {
  /** The encoded nodes of these refs, in any order: each failed once, or delivered in every version that there is of it. */
  read(domain: DomainId, refs: readonly ChunkRef[], receiver: RecordReceiver, options: AbortOptions): Promise<void>
}

/**
 * Nodes as they are stored, in all their versions: a repaired pack's copies of a node may point elsewhere than the node itself, and a
 * reader may come upon either. Which packs have copies is asked once: what a writer repairs later points to what this run
 * does not remove, because its lease is waited for or has seen the run's record (docs/concurrency.md, section 11).
 */
export function storedNodes({ records, store }: Pick<MaintenanceContext, 'records' | 'store'>): NodeSource {
  const rewritten = new Map<DomainId, Promise<ReadonlySet<PackId>>>()
  return {
    async read(domain, refs, receiver, options) {
      const request = { kind: 'meta', domain, chunkSize: limits.chunkSizeMin, checkIds: 'all' } as const
      await records.read(request, refs, receiver, options)
      const packs = rewritten.get(domain) ?? rewrittenPacks(store, domain, options)
      rewritten.set(domain, packs)
      const known = await packs
      const twofold = known.size === 0 ? [] : refs.filter(({ pack }) => known.has(pack))
      await records.readVersions(request, twofold, receiver.deliver, options)
    },
  }
}

async function rewrittenPacks(
  store: ObjectStore,
  domain: DomainId,
  options: AbortOptions,
): Promise<ReadonlySet<PackId>> {
  const packs = new Set<PackId>()
  for await (const { key } of store.list(`${metaPrefix}${domain}/`, options)) {
    const place = parsePackKey(key)
    if (place?.run !== undefined) packs.add(place.pack)
  }
  return packs
}

/** Leaves that are asked for at once: eight GETs of 256, some 5 MiB. */
const LEAVES_AT_ONCE = 2048
/** Each names up to 256 nodes of the level below, which wait in memory until they are read. */
const INNER_NODES_AT_ONCE = 64

interface WantedNode {
  readonly ref: ChunkRef
  readonly index: number
}

interface Walk extends AbortOptions {
  readonly domain: DomainId
  readonly point: PointId
  readonly tree: TreeGeometry
  /** The first node of this point that is missing. */
  missing?: LifeboatError
}

export class Mark {
  readonly table: PackTable
  /** Keys of the manifests whose trees are marked. They are immutable, so once is enough. */
  readonly manifests = new Set<string>()
  /** Of every manifest that was read its lease, also where a node was missing. */
  readonly leases = new Map<string, LeaseId>()
  readonly #source: NodeSource
  /** Nodes that have their bit and could not be read: whoever meets one of them tries again. */
  readonly #lost = new Set<string>()
  #nodes = 0

  constructor(table: PackTable, source: NodeSource) {
    this.table = table
    this.#source = source
  }

  /** Nodes that were read. */
  get nodes(): number {
    return this.#nodes
  }

  /**
   * Marks what this manifest reaches. Nodes that are missing are passed over, and the first of them is returned: whether that
   * is an alarm depends on the point. Any other failure is thrown.
   */
  async add(key: string, manifest: Manifest, options: AbortOptions = {}): Promise<LifeboatError | undefined> {
    let missing: LifeboatError | undefined
    for (const disk of manifest.disks) missing ??= await this.#disk(manifest, disk, options)
    this.leases.set(key, manifest.lease)
    if (!missing) this.manifests.add(key)
    return missing
  }

  async #disk(
    { domain, point }: Manifest,
    { name, size, chunkSize, top }: ManifestDisk,
    options: AbortOptions,
  ): Promise<LifeboatError | undefined> {
    const tree = treeGeometry(size, chunkSize)
    const walk: Walk = { domain, point, tree, ...options }
    try {
      await this.#enter(walk, parseNode(top, tree, tree.topLevel + 1, 0), 0)
    } catch (error) {
      throw isIntegrityError(error) ? stopped(error, point, name) : error
    }
    return walk.missing && stopped(walk.missing, point, name)
  }

  /** Marks a node's entries and goes into those that are new. */
  async #enter(walk: Walk, node: TreeNode, index: number): Promise<void> {
    if (node.level === 0) this.#chunks(node)
    else await this.#descend(walk, node.level - 1, this.#children(walk, node, index))
  }

  #chunks({ places: { packs, pack, slot, length } }: TreeNode): void {
    const { table } = this
    const rows = packs.map(id => table.row(id))
    for (let entry = 0; entry < slot.length; entry++) table.addLive(rows[pack[entry]!]!, slot[entry]!, length[entry]!)
  }

  #children({ tree }: Walk, node: TreeNode, index: number): WantedNode[] {
    const first = index * widthAt(tree, node.level)
    const wanted: WantedNode[] = []
    for (let position = 0; position < node.width; position++) {
      const ref = node.ref(position)
      if (!ref) continue
      const isNew = this.table.addLive(this.table.row(ref.pack), ref.slot, ref.length)
      if (isNew || (this.#lost.size > 0 && this.#lost.has(nameOf(ref)))) wanted.push({ ref, index: first + position })
    }
    return wanted
  }

  /** Reads nodes of one level, all of them before those below: siblings lie beside each other in their packs. */
  async #descend(walk: Walk, level: number, wanted: readonly WantedNode[]): Promise<void> {
    const atOnce = level === 0 ? LEAVES_AT_ONCE : INNER_NODES_AT_ONCE
    for (let at = 0; at < wanted.length; at += atOnce) {
      walk.signal?.throwIfAborted()
      const below: WantedNode[] = []
      await this.#read(walk, level, wanted.slice(at, at + atOnce), (node, index) => {
        if (level === 0) this.#chunks(node)
        else for (const child of this.#children(walk, node, index)) below.push(child)
      })
      if (below.length > 0) await this.#descend(walk, level - 1, below)
    }
  }

  async #read(
    walk: Walk,
    level: number,
    batch: readonly WantedNode[],
    visit: (node: TreeNode, index: number) => void,
  ): Promise<void> {
    const { signal, tree, domain } = walk
    const indexes = new Map(batch.map(({ ref, index }) => [ref, index]))
    let failure: { error: unknown } | undefined
    const receiver: RecordReceiver = {
      deliver: (ref, content) => {
        const index = indexes.get(ref)
        if (index === undefined) return
        try {
          visit(parseNode(content, tree, level, index), index)
          this.#nodes++
          this.#lost.delete(nameOf(ref))
        } catch (error) {
          failure ??= { error }
        }
      },
      fail: (ref, error) => {
        if (!isLifeboatError(error, 'missing-object')) failure ??= { error }
        else {
          this.#lost.add(nameOf(ref))
          walk.missing ??= error
        }
      },
    }
    await this.#source.read(
      domain,
      batch.map(({ ref }) => ref),
      receiver,
      { signal },
    )
    if (failure) throw failure.error
  }
}

const nameOf = ({ pack, slot }: ChunkRef): string => `${pack}/${slot}`

/** Fails closed: what hangs below is not known, so nothing may be removed. */
const stopped = (cause: LifeboatError, point: PointId, disk: string): LifeboatError =>
  new LifeboatError(
    cause.code,
    `Nothing was removed: disk ${disk} of point ${point} is damaged, and what it needs cannot be told. ${cause.message}`,
    {
      details: { ...cause.details, point, disk },
      hint: `See with \`lifeboat verify\` what is left of it. If the object cannot be brought back, forget that point (\`lifeboat forget\`), and collect again.`,
      cause,
    },
  )
