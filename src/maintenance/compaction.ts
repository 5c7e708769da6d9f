/**
 * Step 10 of a collection, for one pack: its records that are not dead are copied, as they are, into `<pack>.<run>`; then its
 * other objects go. Nothing is opened but footers, so it needs no right to data.
 */
import { isIntegrityError, LifeboatError } from '../core/errors.ts'
import { hex, type PackId, packId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { getBounded } from '../repository/control-object.ts'
import { packKey, parsePackKey } from '../repository/object-keys.ts'
import { idPrefixBytes } from '../repository/pack-codec.ts'
import { readWholePack, type WholePack } from '../repository/pack-object.ts'
import { epochOf } from '../repository/record-keys.ts'
import { type CopiedRecord, encodeRewrittenObject } from '../repository/rewritten-object.ts'
import { bodyLength, isBody } from '../storage/checks.ts'
import type { CompactionPlan } from './compaction-plan.ts'
import type { MaintenanceContext } from './maintenance.ts'

type Context = Pick<MaintenanceContext, 'store' | 'keyring' | 'random'>

export interface CompactionOutcome {
  /** 'gone': another run is at it. 'damaged': what is left of it must not be touched. 'locked': the copy is there, sources are too. */
  readonly outcome: 'done' | 'gone' | 'damaged' | 'nothing' | 'locked'
  readonly removed: number
  readonly bytesBefore: number
  readonly bytesAfter: number
}

export interface Compaction extends CompactionPlan {
  readonly run: string
  /** Gives what is locked. */
  readonly remove: (keys: readonly string[]) => Promise<ReadonlySet<string>>
}

export async function compactPack(
  context: Context,
  { pack, sources, dead, run, remove }: Compaction,
  options: AbortOptions,
): Promise<CompactionOutcome> {
  const gone = new Set(dead)
  const survivors = new Map<string, CopiedRecord>()
  let bytesBefore = 0
  const stays = (outcome: CompactionOutcome['outcome']) => ({ outcome, removed: 0, bytesBefore: 0, bytesAfter: 0 })
  try {
    for (const source of sources) {
      const object = await readWholePack(context, source, options)
      if (!object) return stays('gone')
      bytesBefore += object.size
      for (const record of recordsOf(object, pack)) {
        const isDead = record.origin === pack && gone.has(record.slot)
        const name = `${record.origin}/${record.slot}`
        if (!isDead && !survivors.has(name)) survivors.set(name, record)
      }
    }
  } catch (error) {
    if (!isIntegrityError(error)) throw error
    return stays('damaged')
  }
  if (survivors.size === 0 || survivors.size > limits.packSlotsMax) return stays('nothing')
  const bytesAfter = await writeCopy(context, run, sources[0]!, [...survivors.values()].sort(byOrigin(pack)), options)
  if (bytesAfter === undefined) return stays('gone')
  const locked = await remove(sources)
  return {
    outcome: locked.size > 0 ? 'locked' : 'done',
    removed: sources.length - locked.size,
    bytesBefore,
    bytesAfter,
  }
}

function* recordsOf({ rows, body }: WholePack, pack: PackId): Iterable<CopiedRecord> {
  const { origins, offsets, lengths, idPrefixes } = rows
  for (let row = 0; row < rows.count; row++)
    yield {
      idPrefix: idPrefixes.subarray(row * idPrefixBytes, (row + 1) * idPrefixBytes),
      stored: body.subarray(offsets[row], offsets[row]! + lengths[row]!),
      origin: origins ? packId(hex(origins.packs.subarray(row * 16, row * 16 + 16))) : pack,
      slot: origins ? origins.slots[row]! : row,
    }
}

/** Siblings stay beside each other. */
const byOrigin =
  (pack: PackId) =>
  (a: CopiedRecord, b: CopiedRecord): number => {
    if (a.origin === b.origin) return a.slot - b.slot
    if (a.origin === pack || b.origin === pack) return a.origin === pack ? -1 : 1
    return a.origin < b.origin ? -1 : 1
  }

/**
 * Its size. It is read back before anything else goes: it will be the only copy. Undefined where it is not there any more: another
 * run has taken it for one of its sources, copied it, and removed them all.
 */
async function writeCopy(
  { store, keyring, random }: Context,
  run: string,
  source: string,
  records: readonly CopiedRecord[],
  options: AbortOptions,
): Promise<number | undefined> {
  const place = parsePackKey(source)
  if (!place) throw new LifeboatError('internal', `${source} is no pack`)
  const { kind, domain, pack } = place
  const key = packKey(kind, domain, pack, run)
  const { metadataKey } = await keyring.domainKeys(domain, epochOf(pack), options)
  const { repository } = keyring.repository
  const parts = encodeRewrittenObject({ repository, objectKey: key, kind, pack, metadataKey, random }, records)
  await store.put(key, parts, options)
  const size = bodyLength(parts)
  const stored = await getBounded(store, key, size, options)
  if (!stored) return undefined
  if (!isBody(stored, parts))
    throw new LifeboatError('store-failed', `${key} is not what was just stored there`, {
      details: { object: key },
      hint: 'No record was removed. Do not trust this store before you know why; then collect again.',
    })
  return size
}
