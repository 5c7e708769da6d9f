/** The store at the start of a walk, made by shipped code: packs with dead slots, packs of nobody, points upon them. */
import { createHmac } from 'node:crypto'
import { hex, type PointId } from '../../../src/core/ids.ts'
import { limits } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { putDamage } from '../../../src/repository/damage-marks.ts'
import { isHook } from '../../../src/repository/index-codec.ts'
import { parsePackKey, pointKey } from '../../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../../src/repository/open.ts'
import { idPrefixBytes } from '../../../src/repository/pack-codec.ts'
import { openTree } from '../../../src/repository/recovery-point.ts'
import type { ChunkRef } from '../../../src/repository/repository.ts'
import type { MemoryStore, StoredObject } from '../../../src/storage/memory.ts'
import {
  beginBackup,
  commitBackup,
  keysOf,
  newMemoryRepository,
  openMemoryRepository,
  pointNumber,
  timeNumber,
} from '../../doubles/memory-repository.ts'
import { rewritePack } from '../../doubles/rewritten-pack.ts'
import type { Configuration } from './configuration.ts'
import { pipelineInSmall } from './in-small.ts'
import { contentsOfPack } from './oracle.ts'

export const CHUNK = 4096
/** Chunks of a leaf: the contents of each point lie in leaves of their own. */
const LEAF = 64
export const DISK_CHUNKS = 6 * LEAF
export const VM = 'vm'

/** Content by chunk number; the others are zeros. */
export type Image = ReadonlyMap<number, string>

export interface Start {
  readonly configuration: Configuration
  readonly entries: ReadonlyMap<string, StoredObject>
  /** Objects that marks call damaged. */
  readonly marked: readonly string[]
  /** Of the points of the start, and of those that the writers will write. */
  readonly images: ReadonlyMap<string, Image>
  readonly pointIds: ReadonlyMap<string, PointId>
  /** Keys of the manifests of the points that are there. */
  readonly manifests: ReadonlyMap<string, string>
  /** Ids as people read them in a story. */
  readonly names: ReadonlyMap<string, string>
  bytesOf(content: string): Uint8Array
}

/** The same repository keys everywhere, so that contents that the sparse index finds are looked for once. */
const SEED = 'schedule'

interface Contents {
  /** Bytes whose content id is one that the sparse index samples. */
  bytesOf(name: string): Uint8Array
  idOf(name: string): Uint8Array
}

async function findContents(): Promise<Contents> {
  const repository = await openMemoryRepository(await newMemoryRepository({ seed: SEED, chunkSize: CHUNK }), {
    seed: SEED,
  })
  const { keyring } = repository.reading
  const [domainKey] = keysOf(repository.store as MemoryStore, 'keys/').filter(key => key.split('/').length === 3)
  const { chunkIdKey } = await keyring.domainKeys(domainKey!.split('/')[1] as never, 0)
  const known = new Map<string, Uint8Array>()
  const hash = (bytes: Uint8Array) => createHmac('sha256', chunkIdKey!).update(bytes).digest()
  const bytesOf = (name: string): Uint8Array => {
    for (let n = 0; !known.has(name); n++) {
      const bytes = seededRandom(`content ${name} ${n}`)(CHUNK)
      if (isHook(hash(bytes))) known.set(name, bytes)
    }
    return known.get(name)!
  }
  return { bytesOf, idOf: name => hash(bytesOf(name)) }
}

let found: Promise<Contents> | undefined

