/**
 * Points with disks of any size, made in a moment: a dense disk is one chunk and one node of each level, referred to from
 * everywhere, which is a tree like any other to its readers. For tests and benchmarks of scale.
 */
import { hex, leaseId, pointId } from '../../src/core/ids.ts'
import { parseConfig } from '../../src/crypto/config-mac.ts'
import { chunkId } from '../../src/crypto/ids.ts'
import { twinPipeline } from '../../src/native/twin.ts'
import { Healing } from '../../src/repository/healing.ts'
import { contentOf, encodeNode, topRoot } from '../../src/repository/node-codec.ts'
import { NodeWriter, namedRefs, type TreeEntry } from '../../src/repository/node-writer.ts'
import { pointKey } from '../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../src/repository/open.ts'
import { PackWriter } from '../../src/repository/pack-writer.ts'
import type { Manifest, PointSummary } from '../../src/repository/repository.ts'
import { sealManifest } from '../../src/repository/stored-manifest.ts'
import { treeGeometry, usedAt, widthAt } from '../../src/repository/tree-geometry.ts'
import type { WriteContext } from '../../src/repository/write-context.ts'

export interface SyntheticDisk {
  readonly size: number
  /** Of each 1,024 nodes at the top of the tree and of the chunks in a leaf, how many are there; 1,024 = dense. */
  readonly density?: number
}

/** Every stored chunk of the disk is this. */
export const syntheticChunk = (chunkSize: number): Uint8Array => new Uint8Array(chunkSize).fill(0x5a)

export async function syntheticPoint(
  repository: OpenedRepository,
  { size, density = 1024 }: SyntheticDisk,
  vm = 'synthetic',
): Promise<PointSummary> {
  const context = await writeContext(repository)
  const { random, chunkSize, domain } = context
  const data = new PackWriter(context, {
    kind: 'data',
    buffers: 1,
    contentMax: chunkSize,
    onClose: pack => nodes.named(pack.id),
  })
  const nodes: NodeWriter = new NodeWriter(context, await Healing.begin(context, [], {}), () => data.close())
  const tree = treeGeometry(size, chunkSize)
  const isThere = (position: number) => (position * 389) % 1024 < density || position === 0

  const content = syntheticChunk(chunkSize)
  const chunk: TreeEntry = await data.appendPlain(chunkId(domain.chunkIdKey!, content), content)
  /** The entry of node `index`: one for all nodes that lie within the disk, another for the last. */
  const made = new Map<string, TreeEntry | undefined>()
  const node = async (level: number, index: number): Promise<TreeEntry | undefined> => {
    if (level < 0) return chunk
    const used = usedAt(tree, level, index)
    const isLast = level <= tree.topLevel && index === tree.nodes[level]! - 1
    const name = `${level}/${isLast}`
    if (made.has(name)) return made.get(name)
    const entries = await entriesOf(level, index, used)
    const entry = await nodes.append(level, entries, nodes.idOf(level, entries))
    made.set(name, entry)
    return entry
  }
  const entriesOf = async (level: number, index: number, used: number) => {
    const width = widthAt(tree, level)
    const entries: (TreeEntry | undefined)[] = new Array(width).fill(undefined)
    for (let p = 0; p < used; p++)
      if (level === 0 || level > tree.topLevel ? isThere(p) : true)
        entries[p] = await node(level - 1, index * width + p)
    return entries
  }
  const top = await entriesOf(tree.topLevel + 1, 0, tree.topWidth)
  data.close()
  await data.finish()
  await nodes.packs.finish()

  const refs = namedRefs(top)
  const salt = random(16)
  const root = topRoot(salt, tree, contentOf(tree.topLevel + 1, chunkSize, refs))
  const manifest: Manifest = {
    point: pointId(hex(random(8))),
    vm,
    takenAt: new Date('2026-11-21T10:00:00Z'),
    sequence: 1,
    kind: 'full',
    consistency: 'crash',
    lease: leaseId(hex(random(8))),
    domain: domain.domain,
    host: 'synthetic',
    description: {},
    disks: [
      {
        name: 'vda',
        size,
        chunkSize,
        level: tree.topLevel,
        salt: hex(salt),
        root: hex(root),
        top: encodeNode(tree.topLevel + 1, refs),
        description: {},
        bytesRead: 0,
        bytesChanged: 0,
        bytesNew: 0,
        bytesStored: 0,
        bytesAudited: 0,
      },
    ],
    omitted: [],
  }
  const key = pointKey(vm, manifest.takenAt, manifest.point)
  await context.store.put(key, [sealManifest(context, key, manifest)])
  return { id: manifest.point, vm, takenAt: manifest.takenAt, key, state: 'committed' }
}

async function writeContext({ reading, chunkSize }: OpenedRepository): Promise<WriteContext> {
  const { store, keyring, records, clock, random, host } = reading
  const { config } = parseConfig(await store.get('config'))
  const domain = await keyring.domainKeys(config.domain, 0)
  const keys = keyring.repository
  const pipeline = twinPipeline
  const lease = { leaseExpiryMs: 60_000, leaseRefreshMs: 10_000 }
  return { store, keyring, records, clock, random, host, keys, domain, pipeline, chunkSize, ...lease }
}
