/** The requests that a client really sends, by the verbs of a meter: one call of a store may take many, and each is billed. */
import type { S3Client } from '@aws-sdk/client-s3'
import { type RequestCounts, type StoreVerb, storeVerbs } from './metered.ts'

/** What is not named here is a question about the bucket. */
const VERBS: Readonly<Record<string, StoreVerb>> = {
  GetObjectCommand: 'get',
  HeadObjectCommand: 'head',
  PutObjectCommand: 'put',
  ListObjectsV2Command: 'list',
  ListObjectVersionsCommand: 'list',
  DeleteObjectCommand: 'delete',
  DeleteObjectsCommand: 'delete',
  GetObjectRetentionCommand: 'lock',
  GetObjectLegalHoldCommand: 'lock',
  PutObjectRetentionCommand: 'lock',
  PutObjectLegalHoldCommand: 'lock',
  GetBucketVersioningCommand: 'lock',
  GetObjectLockConfigurationCommand: 'lock',
  HeadBucketCommand: 'now',
}

/** Counts from now on. */
export function sentRequestsOf(client: S3Client): () => RequestCounts {
  const counts = Object.fromEntries(storeVerbs.map(verb => [verb, 0])) as Record<StoreVerb, number>
  client.middlewareStack.add(
    (next, { commandName = '' }) =>
      args => {
        counts[VERBS[commandName] ?? 'probe']++
        return next(args)
      },
    { step: 'finalizeRequest', priority: 'low', name: 'countRequests' },
  )
  return () => ({ ...counts })
}
