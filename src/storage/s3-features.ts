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
  /** Each question is answered once, when first needed: who changes the bucket starts the program again. */
  features(options: AbortOptions): Promise<BucketFeatures>
  lifecycleRules(options: AbortOptions): Promise<readonly LifecycleRule[]>
}

export function bucketQuestions(client: S3Client, bucket: string, endpoint: string | undefined): BucketQuestions {
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

  const askVersioning = once(options =>
    ask(options, () => client.send(new GetBucketVersioningCommand({ Bucket: bucket }), abortOf(options))),
  )
  const askLock = once(options =>
    ask(options, () => client.send(new GetObjectLockConfigurationCommand({ Bucket: bucket }), abortOf(options))),
  )
  const askLifecycle = once(options =>
    ask(options, () => client.send(new GetBucketLifecycleConfigurationCommand({ Bucket: bucket }), abortOf(options))),
  )

  async function features(options: AbortOptions): Promise<BucketFeatures> {
    const versioning = await askVersioning(options)
    const lock = await askLock(options)
    const configuration = lock?.ObjectLockConfiguration
    return {
      versioning: versioning?.Status === 'Enabled',
      hasVersions: versioning?.Status !== undefined,
      objectLock: configuration?.ObjectLockEnabled === 'Enabled',
      defaultRetention: configuration?.Rule?.DefaultRetention,
    }
  }

  return { features, lifecycleRules: async options => (await askLifecycle(options))?.Rules ?? [] }
}

const abortOf = ({ signal }: AbortOptions) => ({ abortSignal: signal })

/** A failure is asked again, an answer is kept. */
function once<T>(question: (options: AbortOptions) => Promise<T>): (options: AbortOptions) => Promise<T> {
  let answer: { readonly value: T } | undefined
  return async options => {
    answer ??= { value: await question(options) }
    return answer.value
  }
}

/** Stores name it differently. Half an answer, or a proxy's, names nothing: such a 404 proves no absence. */
const isUnset = (error: unknown): boolean =>
  statusOf(error) === 404 &&
  error instanceof Error &&
  'Code' in error &&
  typeof error.Code === 'string' &&
  error.Code !== 'NoSuchBucket'
