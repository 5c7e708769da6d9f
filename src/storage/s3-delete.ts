/** Deleting many objects of a bucket: a thousand in a request where the store can, one by one where it cannot. */
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

/** Of a key without a version: what is there now; on a versioned bucket it is only marked. */
export interface DeleteTarget {
  readonly Key: string
  readonly VersionId?: string
}

export interface BucketDeleter {
  /** Gives the versions that the store refused to delete, after all others are gone. */
  delete(targets: readonly DeleteTarget[], options: AbortOptions): Promise<DeleteTarget[]>
}

export function bucketDeleter(client: S3Client, bucket: string): BucketDeleter {
  /** Swift wants a Content-MD5, some gateways lack the call. What refused one batch will refuse the next. */
  let hasBatches = true

  /** Undefined where the store has no batches. */
  async function deleteBatch(
    batch: readonly DeleteTarget[],
    { signal }: AbortOptions,
  ): Promise<DeleteTarget[] | undefined> {
    try {
      const Delete = { Objects: [...batch], Quiet: false }
      const answer = await client.send(new DeleteObjectsCommand({ Bucket: bucket, Delete }), { abortSignal: signal })
      return refusedOf(batch, answer)
    } catch (error) {
      if (![400, 405, 411, 501].includes(statusOf(error) ?? 0)) throw error
      return undefined
    }
  }

  async function deleteSingly(targets: readonly DeleteTarget[], options: AbortOptions): Promise<DeleteTarget[]> {
    const refused: DeleteTarget[] = []
    const deleteOne = async (target: DeleteTarget, abortSignal: AbortSignal) => {
      try {
        await client.send(new DeleteObjectCommand({ Bucket: bucket, ...target }), { abortSignal })
      } catch (error) {
        if (target.VersionId === undefined || statusOf(error) !== 403) throw error
        refused.push(target)
      }
    }
    await forEachLimited(targets, SINGLE_DELETES_IN_FLIGHT, deleteOne, options)
    return refused
  }

  return {
    async delete(targets, options) {
      const refused: DeleteTarget[] = []
      for (let at = 0; at < targets.length; at += limits.s3BatchKeys) {
        const batch = targets.slice(at, at + limits.s3BatchKeys)
        const answer = hasBatches && batch.length > 1 ? await deleteBatch(batch, options) : undefined
        if (batch.length > 1 && answer === undefined) hasBatches = false
        refused.push(...(answer ?? (await deleteSingly(batch, options))))
      }
      return refused
    },
  }
}

const nameOf = ({ Key, VersionId = '' }: { Key?: string; VersionId?: string }): string => `${Key}\0${VersionId}`

/** The answer is 200 whatever became of the objects, so each has to be named as deleted. */
function refusedOf(batch: readonly DeleteTarget[], answer: DeleteObjectsCommandOutput): DeleteTarget[] {
  const refused = new Set<string>()
  for (const error of answer.Errors ?? []) {
    const { Key = '', VersionId, Code = '', Message = '' } = error
    if (Code === 'NoSuchKey' || Code === 'NoSuchVersion') continue
    if (Code === 'AccessDenied' && VersionId) refused.add(nameOf(error))
    // Shaped as the SDK shapes a whole request's error, so that one place translates both.
    else throw Object.assign(new Error(`${Key}: ${Message}`), { name: Code })
  }
  const settled = new Set([...(answer.Deleted ?? []), ...(answer.Errors ?? [])].map(nameOf))
  for (const target of batch)
    if (!settled.has(nameOf(target)))
      throw new LifeboatError('store-unreachable', 'The answer to a delete does not name every key', {
        retry: 'transient',
        details: { object: target.Key },
      })
  return batch.filter(target => refused.has(nameOf(target)))
}
