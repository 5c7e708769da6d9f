/**
 * A bucket, or a prefix of one, as an object store, on @aws-sdk/client-s3. An upload is protected on its way by the digest
 * in its signature; a download by nothing but its length, so whoever reads must authenticate the bytes. A call makes one
 * attempt: the SDK's retries are off.
 */
import {
  GetObjectCommand,
  type GetObjectCommandOutput,
  HeadBucketCommand,
  HeadObjectCommand,
  PutObjectCommand,
} from '@aws-sdk/client-s3'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import { bodyLength, checkKey, checkPrefix, checkRange, clipRange } from './checks.ts'
import type { SendingStore } from './metered.ts'
import type { ObjectInfo, ObjectStore, PutOptions, StoreReceipt, StoreRules } from './object-store.ts'
import { discardBody, payloadDigests, readBody, uploadBody } from './s3-body.ts'
import { headersOf, type S3ClientOptions, s3Client } from './s3-client.ts'
import { concernsOf } from './s3-concerns.ts'
import { bucketDeleter } from './s3-delete.ts'
import { type S3Call, statusOf, translateS3Error } from './s3-errors.ts'
import { bucketQuestions } from './s3-features.ts'
import { listBucket } from './s3-list.ts'
import { sentRequestsOf } from './s3-requests.ts'
import { lockWord, s3Versions } from './s3-versions.ts'
import { absent } from './store-errors.ts'

export interface S3Options extends S3ClientOptions {
  readonly bucket: string
  /** Keys live below it; '' for the whole bucket. */
  readonly prefix: string
}

export function s3Store(options: S3Options): ObjectStore {
  const { bucket, endpoint, idleMs = limits.s3IdleMs } = options
  const base = options.prefix === '' ? '' : `${options.prefix.replace(/\/+$/, '')}/`
  const client = s3Client(options)
  const sentRequests = sentRequestsOf(client)
  const deleter = bucketDeleter(client, bucket)
  const questions = bucketQuestions(client, bucket, endpoint)
  const versions = s3Versions({ client, bucket, endpoint, base, questions, deleter, get: getObject, head: headObject })
  /** A HEAD's 404 does not say whether the key or the bucket is missing; one success of any kind settles that for good. */
  let bucketSeen = false
  /** False once the store answered that it has no conditional puts. Nobody relies on them, so it is then asked without. */
  let hasConditionalPut = true

  async function attempt<T>(call: Omit<S3Call, 'bucket' | 'endpoint'>, work: () => Promise<T>): Promise<T> {
    call.signal?.throwIfAborted()
    try {
      const result = await work()
      bucketSeen = true
      return result
    } catch (error) {
      throw translateS3Error(error, { ...call, bucket, endpoint })
    }
  }

  async function getObject(
    key: string,
    range: Range | undefined,
    { signal }: AbortOptions,
    versionId?: string,
  ): Promise<Uint8Array> {
    checkKey(key)
    checkRange(range)
    if (range?.length === 0) return nothingOf(key, { signal }, versionId) // HTTP has no empty range.
    return attempt({ verb: 'get', key, versionId, signal }, async () => {
      try {
        const Range = range && `bytes=${range.offset}-${range.offset + range.length - 1}`
        const command = new GetObjectCommand({ Bucket: bucket, Key: base + key, VersionId: versionId, Range })
        const answer = await client.send(command, { abortSignal: signal, requestTimeout: idleMs })
        return await readBody(answer.Body, expectedLength(key, range, answer), key, { signal })
      } catch (error) {
        if (range && statusOf(error) === 416) return new Uint8Array(0)
        throw error
      }
    })
  }

  async function nothingOf(key: string, options: AbortOptions, versionId?: string): Promise<Uint8Array> {
    if (await headObject(key, options, versionId)) return new Uint8Array(0)
    throw absent(key)
  }

  async function headObject(
    key: string,
    { signal }: AbortOptions,
    versionId?: string,
  ): Promise<ObjectInfo | undefined> {
    checkKey(key)
    try {
      return await attempt({ verb: 'head', key, versionId, signal }, async () => {
        const command = new HeadObjectCommand({ Bucket: bucket, Key: base + key, VersionId: versionId })
        const answer = await client.send(command, { abortSignal: signal, requestTimeout: idleMs })
        if (answer.ContentLength === undefined || answer.LastModified === undefined) throw unmeasured(key)
        return { key, size: answer.ContentLength, modifiedAt: answer.LastModified }
      })
    } catch (error) {
      if (!(error instanceof LifeboatError) || error.code !== 'store-not-found') throw error
      if (!bucketSeen) await now({ signal })
      return undefined
    }
  }

  async function put(key: string, body: readonly Uint8Array[], options: PutOptions = {}): Promise<StoreReceipt> {
    checkKey(key)
    const { signal } = options
    const isConditional = (options.ifAbsent ?? false) && hasConditionalPut
    return attempt({ verb: 'put', key, isConditional, signal }, async () => {
      try {
        return await upload(base + key, body, options, isConditional)
      } catch (error) {
        if (!isConditional || statusOf(error) !== 501) throw error
        hasConditionalPut = false
        return upload(base + key, body, options, false)
      }
    })
  }

  async function upload(
    Key: string,
    body: readonly Uint8Array[],
    { retainUntil, lockMode = 'governance', signal }: PutOptions,
    isConditional: boolean,
  ): Promise<StoreReceipt> {
    // Amazon takes a locked object only with a Content-MD5.
    const { sha256, md5 } = await payloadDigests(body, { withMd5: retainUntil !== undefined, signal })
    const command = new PutObjectCommand({
      Bucket: bucket,
      Key,
      Body: uploadBody(body),
      ContentLength: bodyLength(body),
      ContentMD5: md5,
      ContentType: 'application/octet-stream',
      ...(isConditional ? { IfNoneMatch: '*' } : {}),
      ...(retainUntil ? { ObjectLockMode: lockWord(lockMode), ObjectLockRetainUntilDate: retainUntil } : {}),
    })
    command.middlewareStack.add(
      next => args => {
        headersOf(args.request)['x-amz-content-sha256'] = sha256
        return next(args)
      },
      { step: 'build', name: 'payloadDigest' },
    )
    const { ETag, VersionId } = await client.send(command, { abortSignal: signal })
    return { etag: ETag, versionId: VersionId }
  }

  async function* list(prefix: string, { startAfter, signal }: { startAfter?: string } & AbortOptions = {}) {
    checkPrefix(prefix)
    signal?.throwIfAborted()
    try {
      const listing = { bucket, prefix: base + prefix, startAfter: startAfter ? base + startAfter : '', signal }
      for await (const page of listBucket(client, listing)) {
        bucketSeen = true
        // Consoles put an empty object 'PREFIX/' where a person makes a folder; it is the place, not something in it.
        for (const { key, size, modifiedAt } of page)
          if (key !== base) yield { key: key.slice(base.length), size, modifiedAt }
      }
    } catch (error) {
      throw translateS3Error(error, { verb: 'list', key: prefix, bucket, endpoint, signal })
    }
  }

  async function remove(keys: readonly string[], { signal }: AbortOptions = {}): Promise<void> {
    for (const key of keys) checkKey(key)
    if (keys.length === 0) return signal?.throwIfAborted()
    const { hasVersions } = await questions.features({ signal })
    if (hasVersions) return versions.removeAll(keys, { signal })
    const targets = keys.map(key => ({ Key: base + key }))
    await attempt({ verb: 'delete', key: keys[0] ?? '', signal }, () => deleter.delete(targets, { signal }))
  }

  /** The Date of the answer to a question about the bucket. */
  async function now({ signal }: AbortOptions = {}): Promise<Date> {
    return attempt({ verb: 'bucket', key: '', signal }, async () => {
      const command = new HeadBucketCommand({ Bucket: bucket })
      let date: string | undefined
      command.middlewareStack.add(
        next => async args => {
          const result = await next(args)
          date = headersOf(result.response).date
          return result
        },
        { step: 'deserialize', priority: 'low', name: 'readDate' },
      )
      await client.send(command, { abortSignal: signal })
      const time = new Date(date ?? '')
      if (Number.isNaN(time.getTime())) throw new LifeboatError('store-failed', 'The store does not tell the time')
      return time
    })
  }

  async function probe(options: AbortOptions = {}): Promise<StoreRules> {
    const features = await questions.features(options)
    const { versioning, objectLock } = features
    const concerns = concernsOf(features, await questions.lifecycleRules(options), base)
    return { versioning, objectLock, ...(concerns.length > 0 ? { concerns } : {}) }
  }

  const store: ObjectStore & SendingStore = {
    url: displayUrl(options),
    sentRequests,
    versioned: versions.store,
    get: (key, range, options = {}) => getObject(key, range, options),
    head: (key, options = {}) => headObject(key, options),
    put,
    list,
    delete: remove,
    now,
    probe,
    [Symbol.asyncDispose]: async () => client.destroy(),
  }
  return store
}

