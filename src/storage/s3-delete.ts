/** Deleting many keys of a bucket: a thousand in a request where the store can, one by one where it cannot. */
import {
  DeleteObjectCommand,
  DeleteObjectsCommand,
  type DeleteObjectsCommandOutput,
  type S3Client,
} from '@aws-sdk/client-s3'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { statusOf } from './s3-errors.ts'

const SINGLE_DELETES_IN_FLIGHT = 16

export interface BucketDeleter {
  delete(keys: readonly string[], options: AbortOptions): Promise<void>
}

export function bucketDeleter(client: S3Client, bucket: string): BucketDeleter {
  /** Swift wants a Content-MD5, some gateways lack the call. What refused one batch will refuse the next. */
  let hasBatches = true

  async function deleteBatch(keys: readonly string[], { signal }: AbortOptions): Promise<boolean> {
    try {
      const Objects = keys.map(Key => ({ Key }))
      const answer = await client.send(
        new DeleteObjectsCommand({ Bucket: bucket, Delete: { Objects, Quiet: false } }),
        {
          abortSignal: signal,
        },
      )
      checkAnswer(keys, answer)
      return true
    } catch (error) {
      if (![400, 405, 411, 501].includes(statusOf(error) ?? 0)) throw error
      return false
    }
  }

  const deleteSingly = (keys: readonly string[], options: AbortOptions): Promise<void> =>
    forEachLimited(
      keys,
      SINGLE_DELETES_IN_FLIGHT,
      async (Key, abortSignal) => {
        await client.send(new DeleteObjectCommand({ Bucket: bucket, Key }), { abortSignal })
      },
      options,
    )

  return {
    async delete(keys, options) {
      for (let at = 0; at < keys.length; at += limits.s3BatchKeys) {
        const batch = keys.slice(at, at + limits.s3BatchKeys)
        if (hasBatches && batch.length > 1) hasBatches = await deleteBatch(batch, options)
        if (!hasBatches || batch.length === 1) await deleteSingly(batch, options)
      }
    },
  }
}

/** The answer is 200 whatever became of the keys, so each has to be named as deleted. */
function checkAnswer(keys: readonly string[], answer: DeleteObjectsCommandOutput): void {
  for (const { Key = '', Code = '', Message = '' } of answer.Errors ?? []) {
    if (Code === 'NoSuchKey') continue
    // Shaped as the SDK shapes a whole request's error, so that one place translates both.
    throw Object.assign(new Error(`${Key}: ${Message}`), { name: Code })
  }
  const settled = new Set([...(answer.Deleted ?? []), ...(answer.Errors ?? [])].map(({ Key }) => Key))
  for (const key of keys)
    if (!settled.has(key))
      throw new LifeboatError('store-unreachable', 'The answer to a delete does not name every key', {
        retry: 'transient',
        details: { object: key },
      })
}
