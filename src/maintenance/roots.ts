/** Which manifests a collection marks from, and what becomes of those that vanish or are damaged on the way. */
import { isIntegrityError, LifeboatError } from '../core/errors.ts'
import type { LeaseId } from '../core/ids.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { isFenced } from '../repository/base-points.ts'
import { parseFenceKey, parsePointKey, pointsPrefix } from '../repository/object-keys.ts'
import type { Manifest } from '../repository/repository.ts'
import { readStoredManifest } from '../repository/stored-manifest.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { Mark } from './mark.ts'

type Context = Pick<MaintenanceContext, 'store' | 'control' | 'keyring'>

/** Trees that are walked side by side; each holds a manifest and a batch of nodes. */
const MANIFESTS_AT_ONCE = 8

export interface ListedPoint {
  readonly key: string
  readonly modifiedAt: Date
}

export async function listPointObjects(
  { store }: Pick<Context, 'store'>,
  options: AbortOptions,
): Promise<ListedPoint[]> {
  const found: ListedPoint[] = []
  for await (const { key, modifiedAt } of store.list(pointsPrefix, options))
    if (parsePointKey(key)) found.push({ key, modifiedAt })
  return found
}

/** Leases that somebody fenced: what is committed under them is void. */
export async function listFences(
  { control }: Pick<Context, 'control'>,
  options: AbortOptions,
): Promise<ReadonlySet<LeaseId>> {
  const fences = new Set<LeaseId>()
  for await (const key of control.list('fence', options)) {
    const fence = parseFenceKey(key)
    if (fence) fences.add(fence.lease)
  }
  return fences
}

export interface RootsResult {
  /**
   * 'gone': a manifest that was listed was not there any more. 'torn': one vanished while its tree was walked, so that others
   * may have passed over what it could not read: this mark is of no use, a fresh one has to begin.
   */
  readonly outcome: 'done' | 'gone' | 'torn'
  /** Void manifests by key, each with its fenced lease. */
  readonly voids: ReadonlyMap<string, LeaseId>
}

export interface MarkRootsOptions extends AbortOptions {
  readonly fences: ReadonlySet<LeaseId>
  readonly progress?: (done: number, total: number) => void
}

/**
 * Marks from these manifests, but those that are marked already. Committed ones come first: a node that a void one cannot
 * read must not be passed over for its bit. Throws an integrity error, naming object and point, where one cannot be read.
 */
export async function markRoots(
  context: Context,
  mark: Mark,
  keys: readonly string[],
  { fences, progress, signal }: MarkRootsOptions,
): Promise<RootsResult> {
  const voids = new Map<string, LeaseId>()
  let outcome: RootsResult['outcome'] = 'done'
  let done = 0
  const worsen = (to: 'gone' | 'torn') => {
    if (outcome !== 'torn') outcome = to
  }
  const read = async (key: string, options: AbortOptions): Promise<Manifest | undefined> => {
    const stored = await readRoot(context, key, options)
    if (!stored) worsen('gone')
    return stored
  }
  const fresh = keys.filter(key => !mark.manifests.has(key))
  const walk = async (key: string, manifest: Manifest, isVoid: boolean, options: AbortOptions) => {
    const missing = await mark.add(key, manifest, options)
    progress?.(++done, fresh.length)
    if (!missing || isVoid) return
    // A run that removes a point deletes its manifest before its packs: is it still there, then this is damage.
    if ((await context.store.head(key, options)) === undefined) worsen('torn')
    else if (await isFenced(context.control, manifest, options)) voids.set(key, manifest.lease)
    else throw missing
  }
  await forEachLimited(
    fresh,
    MANIFESTS_AT_ONCE,
    async (key, each) => {
      const manifest = await read(key, { signal: each })
      if (manifest && fences.has(manifest.lease)) voids.set(key, manifest.lease)
      else if (manifest) await walk(key, manifest, false, { signal: each })
    },
    { signal },
  )
  await forEachLimited(
    [...voids.keys()],
    MANIFESTS_AT_ONCE,
    async (key, each) => {
      const manifest = await read(key, { signal: each })
      if (manifest) await walk(key, manifest, true, { signal: each })
    },
    { signal },
  )
  return { outcome, voids }
}

async function readRoot(
  { store, keyring }: Context,
  key: string,
  options: AbortOptions,
): Promise<Manifest | undefined> {
  try {
    return (await readStoredManifest({ store, keys: keyring.repository }, key, options))?.manifest
  } catch (error) {
    if (!isIntegrityError(error)) throw error
    const point = parsePointKey(key)?.point
    throw new LifeboatError(
      error.code,
      `Nothing was removed: what point ${point} needs cannot be told. ${error.message}`,
      {
        details: { ...error.details, object: key, point },
        hint: 'Bring the object back from a copy of the repository, or forget that point (`lifeboat forget`), and collect again.',
        cause: error,
      },
    )
  }
}