export async function makeStart(configuration: Configuration): Promise<Start> {
  found ??= findContents()
  const contents = await found
  const { bytesOf } = contents
  const store = await newMemoryRepository({ seed: SEED, chunkSize: CHUNK })
  const random = seededRandom(`${SEED} ${configuration.name}`)
  const repository = await openMemoryRepository(store, {
    pipeline: pipelineInSmall,
    seed: `start ${configuration.name}`,
  })
  const names = new Map<string, string>()

  const contentsOf = new Map<string, readonly string[]>()
  for (const [object, names] of Object.entries(configuration.packs)) {
    const pack = object.split('.')[0]!
    if ((contentsOf.get(pack)?.length ?? 0) < names.length) contentsOf.set(pack, names)
  }
  const packKeys = await storePacks(store, repository, contentsOf, contents)
  for (const [pack, key] of packKeys) names.set(parsePackKey(key)!.pack, pack)
  let number = 1

  const images = new Map<string, Image>()
  const pointIds = new Map<string, PointId>()
  const manifests = new Map<string, string>()
  for (const [name, held] of Object.entries(configuration.points)) {
    number++
    images.set(name, imageOf(held))
    pointIds.set(name, pointNumber(number))
    const before = keysOf(store, 'packs/').length
    await writePoint(repository, number, imageOf(held), bytesOf)
    if (keysOf(store, 'packs/').length !== before) throw new Error(`point ${name} did not reuse its contents`)
    manifests.set(name, pointKey(VM, timeNumber(number), pointNumber(number)))
  }
  for (const key of keysOf(store, 'points/seed/')) store.tamper(key, undefined)

  for (const [object, held] of Object.entries(configuration.packs)) {
    const [pack = '', run] = object.split('.')
    if (run === undefined) continue
    const slots = held.map(content => contentsOf.get(pack)!.indexOf(content))
    await rewritePack({ store, repository, random }, packKeys.get(pack)!, run.repeat(16), slots)
  }
  for (const object of Object.keys(configuration.packs))
    if (object.includes('.')) store.tamper(packKeys.get(object.split('.')[0]!)!, undefined)

  const marked = configuration.isMarked ? await markDamage(store, repository) : []
  for (const [n, writer] of (configuration.writers ?? []).entries()) {
    const image = new Map(images.get(writer.base ?? writer.like ?? ''))
    const first = (n + 1) * LEAF
    for (const [at, content] of [`n${n + 1}`, ...(writer.reuse ?? [])].entries()) image.set(first + at, content)
    images.set(`M${n + 1}`, image)
    pointIds.set(`M${n + 1}`, pointNumber(100 + n))
  }
  for (const [name, id] of pointIds) names.set(id, name)
  return { configuration, entries: store.snapshot(), marked, images, pointIds, manifests, names, bytesOf }
}

/** One backup stores all packs; its manifest goes later, as if a collector had been interrupted after that. Its index leads to all of them. */
async function storePacks(
  store: MemoryStore,
  repository: OpenedRepository,
  contentsOf: ReadonlyMap<string, readonly string[]>,
  contents: Contents,
): Promise<ReadonlyMap<string, string>> {
  const keys = new Map<string, string>()
  const { packTargetBytes } = limits
  // So that each disk begins a pack of its own.
  Object.assign(limits, { packTargetBytes: 1 })
  try {
    await using writer = await beginBackup(repository, { vm: 'seed', number: 1, disks: [] })
    for (const [pack, names] of contentsOf) {
      const disk = await writer.disk({ name: pack, size: DISK_CHUNKS * CHUNK, description: {} })
      for (const [chunk, content] of imageOf(names)) await disk.write(chunk * CHUNK, contents.bytesOf(content).slice())
      await disk.finish({ bytesRead: 0 })
    }
    await commitBackup(writer)
  } finally {
    Object.assign(limits, { packTargetBytes })
  }
  for (const [key, { bytes }] of store.snapshot()) {
    if (!key.startsWith('packs/')) continue
    const held = await contentsOfPack(repository, key, bytes)
    for (const [pack, [first = '']] of contentsOf)
      if (held.has(hex(contents.idOf(first).subarray(0, idPrefixBytes)))) keys.set(pack, key)
  }
  return keys
}

/** Gives the keys of what is marked. */
async function markDamage(store: MemoryStore, repository: OpenedRepository): Promise<readonly string[]> {
  const [point] = await repository.points({ vm: VM })
  const { disks } = await repository.manifest(point!)
  const tree = openTree(repository.reading, await repository.manifest(point!), disks[0]!)
  const marked: string[] = []
  const mark = async ({ id, pack, slot }: ChunkRef) => {
    const object = [...store.snapshot().keys()].find(key => parsePackKey(key)?.pack === pack)!
    const contents = [id.slice(0, idPrefixBytes)]
    const damage = { object, slots: [slot], contents, points: [point!.id], what: 'it could not be read' }
    await putDamage(repository.reading.control, pack, damage, { who: 'verify', now: new Date(0) })
    marked.push(object)
  }
  await mark(tree.top.ref(0)!)
  const leaf = await tree.node(0, 0)
  await mark(leaf!.ref(0)!)
  await tree[Symbol.asyncDispose]()
  return marked
}

/** Where a writer's own chunks begin. */
export const regionOf = (writer: number): number => (writer + 1) * LEAF

const imageOf = (contents: readonly string[]): Image => new Map(contents.map((content, chunk) => [chunk, content]))

async function writePoint(
  repository: OpenedRepository,
  number: number,
  image: Image,
  bytesOf: (content: string) => Uint8Array,
): Promise<void> {
  await using writer = await beginBackup(repository, { vm: VM, number, disks: [] })
  const disk = await writer.disk({ name: 'vda', size: DISK_CHUNKS * CHUNK, description: {} })
  for (const [chunk, content] of image) await disk.write(chunk * CHUNK, bytesOf(content).slice())
  await disk.finish({ bytesRead: 0 })
  await commitBackup(writer)
}
