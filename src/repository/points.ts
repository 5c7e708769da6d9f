/** The points of a repository by their names, with what became of each. One LIST of points/, forgotten/ and fences/. */
import { isIntegrityError } from '../core/errors.ts'
import type { LeaseId, PointId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import type { RepositoryKeys } from '../crypto/keys.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import type { ControlObjects } from './control-object.ts'

import { parseFenceKey, parseForgottenKey, parsePointKey, pointsPrefix, vmPointsPrefix } from './object-keys.ts'
import type { PointSummary } from './repository.ts'
import { readStoredManifest } from './stored-manifest.ts'

interface ListingContext {
  readonly store: ObjectStore
  readonly keys: RepositoryKeys
  readonly control: ControlObjects
}

/** Ascending by VM name and time. Without `all` only what is committed and not forgotten. */
export async function listPoints(
  context: ListingContext,
  { vm, all = false, signal }: { vm?: string; all?: boolean } & AbortOptions = {},
): Promise<readonly PointSummary[]> {
  const found = new Map<string, PointSummary>()
  const prefix = vm === undefined ? pointsPrefix : vmPointsPrefix(vm)
  const forgotten = new Set<PointId>()
  const fences = new Map<LeaseId, string>()
  await Promise.all([
    (async () => {
      for await (const { key, isHidden } of context.store.list(prefix, { signal })) {
        const parts = parsePointKey(key)
        if (!parts) continue
        const point = { id: parts.point, vm: parts.vm, takenAt: parts.takenAt, key, state: 'committed' } as const
        found.set(key, isHidden ? { ...point, isHidden } : point)
      }
    })(),
    (async () => {
      for await (const key of context.control.list('forgotten', { signal })) {
        const point = parseForgottenKey(key)
        if (point) forgotten.add(point)
      }
    })(),
    (async () => {
      for await (const key of context.control.list('fence', { signal })) {
        const fence = parseFenceKey(key)
        if (fence) fences.set(fence.lease, key)
      }
    })(),
  ])
  const voidKeys = fences.size === 0 ? new Set<string>() : await fencedManifests(context, fences, found, { signal })
  return [...found.values()]
    .map(point => ({ ...point, state: stateOf(point, forgotten, voidKeys) }))
    .filter(({ state }) => all || state === 'committed')
    .sort(byNameAndTime)
}

function stateOf(
  { id, key }: PointSummary,
  forgotten: ReadonlySet<PointId>,
  voidKeys: ReadonlySet<string>,
): PointSummary['state'] {
  if (forgotten.has(id)) return 'forgotten'
  return voidKeys.has(key) ? 'void' : 'committed'
}

/**
 * Which listed manifests were written under a fenced lease. A fence names the manifest that it voids; where one does not, the
 * manifests themselves must be asked for their leases.
 */
async function fencedManifests(
  { store, keys, control }: ListingContext,
  fences: ReadonlyMap<LeaseId, string>,
  found: ReadonlyMap<string, PointSummary>,
  options: AbortOptions,
): Promise<ReadonlySet<string>> {
  const voidKeys = new Set<string>()
  let isNamed = true
  await forEachLimited(
    fences.values(),
    limits.getsInFlight,
    async (key, signal) => {
      const fence = await control.get('fence', key, { signal }).catch(passIntegrity)
      if (fence?.has('manifest')) voidKeys.add(fence.text('manifest'))
      else isNamed = false
    },
    options,
  )
  if (isNamed) return voidKeys
  await forEachLimited(
    found.keys(),
    limits.getsInFlight,
    async (key, signal) => {
      // A damaged manifest stays in the list: opening it says what is wrong with it.
      const stored = await readStoredManifest({ store, keys }, key, { signal }).catch(passIntegrity)
      if (stored && fences.has(stored.manifest.lease)) voidKeys.add(key)
    },
    options,
  )
  return voidKeys
}

function passIntegrity(error: unknown): undefined {
  if (!isIntegrityError(error)) throw error
}

function byNameAndTime(a: PointSummary, b: PointSummary): number {
  if (a.vm !== b.vm) return a.vm < b.vm ? -1 : 1
  return a.takenAt.getTime() - b.takenAt.getTime() || (a.id < b.id ? -1 : 1)
}
