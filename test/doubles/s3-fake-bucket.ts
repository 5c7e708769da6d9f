/** What the S3 fake keeps and how it answers when nothing goes wrong. Pure: requests in, answers out. */
import { createHash } from 'node:crypto'
import { addVersion, type FakeVersion, findVersion, isAnswer, lockHeaders, lockOfPut } from './s3-fake-versions.ts'

export interface FakeObject {
  readonly bytes: Uint8Array
  readonly modifiedAt: Date
  readonly etag: string
}

export interface FakeBucket {
  /** What is there now. */
  readonly objects: Map<string, FakeObject>
  /** Of a bucket with versioning, newest last. */
  readonly versions: Map<string, FakeVersion[]>
  readonly versioning: boolean
  readonly objectLock: boolean
  readonly defaultRetention?: { readonly mode: 'GOVERNANCE' | 'COMPLIANCE'; readonly days: number }
  /** `<Rule>` elements. */
  readonly lifecycle?: string
  readonly now: () => Date
}

export interface FakeQuirks {
  /** Ceph honours If-None-Match on unversioned buckets only and ignores it on others, Swift refuses it with 501. */
  readonly conditionalPut: 'honoured' | 'honoured-unversioned' | 'ignored' | 'refused'
  /** Whether a listing of versions that begins at a key has those of the key itself, as Ceph's, or not, as Amazon's. */
  readonly keyMarker: 'inclusive' | 'exclusive'
  /** False: DeleteObjects is refused as Swift does it. */
  readonly batchDelete: boolean
  readonly pageKeys: number
}

export interface Answer {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Uint8Array
  /** The whole object's bytes where `body` is a range of them. */
  readonly whole?: Uint8Array
}

export const escapeXml = (text: string): string => text.replace(/[<>&"]/g, sign => `&#${sign.charCodeAt(0)};`)
export const unescapeXml = (text: string): string =>
  text
    .replace(/&#(\d+);/g, (_, code) => String.fromCharCode(Number(code)))
    .replace(/&lt;/g, '<')
    .replace(/&gt;/g, '>')
    .replace(/&quot;/g, '"')
    .replace(/&amp;/g, '&')

export const xmlAnswer = (status: number, xml: string): Answer => ({
  status,
  headers: { 'content-type': 'application/xml' },
  body: Buffer.from(`<?xml version="1.0" encoding="UTF-8"?>\n${xml}`),
})

export const errorAnswer = (status: number, code: string, resource = ''): Answer =>
  xmlAnswer(
    status,
    `<Error><Code>${code}</Code><Message>The fake says ${code}</Message><Resource>${escapeXml(resource)}</Resource><RequestId>tx01</RequestId></Error>`,
  )

export interface PutRequest {
  readonly bucket: FakeBucket
  readonly key: string
  readonly bytes: Uint8Array
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
}

export function putObject({ bucket, key, bytes, headers }: PutRequest, quirks: FakeQuirks): Answer {
  if (headers['if-none-match'] !== undefined) {
    const { conditionalPut } = quirks
    if (conditionalPut === 'refused') return errorAnswer(501, 'NotImplemented', key)
    const isHonoured =
      conditionalPut === 'honoured' || (conditionalPut === 'honoured-unversioned' && !bucket.versioning)
    if (isHonoured && bucket.objects.has(key)) return errorAnswer(412, 'PreconditionFailed', key)
  }
  const digest = createHash('md5').update(bytes)
  const md5 = headers['content-md5']
  if (md5 !== undefined && md5 !== digest.copy().digest('base64')) return errorAnswer(400, 'BadDigest', key)
  const lock = lockOfPut(bucket, key, headers)
  if (isAnswer(lock)) return lock
  const etag = `"${digest.digest('hex')}"`
  const object = { bytes: new Uint8Array(bytes), modifiedAt: bucket.now(), etag }
  if (bucket.versioning)
    return { status: 200, headers: { etag, 'x-amz-version-id': addVersion(bucket, key, object, lock) } }
  bucket.objects.set(key, object)
  return { status: 200, headers: { etag } }
}

export function getObject(
  bucket: FakeBucket,
  key: string,
  versionId: string | null,
  range: string | undefined,
): Answer {
  const found = findVersion(bucket, key, versionId)
  if (!found?.object) return errorAnswer(404, 'NoSuchKey', key)
  const { bytes } = found.object
  const headers = { ...objectHeaders(found.object), ...lockHeaders(found.lock) }
  if (range === undefined) return { status: 200, headers, body: bytes }
  const [, first = '', last = ''] = /^bytes=(\d+)-(\d*)$/.exec(range) ?? []
  const from = Number(first)
  if (from >= bytes.length) return errorAnswer(416, 'InvalidRange', key)
  const to = Math.min(last === '' ? bytes.length - 1 : Number(last), bytes.length - 1)
  return {
    status: 206,
    headers: { ...headers, 'content-range': `bytes ${from}-${to}/${bytes.length}` },
    body: bytes.subarray(from, to + 1),
    whole: bytes,
  }
}

const objectHeaders = ({ etag, modifiedAt }: FakeObject): Record<string, string> => ({
  etag,
  'last-modified': modifiedAt.toUTCString(),
  'accept-ranges': 'bytes',
  'content-type': 'application/octet-stream',
})

export function listObjects(
  name: string,
  bucket: FakeBucket,
  query: URLSearchParams,
  { pageKeys, hidesNewest }: { readonly pageKeys: number; readonly hidesNewest: boolean },
): Answer {
  const prefix = query.get('prefix') ?? ''
  const token = query.get('continuation-token')
  const after = token === null ? (query.get('start-after') ?? '') : Buffer.from(token, 'base64').toString()
  const below = [...bucket.objects].filter(([key]) => key.startsWith(prefix))
  const newest = below.reduce((at, [, { modifiedAt }]) => Math.max(at, modifiedAt.getTime()), 0)
  const shown = hidesNewest ? below.filter(([, { modifiedAt }]) => modifiedAt.getTime() < newest) : below
  const wanted = shown
    .map(([key]) => key)
    .filter(key => after === '' || Buffer.compare(Buffer.from(key), Buffer.from(after)) > 0)
    .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
  const page = wanted.slice(0, Math.min(pageKeys, Number(query.get('max-keys') ?? 1000)))
  const isTruncated = page.length < wanted.length
  const next = isTruncated
    ? `<NextContinuationToken>${Buffer.from(page.at(-1) ?? '').toString('base64')}</NextContinuationToken>`
    : ''
  const contents = page.map(key => {
    const { bytes, etag, modifiedAt } = bucket.objects.get(key)!
    return `<Contents><Key>${escapeXml(key)}</Key><LastModified>${modifiedAt.toISOString()}</LastModified><ETag>${escapeXml(etag)}</ETag><Size>${bytes.length}</Size><StorageClass>STANDARD</StorageClass></Contents>`
  })
  return xmlAnswer(
    200,
    `<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>${name}</Name><Prefix>${escapeXml(prefix)}</Prefix><MaxKeys>1000</MaxKeys><KeyCount>${page.length}</KeyCount><IsTruncated>${isTruncated}</IsTruncated>${next}${contents.join('')}</ListBucketResult>`,
  )
}
