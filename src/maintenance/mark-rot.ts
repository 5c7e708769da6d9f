/** What a scrub found, as marks for writers: with the key of the metadata it is known which records lie in a rotten MiB. */
import { isIntegrityError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import { openFooter } from '../crypto/footer.ts'
import { type KnownDamage, listDamage, putDamage } from '../repository/damage-marks.ts'
import { packKey, parsePackKey } from '../repository/object-keys.ts'
import { checksumUnit, footerRange, idPrefixBytes, type PackRows, parseRows } from '../repository/pack-codec.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { ScrubProblem } from './scrub.ts'

/** Gives how many packs were marked. What is known of them already is kept. */
export async function markRot(
  context: MaintenanceContext,
  problems: readonly ScrubProblem[],
  options: AbortOptions = {},
): Promise<number> {
  const { control, who, clock } = context
  const marks = new Map((await listDamage(control, options)).map(({ pack, known }) => [pack, known]))
  let marked = 0
  for (const problem of problems) {
    const place = problem.kind === 'unchecked' ? undefined : parsePackKey(problem.object)
    if (!place) continue
    const records = await rottenRecords(context, problem, options)
    const before = marks.get(place.pack)
    const damage: KnownDamage = {
      object: packKey(place.kind, place.domain, place.pack),
      slots: records && before?.slots !== null ? [...(before?.slots ?? []), ...records.slots] : null,
      contents: [...(before?.contents ?? []), ...(records?.contents ?? [])],
      runs: [...(before?.runs ?? []), ...(place.run === undefined ? [] : [place.run])],
      points: before?.points ?? [],
      what: problem.message,
    }
    await putDamage(control, place.pack, damage, { who, now: clock.now() }, options)
    marks.set(place.pack, damage)
    marked++
  }
  return marked
}

/** Undefined where the footer is lost as well. */
async function rottenRecords(
  { store, keyring }: MaintenanceContext,
  { object, trailer, rotten }: ScrubProblem,
  options: AbortOptions,
): Promise<{ slots: number[]; contents: Uint8Array[] } | undefined> {
  const place = parsePackKey(object)
  if (!trailer || !rotten || !place) return undefined
  try {
    const { metadataKey } = await keyring.domainKeys(place.domain, trailer.epoch, options)
    const footer = await store.get(object, footerRange(trailer), options)
    const sealedFor = { repository: keyring.repository.repository, objectKey: object }
    return within(parseRows(openFooter(sealedFor, metadataKey, footer), trailer, object), rotten)
  } catch (error) {
    if (isIntegrityError(error)) return undefined
    throw error
  }
}

function within(rows: PackRows, rotten: readonly number[]): { slots: number[]; contents: Uint8Array[] } {
  const units = new Set(rotten)
  const slots: number[] = []
  const contents: Uint8Array[] = []
  for (let row = 0; row < rows.count; row++) {
    const first = Math.floor(rows.offsets[row]! / checksumUnit)
    const last = Math.floor((rows.offsets[row]! + rows.lengths[row]! - 1) / checksumUnit)
    let isRotten = false
    for (let unit = first; unit <= last; unit++) isRotten ||= units.has(unit)
    if (!isRotten) continue
    slots.push(rows.origins?.slots[row] ?? row)
    contents.push(rows.idPrefixes.slice(row * idPrefixBytes, (row + 1) * idPrefixBytes))
  }
  return { slots, contents }
}
