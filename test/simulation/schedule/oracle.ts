/**
 * What must be true after every step, told from the store itself:
 *
 * I1 a point whose manifest is there, and which is not void, has all its records;
 * I2 a point that was confirmed to its writer is there, or was forgotten;
 * I3 an open export has all records of its point.
 *
 * It reads the store past the hosts, so that asking makes no step.
 */
import { hex, type LeaseId, type PointId } from '../../../src/core/ids.ts'
import { openFooter } from '../../../src/crypto/footer.ts'
import {
  fencesPrefix,
  leaseFencesPrefix,
  parseForgottenKey,
  parsePackKey,
  parsePointKey,
  pointsPrefix,
} from '../../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../../src/repository/open.ts'
import {
  footerRange,
  idPrefixBytes,
  parseRows,
  parseTrailer,
  trailerBytes,
} from '../../../src/repository/pack-codec.ts'
import { openTree } from '../../../src/repository/recovery-point.ts'
import type { Manifest } from '../../../src/repository/repository.ts'
import { readStoredManifest } from '../../../src/repository/stored-manifest.ts'
import { walkTree } from '../../../src/repository/tree-walk.ts'
import type { MemoryStore } from '../../../src/storage/memory.ts'

/** A record by what it holds and the pack that it was sealed in: any object of that pack may have it. */
interface Need {
  /** As in the key of the pack's first object. */
  readonly pack: string
  readonly content: string
}

interface KnownPoint {
  readonly id: PointId
  readonly manifest: Manifest
  readonly needs: readonly Need[]
}

export interface Oracle {
  /** To be called after each change of the store. */
  changed(verb: 'put' | 'delete', key: string): Promise<void>
  confirmed(point: PointId): void
  isConfirmed(point: PointId): boolean
  /** The export has passed all checks and reads from now on. */
  opened(name: string, point: PointId): void
  closed(name: string): void
  wasForgotten(point: PointId): boolean
  wasFenced(lease: string): boolean
  leaseOf(point: PointId): LeaseId | undefined
  /** What is stored for nobody, and by which objects. */
  garbage(): readonly string[]
  /** Objects of which all that is needed is also in another object of the pack that counts. */
  duplicates(counts: (other: string, object: string) => boolean): readonly string[]
  /** Keys and contents of all objects that ever were. */
  readonly history: ReadonlyMap<string, Uint8Array>
}

export interface OracleOptions {
  readonly store: MemoryStore
  readonly repository: OpenedRepository
  readonly violated: (what: string) => void
  readonly nameOf: (key: string) => string
}

/** Objects of the start are the same in all walks: what they hold is read once. */
const contentsKnown = new WeakMap<Uint8Array, ReadonlySet<string>>()
const pointsKnown = new WeakMap<Uint8Array, KnownPoint>()

/** A pack of which less is alive is worth compacting. */
const LIVE_SHARE_MIN = 0.4

