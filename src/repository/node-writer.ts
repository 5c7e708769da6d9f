import { hex, type PackId, packId, unhex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { nodeId } from '../crypto/ids.ts'
import type { Healing } from './healing.ts'
import { contentOf, encodeNode } from './node-codec.ts'
import type { OpenPack, PackPlace, PlacedRecord } from './open-pack.ts'
import { PackWriter } from './pack-writer.ts'
import type { ChunkRef } from './repository.ts'
import type { WriteContext } from './write-context.ts'

/** What a tree points to: something stored before, or a record of this backup whose pack may have no name yet. */
export type TreeEntry = ChunkRef | PlacedRecord

/** Stands in a node's pack table until the pack that it points to has its name. */
const UNNAMED = packId('f'.repeat(32))
const UNNAMED_BYTES = unhex(UNNAMED)
const NODE_HEADER_BYTES = 12
/** Codec and length. */
const RECORD_HEADER_BYTES = 4

/**
 * Encodes nodes into meta packs while the packs that they point to may still be open, their own meta pack among them: a
 * pack's name follows from its contents, and contents never name places. The name is written into the waiting nodes when
 * it is known, which is always before they are sealed.
 */
export class NodeWriter {
  readonly #context: WriteContext
  readonly #healing: Healing
  readonly #packs: PackWriter
  readonly #closeData: () => void
  #waiting: { readonly place: PackPlace; readonly body: Uint8Array; readonly at: number }[] = []

  /** `closeData` closes the open data pack and calls `named` here. */
  constructor(context: WriteContext, healing: Healing, closeData: () => void) {
    this.#context = context
    this.#healing = healing
    this.#closeData = closeData
    this.#packs = new PackWriter(context, {
      kind: 'meta',
      buffers: 2,
      contentMax: limits.nodeBytesMax,
      onClose: pack => {
        this.#closeData()
        this.named(pack.id)
      },
    })
  }

  get packs(): PackWriter {
    return this.#packs
  }

  /** Stores a node with at least one entry. */
  async append(level: number, entries: readonly (TreeEntry | undefined)[], id: Uint8Array, options: AbortOptions = {}) {
    const { refs, unnamed } = resolve(entries)
    const content = encodeNode(level, refs)
    const placed = await this.#packs.appendPlain(id, content, options)
    const pack = this.#packs.open
    if (unnamed && pack) this.#await(unnamed, pack, placed, entries.length)
    this.#healing.found('meta', id, placed)
    return placed
  }

  /** Whether a node that is stored already may be pointed to: not where it is damaged. */
  mayKeep(node: TreeEntry): boolean {
    if ('pack' in node && this.#healing.isBad(node)) {
      this.#healing.lost('meta', node)
      return false
    }
    this.#healing.found('meta', node.id, node)
    return true
  }

  idOf(level: number, entries: readonly (TreeEntry | undefined)[]): Uint8Array {
    return nodeId(this.#context.domain.nodeIdKey, contentOf(level, this.#context.chunkSize, resolve(entries).refs))
  }

  /** Writes a pack's name into the nodes that point to it. */
  named(name: PackId): void {
    const bytes = unhex(name)
    this.#waiting = this.#waiting.filter(({ place, body, at }) => {
      if (place.id !== name) return true
      body.set(bytes, at)
      return false
    })
  }

  #await(place: PackPlace, pack: OpenPack, node: PlacedRecord, width: number): void {
    const tableAt = node.offset + RECORD_HEADER_BYTES + NODE_HEADER_BYTES + Math.ceil(width / 8)
    const packCount = new DataView(
      pack.body.buffer,
      pack.body.byteOffset + node.offset + RECORD_HEADER_BYTES,
    ).getUint16(2)
    for (let index = 0; index < packCount; index++) {
      const at = tableAt + index * 16
      if (Buffer.compare(pack.body.subarray(at, at + 16), UNNAMED_BYTES) !== 0) continue
      this.#waiting.push({ place, body: pack.body, at })
      return
    }
    throw new RangeError(`a node of ${hex(node.id)} lost the pack that it points to`)
  }
}

/** At most one pack of a kind is open at a time, and all entries of a node are of one kind: one stand-in is enough. */
function resolve(entries: readonly (TreeEntry | undefined)[]): {
  refs: (ChunkRef | undefined)[]
  unnamed: PackPlace | undefined
} {
  let unnamed: PackPlace | undefined
  const refs = entries.map(entry => {
    if (!entry || !('place' in entry)) return entry
    if (entry.place.id === undefined) unnamed = entry.place
    return { ...entry, pack: entry.place.id ?? UNNAMED }
  })
  return { refs, unnamed }
}

/** References of entries whose packs all have their names. */
export function namedRefs(entries: readonly (TreeEntry | undefined)[]): (ChunkRef | undefined)[] {
  const { refs, unnamed } = resolve(entries)
  if (unnamed) throw new RangeError('a top list points to a pack without a name')
  return refs
}
