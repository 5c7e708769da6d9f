/** A listing of a bucket page by page. A page is checked before it is believed: half a page must not look like the end. */
import { ListObjectsV2Command, type ListObjectsV2CommandOutput, type S3Client } from '@aws-sdk/client-s3'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { compareKeys } from './key-order.ts'
import type { ObjectInfo } from './object-store.ts'

export interface S3Listing extends AbortOptions {
  readonly bucket: string
  /** Both with the store's own prefix. */
  readonly prefix: string
  readonly startAfter: string
}

/** Entries with the keys of the bucket. */
export async function* listBucket(client: S3Client, listing: S3Listing): AsyncGenerator<ObjectInfo[]> {
  const { bucket, prefix, startAfter, signal } = listing
  let token: string | undefined
  let last = startAfter
  do {
    const page = await client.send(
      new ListObjectsV2Command({
        Bucket: bucket,
        Prefix: prefix,
        MaxKeys: limits.s3BatchKeys,
        ...(token === undefined ? { StartAfter: startAfter || undefined } : { ContinuationToken: token }),
      }),
      { abortSignal: signal },
    )
    const entries = parsePage(page, prefix, last)
    last = entries.at(-1)?.key ?? last
    yield entries
    token = page.IsTruncated ? page.NextContinuationToken : undefined
  } while (token !== undefined)
}

function parsePage(page: ListObjectsV2CommandOutput, prefix: string, after: string): ObjectInfo[] {
  const contents = page.Contents ?? []
  if (page.IsTruncated === undefined) throw incomplete('it does not say whether it is the last one')
  if (page.IsTruncated && !page.NextContinuationToken) throw incomplete('it does not say where the next one begins')
  if (page.KeyCount !== undefined && page.KeyCount !== contents.length)
    throw incomplete(`it announces ${page.KeyCount} keys and has ${contents.length}`)
  let last = after
  return contents.map(({ Key, Size, LastModified }) => {
    if (Key === undefined || Size === undefined || LastModified === undefined)
      throw incomplete('an entry lacks a field')
    if (!Key.startsWith(prefix) || (last !== '' && compareKeys(Key, last) <= 0))
      throw incomplete(`the key ${Key.slice(0, 80)} is out of order`)
    last = Key
    return { key: Key, size: Size, modifiedAt: LastModified }
  })
}

export const incomplete = (what: string): LifeboatError =>
  new LifeboatError('store-unreachable', `A page of the listing is incomplete: ${what}`, {
    retry: 'transient',
    hint: 'Something between this host and the store cuts its answers, or the store does not list in key order.',
  })
