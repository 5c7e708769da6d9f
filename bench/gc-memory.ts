/**
 * The mark of a collection over repositories of 1 and 10 TiB with 30 points, whose tree nodes a generator makes up: memory and
 * CPU against the size. The shipped mark reads them; that they do not come out of a store leaves out requests and decryption.
 */
import { createHash } from 'node:crypto'
import { type DomainId, domainId, leaseId, type PackId, packId, pointId, unhex } from '../src/core/ids.ts'
import { GiB, KiB, limits, MiB } from '../src/core/limits.ts'
import { Mark, type NodeSource } from '../src/maintenance/mark.ts'
import { PackTable } from '../src/maintenance/pack-table.ts'
import { encodeNode } from '../src/repository/node-codec.ts'
import type { ChunkRef, Manifest } from '../src/repository/repository.ts'
import { treeGeometry } from '../src/repository/tree-geometry.ts'
import { type Goal, judge } from './goal.ts'

const CHUNK = 64 * KiB
const DISK = 1024 * GiB
const POINTS = 30
/** Leaves that each point after the first rewrites, and the chunks of such a leaf that are new. */
const LEAVES_CHANGED = 1 / 32
const CHUNKS_CHANGED = 1 / 4
const NEIGHBOURHOOD = 64
const DOMAIN: DomainId = domainId('00000000000000aa')
const TREE = treeGeometry(DISK, CHUNK)
/** Incompressible data: the most packs. */
const CHUNKS_PER_PACK = 256
const LEAF_BYTES = 2_300
/** In an encoded leaf: behind its header and bitmap. */
const PACKS_AT = 12 + limits.leafWidth / 8
const LEAVES_PER_PACK = Math.floor((16 * MiB) / LEAF_BYTES)

export const goal: Goal = {
  id: 'gc-memory',
  title: 'mark of a collection',
  async run({ record, say }) {
    const small = await mark(1)
    const large = await mark(10)
    for (const figures of [small, large])
      say(
        `${figures.tib} TiB x ${POINTS}: ${figures.packs} packs, ${figures.nodes} nodes, ` +
          `${(figures.tableBytes / MiB).toFixed(0)} MiB of table, ${figures.seconds.toFixed(1)} CPU-s`,
      )
    const perTiB = (large.tableBytes - small.tableBytes) / 9
    const rssPerTiB = Math.max(0, large.peakBytes - small.peakBytes) / 9
    const at100 = large.tableBytes + 90 * perTiB
    const rssAt100 = large.peakBytes + 90 * rssPerTiB
    record('figures', { small, large, at100, rssAt100 })
    const row = (what: string, peer: string, ratio: number, atMost: number) =>
      judge({ goal: `gc: ${what}`, product: 'mark', peer, ratios: [ratio], target: { atMost } })
    return [
      row('table at 100 TiB x 30', '1 GiB', at100 / GiB, 1),
      row('resident memory at 100 TiB x 30', '1 GiB', rssAt100 / GiB, 1),
      row('CPU for 10 TiB', '10 x 1 TiB', large.seconds / (10 * small.seconds), 1.3),
    ]
  },
}

async function mark(tib: number) {
  const table = new PackTable()
  const generator = generated()
  const marked = new Mark(table, generator)
  let peakBytes = 0
  const started = process.cpuUsage()
  for (let vm = 0; vm < tib; vm++) {
    listPacks(table, vm)
    for (let point = 0; point < POINTS; point++) {
      await marked.add(`${vm}/${point}`, manifest(vm, point))
      peakBytes = Math.max(peakBytes, process.memoryUsage.rss())
    }
  }
  // Not the wall clock, which says more about who else was at work.
  const { user, system } = process.cpuUsage(started)
  const seconds = (user + system) / 1e6
  return { tib, seconds, packs: table.count, nodes: marked.nodes, tableBytes: table.memoryBytes, peakBytes }
}

/** As a LIST of packs/ enters them: those of the first point. */
function listPacks(table: PackTable, vm: number): void {
  const modifiedAt = new Date('2026-01-01T00:00:00Z')
  for (let pack = 0; pack < TREE.chunks / CHUNKS_PER_PACK; pack++)
    table.addObject('data', DOMAIN, packAt('data', vm, 0, pack), undefined, { size: 16 * MiB, modifiedAt })
}

function manifest(vm: number, point: number): Manifest {
  const top = Array.from({ length: TREE.topWidth }, (_, index) => nodeRef(vm, TREE.topLevel, index, point))
  const id = (vm * POINTS + point).toString(16).padStart(16, '0')
  return {
    point: pointId(id),
    vm: `vm${vm}`,
    takenAt: new Date('2026-01-01T00:00:00Z'),
    sequence: point + 1,
    kind: 'full',
    consistency: 'crash',
    lease: leaseId(id),
    domain: DOMAIN,
    host: 'bench',
    description: {},
    omitted: [],
    disks: [
      {
        name: 'vda',
        size: DISK,
        chunkSize: CHUNK,
        level: TREE.topLevel,
        salt: '',
        root: '',
        top: encodeNode(TREE.topLevel + 1, top),
        description: {},
        bytesRead: 0,
        bytesChanged: 0,
        bytesNew: 0,
        bytesStored: 0,
        bytesAudited: 0,
      },
    ],
  }
}

