/**
 * The versions of a bucket. The store answers 403 both to who may not do something and to what Object Lock forbids, so after a
 * refusal the lock itself is asked for.
 */
import {
  DeleteObjectCommand,
  GetObjectLegalHoldCommand,
  GetObjectRetentionCommand,
  PutObjectLegalHoldCommand,
  PutObjectRetentionCommand,
  type S3Client,
} from '@aws-sdk/client-s3'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import type { Range } from '../core/range.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { checkKey, checkPrefix } from './checks.ts'
import type { ObjectInfo } from './object-store.ts'
import type { BucketDeleter, DeleteTarget } from './s3-delete.ts'
import { type S3Call, statusOf, translateS3Error } from './s3-errors.ts'
import type { BucketQuestions } from './s3-features.ts'
import { listBucketVersions } from './s3-list-versions.ts'
import { absent, locked } from './store-errors.ts'
import type { LockMode, ObjectLock, ObjectVersion, VersionedStore } from './versioned-store.ts'

const ASKED_AT_ONCE = 16

export interface S3VersionsOptions {
  readonly client: S3Client
  readonly bucket: string
  readonly endpoint?: string
  /** The prefix of the store with its '/', or ''. */
  readonly base: string
  readonly questions: BucketQuestions
  readonly deleter: BucketDeleter
  readonly get: (key: string, range: Range | undefined, options: AbortOptions, versionId: string) => Promise<Uint8Array>
  readonly head: (key: string, options: AbortOptions, versionId?: string) => Promise<ObjectInfo | undefined>
}

export interface S3Versions {
  readonly store: VersionedStore
  /** Removes all versions and markers of the keys. */
  removeAll(keys: readonly string[], options: AbortOptions): Promise<void>
}

export const lockWord = (mode: LockMode): 'COMPLIANCE' | 'GOVERNANCE' =>
  mode === 'compliance' ? 'COMPLIANCE' : 'GOVERNANCE'

