/** What a bucket says of itself: versioning, Object Lock, lifecycle rules. */
import {
  GetBucketLifecycleConfigurationCommand,
  GetBucketVersioningCommand,
  GetObjectLockConfigurationCommand,
  type LifecycleRule,
  type ObjectLockRule,
  type S3Client,
} from '@aws-sdk/client-s3'
import type { AbortOptions } from '../core/scope.ts'
import { statusOf, translateS3Error } from './s3-errors.ts'
import type { VersionFeatures } from './versioned-store.ts'

export interface BucketFeatures extends VersionFeatures {
  /** Also where versioning was suspended: what was kept before is still there. */
  readonly hasVersions: boolean
  /** Locks every object that is put without a lock of its own. */
  readonly defaultRetention?: ObjectLockRule['DefaultRetention']
}

export interface BucketQuestions {
  /** Asked once, when first needed: who changes it starts the program again. */
  features(options: AbortOptions): Promise<BucketFeatures>
  lifecycleRules(options: AbortOptions): Promise<readonly LifecycleRule[]>
}

export function bucketQuestions(client: S3Client, bucket: string, endpoint: string | undefined): BucketQuestions {
  let known: BucketFeatures | undefined

  /** Undefined: the store does not know the question, does not tell this user, or answers that nothing was set. */
  async function ask<T>({ signal }: AbortOptions, question: () => Promise<T>): Promise<T | undefined> {
    signal?.throwIfAborted()
    try {
      return await question()
    } catch (error) {
      if (isUnset(error) || [400, 403, 405, 501].includes(statusOf(error) ?? 0)) return undefined
      throw translateS3Error(error, { verb: 'lock', key: '', bucket, endpoint, signal })
    }
  }

  async function askFeatures(options: AbortOptions): Promise<BucketFeatures> {
    const abort = { abortSignal: options.signal }
    const versioning = await ask(options, () => client.send(new GetBucketVersioningCommand({ Bucket: bucket }), abort))
    const lock = await ask(options, () => client.send(new GetObjectLockConfigurationCommand({ Bucket: bucket }), abort))
    const configuration = lock?.ObjectLockConfiguration
    return {
      versioning: versioning?.Status === 'Enabled',
      hasVersions: versioning?.Status !== undefined,
      objectLock: configuration?.ObjectLockEnabled === 'Enabled',
      defaultRetention: configuration?.Rule?.DefaultRetention,
    }
  }

  return {
    async features(options) {
      known ??= await askFeatures(options)
      return known
    },
    async lifecycleRules(options) {
      const answer = await ask(options, () =>
        client.send(new GetBucketLifecycleConfigurationCommand({ Bucket: bucket }), { abortSignal: options.signal }),
      )
      return answer?.Rules ?? []
    },
  }
}

/** Stores name it differently. Half an answer, or a proxy's, names nothing: such a 404 proves no absence. */
const isUnset = (error: unknown): boolean =>
  statusOf(error) === 404 &&
  error instanceof Error &&
  'Code' in error &&
  typeof error.Code === 'string' &&
  error.Code !== 'NoSuchBucket'
