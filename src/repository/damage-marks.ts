/**
 * What is known to be damaged: one mark for each pack (docs/repository-format.md, section 8). Writers store anew what a mark
 * names and reuse nothing of its pack; `points` shows whom it harms; verify writes it and takes it away.
 */
import { isIntegrityError } from '../core/errors.ts'
import { type PackId, type PointId, pointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import type { ControlObjects } from './control-object.ts'
import type { JsonFields } from './json-fields.ts'
import { damagedKey, parseDamagedKey, parsePackKey } from './object-keys.ts'
import { idPrefixBytes } from './pack-codec.ts'

export interface DamageMark {
  readonly pack: PackId
  /** Undefined where the mark itself cannot be read: then nothing is known but the pack's name. */
  readonly known?: KnownDamage
}

export interface KnownDamage {
  /** The pack's key, which tells kind and domain. */
  readonly object: string
  /** Null: which records are bad is not known. */
  readonly slots: readonly number[] | null
  /** Content id prefixes of the bad records that points need; a writer that holds such a content heals it. */
  readonly contents: readonly Uint8Array[]
  /** `<pack>.<run>` that were there when it was found and hold no good copy: one of another name heals. */
  readonly runs?: readonly string[]
  readonly points: readonly PointId[]
  readonly what: string
}

export async function listDamage(control: ControlObjects, options: AbortOptions = {}): Promise<readonly DamageMark[]> {
  const marks: DamageMark[] = []
  await forEachLimited(
    control.list('damaged', options),
    limits.getsInFlight,
    async (key, signal) => {
      const pack = parseDamagedKey(key)
      if (!pack) return
      try {
        const mark = await control.get('damaged', key, { signal })
        if (mark) marks.push({ pack, known: parseMark(mark, pack) })
      } catch (error) {
        // Whatever it says, the pack is not to be trusted.
        if (!isIntegrityError(error)) throw error
        marks.push({ pack })
      }
    },
    options,
  )
  return marks.sort((a, b) => (a.pack < b.pack ? -1 : 1))
}

export async function putDamage(
  control: ControlObjects,
  pack: PackId,
  { object, slots, contents, runs = [], points, what }: KnownDamage,
  { who, now }: { who: string; now: Date },
  options: AbortOptions = {},
): Promise<void> {
  const document = {
    object,
    slots,
    contents: Buffer.concat(contents.slice(0, limits.packSlotsMax)).toString('base64'),
    ...(runs.length > 0 ? { runs } : {}),
    points: points.slice(0, limits.damagePointsMax),
    who,
    when: now.toISOString(),
    what: what.slice(0, 1000),
  }
  await control.put('damaged', damagedKey(pack), document, options)
}

function parseMark(mark: JsonFields, pack: PackId): KnownDamage | undefined {
  if (!mark.has('object')) return undefined
  const object = mark.text('object')
  if (parsePackKey(object)?.pack !== pack) throw mark.absurd('object')
  const slots = mark.has('slots') ? mark.counts('slots', limits.packSlotsMax) : null
  const bytes = Buffer.from(mark.text('contents', limits.damageMarkMax), 'base64')
  if (bytes.length % idPrefixBytes !== 0 || bytes.length > limits.packSlotsMax * idPrefixBytes)
    throw mark.absurd('contents')
  const contents: Uint8Array[] = []
  for (let at = 0; at < bytes.length; at += idPrefixBytes) contents.push(bytes.subarray(at, at + idPrefixBytes))
  const points = mark.texts('points', limits.damagePointsMax).map(point => {
    if (!/^[0-9a-f]{16}$/.test(point)) throw mark.absurd('points')
    return pointId(point)
  })
  const runs = mark.has('runs') ? mark.texts('runs', limits.rewrittenObjectsMax) : []
  return { object, slots, contents, runs, points, what: mark.text('what') }
}