/** Makes each node from what its id says: disk, level, index and the point that wrote it. */
function generated(): NodeSource {
  return {
    async read(_domain, refs, receiver) {
      for (const ref of refs) {
        const view = new DataView(ref.id.buffer, ref.id.byteOffset, 32)
        const [vm, level, index, point] = [0, 4, 8, 12].map(at => view.getUint32(at)) as [
          number,
          number,
          number,
          number,
        ]
        if (level > 0) receiver.deliver(ref, encodeNode(level, inner(vm, level, index, point)), 'store')
        else receiver.deliver(ref, point === 0 ? firstLeaf(vm, index) : encodeNode(0, leaf(vm, index, point)), 'store')
      }
    },
  }
}

/** The mark asks for no chunk's content. */
const NO_ID = new Uint8Array(32)

/** A leaf of the first point is 64 neighbours in one pack: four different ones, but for the pack's name. */
const templates = new Map<number, Uint8Array>()
function firstLeaf(vm: number, index: number): Uint8Array {
  const quarter = index % (CHUNKS_PER_PACK / limits.leafWidth)
  const known = templates.get(quarter) ?? encodeNode(0, leaf(0, quarter, 0))
  templates.set(quarter, known)
  const bytes = known.slice()
  const pack = packAt('data', vm, 0, Math.floor((index * limits.leafWidth) / CHUNKS_PER_PACK))
  bytes.set(unhex(pack), PACKS_AT)
  return bytes
}

const leaf = (vm: number, index: number, point: number): ChunkRef[] =>
  Array.from({ length: limits.leafWidth }, (_, position) => chunkRef(vm, index, position, point))

const inner = (vm: number, level: number, index: number, point: number): (ChunkRef | undefined)[] =>
  Array.from({ length: limits.nodeWidth }, (_, position) =>
    nodeRef(vm, level - 1, index * limits.nodeWidth + position, point),
  )

/** The node as of `point`: it lies where the last point that changed it put it. */
function nodeRef(vm: number, level: number, index: number, point: number): ChunkRef | undefined {
  if (index >= TREE.nodes[level]!) return undefined
  const writer = level === 0 ? leafWriter(vm, index, point) : innerWriter(vm, index, point)
  const order = level === 0 && writer > 0 ? ranked(index, NEIGHBOURHOOD) : index
  const pack = packAt('meta', vm, writer, Math.floor(order / LEAVES_PER_PACK) + level * 4096)
  return { id: idOf(vm, level, index, writer), pack, slot: order % LEAVES_PER_PACK, offset: 0, length: LEAF_BYTES }
}

function chunkRef(vm: number, leafIndex: number, position: number, point: number): ChunkRef {
  let writer = leafWriter(vm, leafIndex, point)
  while (writer > 0 && position % Math.round(1 / CHUNKS_CHANGED) !== writer % Math.round(1 / CHUNKS_CHANGED))
    writer = leafWriter(vm, leafIndex, writer - 1)
  const chunk = leafIndex * limits.leafWidth + position
  const order = writer === 0 ? chunk : Math.floor(ranked(chunk, NEIGHBOURHOOD * limits.leafWidth) * CHUNKS_CHANGED)
  const pack = packAt('data', vm, writer, Math.floor(order / CHUNKS_PER_PACK))
  return { id: NO_ID, pack, slot: order % CHUNKS_PER_PACK, offset: 0, length: CHUNK }
}

/** Its number among those that its point wrote: every 32nd neighbourhood of `width`. */
const ranked = (index: number, width: number): number =>
  Math.floor((index / width) * LEAVES_CHANGED) * width + (index % width)

/** Each point rewrites one of 32 neighbourhoods of 64 leaves, another one each time. */
function leafWriter(vm: number, index: number, point: number): number {
  const writer = (Math.floor(index / NEIGHBOURHOOD) + vm) % Math.round(1 / LEAVES_CHANGED)
  return writer <= point ? writer : 0
}

/** The last point that changed a leaf below this node of level 1. */
function innerWriter(vm: number, index: number, point: number): number {
  let last = 0
  for (let leaf = 0; leaf < limits.nodeWidth; leaf += NEIGHBOURHOOD)
    last = Math.max(last, leafWriter(vm, index * limits.nodeWidth + leaf, point))
  return last
}

function idOf(...numbers: number[]): Uint8Array {
  const id = new Uint8Array(32)
  const view = new DataView(id.buffer)
  for (const [at, number] of numbers.entries()) view.setUint32(at * 4, number)
  return id
}

/** Neighbours lie in the pack that was named last, of each kind and writer. */
const lastPacks = new Map<number, { readonly vm: number; readonly number: number; readonly pack: PackId }>()
function packAt(kind: 'data' | 'meta', vm: number, point: number, number: number): PackId {
  const of = kind === 'data' ? point : -1 - point
  const last = lastPacks.get(of)
  if (last && last.vm === vm && last.number === number) return last.pack
  const name = createHash('sha256').update(`${kind} ${vm} ${point} ${number}`).digest('hex')
  const pack = packId(`00${name.slice(0, 30)}`)
  lastPacks.set(of, { vm, number, pack })
  return pack
}
