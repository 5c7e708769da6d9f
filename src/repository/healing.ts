/**
 * A writer that holds what is damaged elsewhere heals it: it looks out for the contents that damage marks name, and when its
 * own point is committed copies the records where it stored or found them into `<damaged pack>.<run>`, so that older points
 * read again (docs/concurrency.md, section 11). Nothing here can fail a backup.
 */
import { messageOf } from '../core/errors.ts'
import type { PackId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { DamageMark } from './damage-marks.ts'
import { namedRefs, type TreeEntry } from './node-writer.ts'
import { type PackKeyParts, packKey, parsePackKey } from './object-keys.ts'
import { idPrefixBytes, type PackKind } from './pack-codec.ts'
import { RecordKeys } from './record-keys.ts'
import { type Repair, storeRepair } from './repair-object.ts'
import type { ChunkRef, HealResult } from './repository.ts'
import { RewrittenPacks } from './rewritten-packs.ts'
import type { WriteContext } from './write-context.ts'

interface Wanted {
  readonly kind: PackKind
  readonly packs: Set<PackId>
  found?: TreeEntry
}

export class Healing {
  readonly #context: WriteContext
  /** Null: which slots are bad is not known, so that all count as bad. */
  readonly #bad = new Map<PackId, ReadonlySet<number> | null>()
  readonly #wanted = new Map<string, Wanted>()

  private constructor(context: WriteContext) {
    this.#context = context
  }

  /** Reads what the marks name and nobody has healed yet. Without marks it asks for nothing. */
  static async begin(context: WriteContext, marks: readonly DamageMark[], options: AbortOptions): Promise<Healing> {
    const healing = new Healing(context)
    for (const { pack, known } of marks) healing.#bad.set(pack, known?.slots ? new Set(known.slots) : null)
    for (const mark of marks) {
      const left = await unhealed(context, mark, options)
      // Ids are made with the keys of a domain: another's contents are never met here.
      if (left?.place.domain !== context.domain.domain) continue
      for (const content of left.contents) healing.#want(left.place.kind, content, mark.pack)
    }
    return healing
  }

  /** Whether a reference to this place is to be replaced although the content is the same. */
  isBad({ pack, slot }: Pick<ChunkRef, 'pack' | 'slot'>): boolean {
    const slots = this.#bad.get(pack)
    return slots === null || slots?.has(slot) === true
  }

  /** The content of a bad place, told by whoever came upon it: marks do not always name it. */
  lost(kind: PackKind, { id, pack }: ChunkRef): void {
    this.#want(kind, id.subarray(0, idPrefixBytes), pack)
  }

  /** This content lies at a sound place. */
  found(kind: PackKind, id: Uint8Array, entry: TreeEntry): void {
    if (this.#wanted.size === 0) return
    const wanted = this.#wanted.get(nameOf(kind, id))
    if (wanted && !('pack' in entry && this.isBad(entry))) wanted.found ??= entry
  }

  /**
   * For when the point is committed, and all its packs have their names. Never throws. A repaired node must not stay when a
   * collection may remove what it points to: `throwIfLost` saves work, `stands` decides.
   */
  async store(
    { throwIfLost, stands }: Pick<Repair, 'throwIfLost' | 'stands'>,
    options: AbortOptions,
  ): Promise<HealResult> {
    const packs: PackId[] = []
    let records = 0
    let failure: string | undefined
    for (const [pack, { kind, refs }] of this.#byPack())
      try {
        const healed = await storeRepair(this.#context, { kind, pack, refs, throwIfLost, stands }, options)
        records += healed
        if (healed > 0) packs.push(pack)
      } catch (error) {
        failure ??= messageOf(error)
      }
    return { records, packs, ...(failure === undefined ? {} : { failure }) }
  }

  #byPack(): ReadonlyMap<PackId, { kind: PackKind; refs: ChunkRef[] }> {
    const byPack = new Map<PackId, { kind: PackKind; refs: ChunkRef[] }>()
    for (const { kind, packs, found } of this.#wanted.values()) {
      const [ref] = found ? namedRefs([found]) : []
      if (!ref) continue
      for (const pack of packs) {
        const group = byPack.get(pack) ?? { kind, refs: [] }
        group.refs.push(ref)
        byPack.set(pack, group)
      }
    }
    return byPack
  }

  #want(kind: PackKind, content: Uint8Array, pack: PackId): void {
    const name = nameOf(kind, content)
    const wanted = this.#wanted.get(name)
    if (wanted) wanted.packs.add(pack)
    else if (this.#wanted.size < limits.healContentsMax) this.#wanted.set(name, { kind, packs: new Set([pack]) })
  }
}

/** Contents that the mark names and of which no object of the pack has a copy but those that were found bad with it. */
async function unhealed(
  { store, keyring }: Pick<WriteContext, 'store' | 'keyring'>,
  { pack, known }: DamageMark,
  options: AbortOptions,
): Promise<{ readonly place: PackKeyParts; readonly contents: readonly Uint8Array[] } | undefined> {
  const place = known && parsePackKey(known.object)
  if (!known || !place) return undefined
  if (known.contents.length === 0) return { place, contents: [] }
  const { kind, domain } = place
  const { repository } = keyring.repository
  const rewritten = new RewrittenPacks({ store, repository, recordKeys: new RecordKeys(keyring) })
  await rewritten.refresh(kind, domain, pack, options)
  const bad = new Set(known.runs?.map(run => packKey(kind, domain, pack, run)))
  const contents = known.contents.filter(content =>
    rewritten.copies(kind, domain, pack, content).every(({ object }) => bad.has(object)),
  )
  return { place, contents }
}

/**
 * Whether tree nodes of earlier points are damaged and nobody has healed them: a full backup then shares none of theirs, so
 * that it stores all anew. Damaged chunks need no more than to be read.
 */
export async function hasLostNodes(
  source: Pick<WriteContext, 'store' | 'keyring'>,
  marks: readonly DamageMark[],
  options: AbortOptions = {},
): Promise<boolean> {
  for (const mark of marks) {
    const left = await unhealed(source, mark, options)
    if (!left) continue
    const isUnknown = mark.known?.slots === null && mark.known.contents.length === 0
    if (left.place.kind === 'meta' && (left.contents.length > 0 || isUnknown)) return true
  }
  return false
}

const nameOf = (kind: PackKind, id: Uint8Array): string =>
  kind + Buffer.from(id.buffer, id.byteOffset, idPrefixBytes).toString('latin1')