/** How many bytes this answer has to bring, from what was asked and what it says of itself; not more than allowed. */
function expectedLength(key: string, range: Range | undefined, answer: GetObjectCommandOutput): number {
  try {
    const length = answer.ContentLength
    if (length === undefined) throw unmeasured(key)
    if (!range) return clipRange(key, length, undefined).length
    const [, first, last, size] = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(answer.ContentRange ?? '') ?? []
    const expected = clipRange(key, Number(size), range)
    const isWhatWasAsked =
      Number(first) === expected.offset &&
      Number(last) - Number(first) + 1 === expected.length &&
      length === expected.length
    if (isWhatWasAsked) return length
    throw new LifeboatError('store-unreachable', `The answer for ${key} is not the range that was asked for`, {
      retry: 'transient',
      details: { object: key, contentRange: answer.ContentRange },
      hint: 'Something between this host and the store changes its answers: look for a proxy.',
    })
  } catch (error) {
    discardBody(answer.Body)
    throw error
  }
}

const unmeasured = (key: string): LifeboatError =>
  new LifeboatError('store-failed', `The store does not say how large ${key} is`, { details: { object: key } })

function displayUrl({ bucket, prefix, endpoint, region, pathStyle }: S3Options): string {
  const parameters = new URLSearchParams()
  if (endpoint !== undefined) parameters.set('endpoint', endpoint)
  if (region !== undefined) parameters.set('region', region)
  if (endpoint !== undefined) parameters.set('path-style', String(pathStyle))
  const query = parameters.size > 0 ? `?${parameters}` : ''
  return `s3://${bucket}${prefix === '' ? '' : `/${prefix}`}${query}`
}