export function s3Versions(options: S3VersionsOptions): S3Versions {
  const { client, bucket, endpoint, base, questions, deleter, get, head } = options
  const target = (key: string, VersionId: string | undefined) => ({ Bucket: bucket, Key: base + key, VersionId })

  async function attempt<T>(call: Omit<S3Call, 'bucket' | 'endpoint'>, work: () => Promise<T>): Promise<T> {
    call.signal?.throwIfAborted()
    try {
      return await work()
    } catch (error) {
      throw translateS3Error(error, { ...call, bucket, endpoint })
    }
  }

  async function* versions(prefix: string, options: { startAfter?: string } & AbortOptions = {}) {
    checkPrefix(prefix)
    const { startAfter, signal } = options
    signal?.throwIfAborted()
    const listing = { bucket, prefix: base + prefix, startAfter: startAfter ? base + startAfter : '', signal }
    try {
      for await (const page of listBucketVersions(client, listing))
        for (const version of page) if (version.key !== base) yield { ...version, key: version.key.slice(base.length) }
    } catch (error) {
      throw translateS3Error(error, { verb: 'list', key: prefix, bucket, endpoint, signal })
    }
  }

  async function* versionsOf(key: string, options: AbortOptions): AsyncGenerator<ObjectVersion> {
    for await (const version of versions(key, options)) {
      if (version.key !== key) return // The key itself comes first of all that begin with it.
      yield version
    }
  }

  async function lockOf(key: string, versionId?: string, options: AbortOptions = {}): Promise<ObjectLock> {
    checkKey(key)
    const { objectLock } = await questions.features(options)
    if (objectLock) return askLock(key, versionId, options)
    if (await head(key, options, versionId)) return { legalHold: false }
    throw absent(key)
  }

  async function askLock(key: string, versionId: string | undefined, { signal }: AbortOptions): Promise<ObjectLock> {
    const ask = <T>(question: () => Promise<T>) =>
      attempt({ verb: 'lock', key, versionId, signal }, () => question().catch(unlessUnset))
    const abort = { abortSignal: signal }
    const [retention, hold] = await Promise.all([
      ask(() => client.send(new GetObjectRetentionCommand(target(key, versionId)), abort)),
      ask(() => client.send(new GetObjectLegalHoldCommand(target(key, versionId)), abort)),
    ])
    const { Mode, RetainUntilDate } = retention?.Retention ?? {}
    const legalHold = hold?.LegalHold?.Status === 'ON'
    if (Mode === undefined || RetainUntilDate === undefined) return { legalHold }
    return { mode: Mode === 'COMPLIANCE' ? 'compliance' : 'governance', retainUntil: RetainUntilDate, legalHold }
  }

  /** Asked after a refusal. Who may not know the lock either was refused for want of rights, as far as we know. */
  async function isLocked(key: string, versionId: string | undefined, options: AbortOptions): Promise<boolean> {
    try {
      const { legalHold, retainUntil } = await lockOf(key, versionId, options)
      return legalHold || retainUntil !== undefined
    } catch (error) {
      if (isLifeboatError(error, 'store-denied') || isLifeboatError(error, 'store-not-found')) return false
      throw error
    }
  }

  async function deleteVersion(key: string, versionId: string, options: AbortOptions = {}): Promise<void> {
    checkKey(key)
    const { signal } = options
    await attempt({ verb: 'delete', key, versionId, signal }, async () => {
      try {
        await client.send(new DeleteObjectCommand(target(key, versionId)), { abortSignal: signal })
      } catch (error) {
        if (statusOf(error) === 403 && (await isLocked(key, versionId, options))) throw locked([key], error)
        throw error
      }
    })
  }

  const store: VersionedStore = {
    async features(options = {}) {
      const { versioning, objectLock } = await questions.features(options)
      return { versioning, objectLock }
    },
    versions,
    getVersion: (key, versionId, range, options = {}) => get(key, range, options, versionId),
    deleteVersion,
    lockOf,
    async retain(key, versionId, mode, until, options = {}) {
      checkKey(key)
      const { signal } = options
      await attempt({ verb: 'lock', key, versionId, signal }, async () => {
        const Retention = { Mode: lockWord(mode), RetainUntilDate: until }
        const command = new PutObjectRetentionCommand({ ...target(key, versionId), Retention })
        try {
          await client.send(command, { abortSignal: signal })
        } catch (error) {
          if (statusOf(error) === 403 && (await isLocked(key, versionId, options))) throw shortened(key, error)
          throw error
        }
      })
    },
    async legalHold(key, versionId, on, { signal } = {}) {
      checkKey(key)
      await attempt({ verb: 'lock', key, versionId, signal }, async () => {
        const LegalHold = { Status: on ? ('ON' as const) : ('OFF' as const) }
        const command = new PutObjectLegalHoldCommand({ ...target(key, versionId), LegalHold })
        await client.send(command, { abortSignal: signal })
      })
    },
  }

  return {
    store,
    async removeAll(keys, options) {
      const { older, latest, left, failure } = await listAll(keys, options)
      const { signal } = options
      const refused = await attempt({ verb: 'delete', key: keys[0] ?? '', signal }, async () => [
        // The latest go last, so that no older one is seen again in between.
        ...(await deleter.delete(older, options)),
        ...(await deleter.delete(latest, options)),
      ])
      const stuck = refused.map(({ Key }) => Key.slice(base.length))
      if (failure) throw withLeft(failure, [...left, ...stuck])
      await throwRefused(refused, options).catch(error => {
        throw isLifeboatError(error, 'store-locked') ? error : withLeft(error, stuck)
      })
    },
  }

  /** Stops at the first failure, and gives what it has: among a thousand requests one fails, and the others shall count. */
  async function listAll(keys: readonly string[], options: AbortOptions) {
    const found = { older: [] as DeleteTarget[], latest: [] as DeleteTarget[], left: [] as string[] }
    let failure: unknown
    const listOne = async (key: string, signal: AbortSignal): Promise<void> => {
      if (failure !== undefined) return void found.left.push(key)
      try {
        const all = await Array.fromAsync(versionsOf(key, { signal }))
        for (const { versionId, isLatest } of all)
          (isLatest ? found.latest : found.older).push({ Key: base + key, VersionId: versionId })
      } catch (error) {
        signal.throwIfAborted()
        failure = error
        found.left.push(key)
      }
    }
    await forEachLimited(new Set(keys), ASKED_AT_ONCE, listOne, options)
    return { ...found, failure }
  }

  async function throwRefused(refused: readonly DeleteTarget[], options: AbortOptions): Promise<void> {
    if (refused.length === 0) return
    const keys = new Set<string>()
    await forEachLimited(
      refused,
      ASKED_AT_ONCE,
      async ({ Key, VersionId }, signal) => {
        const key = Key.slice(base.length)
        if (!(await isLocked(key, VersionId, { signal }))) throw deleteDenied(key)
        keys.add(key)
      },
      options,
    )
    throw locked([...keys].sort())
  }
}

/** Tells `retrying` that the other keys are gone. */
const withLeft = (error: unknown, left: readonly string[]): unknown =>
  error instanceof LifeboatError
    ? new LifeboatError(error.code, error.message, {
        retry: error.retry,
        details: { ...error.details, left: [...new Set(left)] },
        cause: error.cause,
      })
    : error

/** Undefined where nothing was ever set. Ceph and Amazon name that differently. */
function unlessUnset(error: unknown): undefined {
  const name = error instanceof Error ? error.name : ''
  if (name === 'NoSuchObjectLockConfiguration' || name === 'ObjectLockConfigurationNotFoundError') return undefined
  throw error
}

const shortened = (key: string, cause: unknown): LifeboatError =>
  new LifeboatError('store-locked', `The retention of ${key} can only be extended`, {
    details: { object: key },
    hint: 'Give a later date, and keep the mode.',
    cause,
  })

const deleteDenied = (key: string): LifeboatError =>
  new LifeboatError('store-denied', `The store refused to delete a version of ${key}, which is not locked`, {
    details: { object: key },
    hint: 'Allow s3:DeleteObjectVersion on this bucket to the user.',
  })
