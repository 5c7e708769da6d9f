/**
 * A view of a store that keeps versions: a delete marker, which anybody with the right to delete can set, hides nothing. What
 * Lifeboat itself deletes goes with all its versions, so that a version under a marker is one that somebody else has hidden.
 */
import { channel } from 'node:diagnostics_channel'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { ObjectInfo, ObjectStore } from '../storage/object-store.ts'
import type { ObjectVersion, VersionedStore } from '../storage/versioned-store.ts'
import { hasKeptKeys, isKeptKey } from './lock-policy.ts'

/** Told of objects that were read past a delete marker or a version put over them: { key }. */
const readPast = channel('lifeboat:object-read-past')

export const tellReadPast = (key: string): void => readPast.publish({ key })

/** The same store where keys have no versions. */
export function unhidden(inner: ObjectStore): ObjectStore {
  const { versioned } = inner
  if (!versioned) return inner

  const whereHidden = async (key: string, options: AbortOptions | undefined): Promise<ObjectVersion | undefined> => {
    const [first] = await firstVersions(versioned, key, options)
    if (first) tellReadPast(key)
    return first
  }

  return {
    ...inner,
    async get(key, range, options) {
      try {
        return await inner.get(key, range, options)
      } catch (error) {
        if (!isKeptKey(key) || !isLifeboatError(error, 'store-not-found')) throw error
        const version = await whereHidden(key, options)
        if (!version) throw error
        return await getHidden(versioned, version, range, options)
      }
    },

    async head(key, options) {
      const found = await inner.head(key, options)
      if (found || !isKeptKey(key)) return found
      const version = await whereHidden(key, options)
      return version && { ...infoOf(version), isHidden: true }
    },

    list: (prefix, options) =>
      hasKeptKeys(prefix) ? listUnhidden(inner, versioned, prefix, options) : inner.list(prefix, options),

    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  }
}

/** Data versions of a key, the oldest first, as many as a reader tries. None where this user may not ask, or the store cannot tell. */
export async function firstVersions(
  versioned: VersionedStore,
  key: string,
  options?: AbortOptions,
): Promise<readonly ObjectVersion[]> {
  const found: ObjectVersion[] = []
  try {
    for await (const version of versioned.versions(key, options)) {
      if (version.key !== key) break
      if (!version.isDeleteMarker) found.push(version)
    }
  } catch (error) {
    if (!isLifeboatError(error, 'store-denied') && !isLifeboatError(error, 'store-failed')) throw error
  }
  return found.reverse().slice(0, limits.versionsTriedMax)
}

async function getHidden(
  versioned: VersionedStore,
  { key, versionId }: ObjectVersion,
  range: Range | undefined,
  options: AbortOptions | undefined,
): Promise<Uint8Array> {
  try {
    return await versioned.getVersion(key, versionId, range, options)
  } catch (cause) {
    if (!isLifeboatError(cause, 'store-denied')) throw cause
    throw new LifeboatError(
      'hidden-object',
      `${key} is hidden by a delete marker, and this user may not read past it`,
      {
        details: { object: key, versionId },
        hint: 'Give this user the right to read versions (s3:GetObjectVersion), or remove the marker: `lifeboat lock repair`.',
        cause,
      },
    )
  }
}

const infoOf = ({ key, size, modifiedAt }: ObjectVersion): ObjectInfo => ({ key, size, modifiedAt })

/** A listing of versions instead of one of objects: as many pages, and hidden ones are in it. */
async function* listUnhidden(
  inner: ObjectStore,
  versioned: VersionedStore,
  prefix: string,
  options: ({ startAfter?: string } & AbortOptions) | undefined,
): AsyncGenerator<ObjectInfo> {
  let key: string | undefined
  let seen: string | undefined
  let isHidden = false
  try {
    for await (const version of versioned.versions(prefix, options)) {
      const isFirst = version.key !== seen
      if (isFirst) isHidden = version.isDeleteMarker
      seen = version.key
      if (version.isDeleteMarker || version.key === key) continue
      key = version.key
      yield isHidden ? { ...infoOf(version), isHidden } : infoOf(version)
    }
  } catch (error) {
    if (!isLifeboatError(error, 'store-denied') || key !== undefined) throw error
    // A host that may not list versions sees what is not hidden, and `verify` on another one sees the rest.
    yield* inner.list(prefix, options)
  }
}