export async function oracle({ store, repository, violated, nameOf }: OracleOptions): Promise<Oracle> {
  const history = new Map<string, Uint8Array>()
  /** Contents of each pack object that is there. */
  const objects = new Map<string, ReadonlySet<string>>()
  /** Objects of each pack. */
  const packs = new Map<string, Set<string>>()
  const points = new Map<string, KnownPoint>()
  const confirmed = new Set<PointId>()
  const forgotten = new Set<PointId>()
  const fenced = new Set<string>()
  const fences = new Set<string>()
  const open = new Map<string, KnownPoint>()
  const known = new Map<PointId, KnownPoint>()

  for (const key of store.snapshot().keys()) await enter(key)
  function bytesOf(key: string): Uint8Array {
    const found = store.snapshot().get(key)
    if (!found) throw new Error(`${key} is not there`)
    return found.bytes
  }

  const isThere = ({ pack, content }: Need): boolean => {
    for (const object of packs.get(pack) ?? []) if (objects.get(object)?.has(content)) return true
    return false
  }
  const isVoid = ({ manifest }: KnownPoint): boolean => {
    const prefix = leaseFencesPrefix(manifest.lease)
    for (const key of fences) if (key.startsWith(prefix)) return true
    return false
  }
  function check(): void {
    for (const point of points.values()) {
      const missing = point.needs.find(need => !isThere(need))
      if (missing && (confirmed.has(point.id) || !isVoid(point)))
        violated(`I1 point ${nameOf(point.id)} needs ${nameOf(missing.pack)}, which is not there`)
    }
    for (const [name, point] of open) {
      const missing = point.needs.find(need => !isThere(need))
      if (missing) violated(`I3 ${name} lost ${nameOf(missing.pack)} while it was open`)
    }
  }

  return {
    history,
    async changed(verb, key) {
      if (verb === 'put') await enter(key)
      else leave(key)
      if (/^(points|packs|meta|fences)\//.test(key)) check()
    },
    confirmed(point) {
      confirmed.add(point)
      if (![...points.values()].some(({ id }) => id === point) && !forgotten.has(point))
        violated(`I2 point ${nameOf(point)} is confirmed and not there`)
      check()
    },
    isConfirmed: point => confirmed.has(point),
    opened(name, point) {
      const found = known.get(point)
      if (!found) throw new Error(`${name} opened ${point}, which never was`)
      open.set(name, found)
      check()
    },
    closed: name => void open.delete(name),
    wasForgotten: point => forgotten.has(point),
    wasFenced: lease => fenced.has(lease),
    leaseOf: point => known.get(point)?.manifest.lease,
    garbage() {
      const needed = allNeeded()
      const found: string[] = []
      for (const [pack, names] of packs) {
        const wanted = needed.get(pack) ?? new Set()
        for (const object of names) {
          const contents = objects.get(object) ?? new Set()
          const live = [...contents].filter(content => wanted.has(content)).length
          if (live === 0 || (pack.startsWith('packs/') && live / contents.size < LIVE_SHARE_MIN)) found.push(object)
        }
      }
      return found
    },
    duplicates(counts) {
      const needed = allNeeded()
      const found: string[] = []
      for (const [pack, names] of packs)
        for (const object of names) {
          const wanted = [...(objects.get(object) ?? [])].filter(content => needed.get(pack)?.has(content))
          const others = [...names].filter(other => other !== object && counts(other, object))
          const isElsewhere = (content: string) => others.some(other => objects.get(other)?.has(content))
          if (wanted.length > 0 && wanted.every(isElsewhere)) found.push(object)
        }
      return found
    },
  }

  function allNeeded(): ReadonlyMap<string, ReadonlySet<string>> {
    const needed = new Map<string, Set<string>>()
    for (const { needs } of points.values())
      for (const { pack, content } of needs) needed.set(pack, (needed.get(pack) ?? new Set()).add(content))
    return needed
  }

  async function enter(key: string): Promise<void> {
    const bytes = bytesOf(key)
    if (/^(points|packs|meta)\//.test(key)) history.set(key, bytes)
    const mark = parseForgottenKey(key)
    if (mark) forgotten.add(mark)
    if (key.startsWith(fencesPrefix)) {
      fences.add(key)
      fenced.add(key.split('/')[1]!)
    }
    if (parsePackKey(key)) await enterPack(key, bytes)
    if (key.startsWith(pointsPrefix)) await enterPoint(key, bytes)
  }

  function leave(key: string): void {
    fences.delete(key)
    objects.delete(key)
    packs.get(firstOf(key))?.delete(key)
    const point = points.get(key)
    if (!point) return
    points.delete(key)
    if (confirmed.has(point.id) && !forgotten.has(point.id))
      violated(`I2 point ${nameOf(point.id)} was confirmed, never forgotten, and is gone`)
  }

  async function enterPack(key: string, bytes: Uint8Array): Promise<void> {
    const contents = contentsKnown.get(bytes) ?? (await contentsOfPack(repository, key, bytes))
    contentsKnown.set(bytes, contents)
    objects.set(key, contents)
    packs.set(firstOf(key), (packs.get(firstOf(key)) ?? new Set()).add(key))
  }

  async function enterPoint(key: string, bytes: Uint8Array): Promise<void> {
    const point = pointsKnown.get(bytes) ?? (await pointAt(key))
    pointsKnown.set(bytes, point)
    points.set(key, point)
    known.set(point.id, point)
  }

  async function pointAt(key: string): Promise<KnownPoint> {
    const id = parsePointKey(key)?.point
    const { keyring } = repository.reading
    const stored = await readStoredManifest({ store, keys: keyring.repository }, key)
    if (!id || !stored) throw new Error(`${key} cannot be read`)
    const needs: Need[] = []
    const { domain } = stored.manifest
    const add = (folder: string, pack: string, content: Uint8Array) =>
      needs.push({
        pack: `${folder}/${domain}/${pack.slice(2, 4)}/${pack}`,
        content: hex(content.subarray(0, idPrefixBytes)),
      })
    for (const disk of stored.manifest.disks) {
      await using tree = openTree(repository.reading, stored.manifest, disk)
      const visitor = {
        enters: () => true,
        read: () => {},
        // The need for it is noted above; what hangs on it cannot be told.
        failed: () => {},
      }
      for await (const chunks of walkTree(tree, {
        ...visitor,
        enters: record => {
          add('meta', record.ref.pack, record.ref.id)
          return true
        },
      }))
        for (const { ref } of chunks) add('packs', ref.pack, ref.id)
    }
    return { id, manifest: stored.manifest, needs }
  }
}

/** Ids of the contents of a pack object, cut to what its footer keeps, in hex. */
export async function contentsOfPack(
  { id, reading }: OpenedRepository,
  key: string,
  bytes: Uint8Array,
): Promise<ReadonlySet<string>> {
  const trailer = parseTrailer(bytes.subarray(-trailerBytes), bytes.length, key)
  const { metadataKey } = await reading.keyring.domainKeys(parsePackKey(key)!.domain, trailer.epoch)
  const { offset, length } = footerRange(trailer)
  const sealed = bytes.subarray(offset, offset + length)
  const rows = parseRows(openFooter({ repository: id, objectKey: key }, metadataKey, sealed), trailer, key)
  const contents = new Set<string>()
  for (let row = 0; row < rows.count; row++)
    contents.add(hex(rows.idPrefixes.subarray(row * idPrefixBytes, (row + 1) * idPrefixBytes)))
  return contents
}

const firstOf = (key: string): string => key.replace(/\.[0-9a-f]{16}$/, '')
