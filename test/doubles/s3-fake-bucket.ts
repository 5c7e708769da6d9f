/** What the S3 fake keeps and how it answers when nothing goes wrong. Pure: requests in, answers out. */
import { createHash } from 'node:crypto'

export interface FakeObject {
  readonly bytes: Uint8Array
  readonly modifiedAt: Date
  readonly etag: string
  readonly versionId: string
}

export interface FakeBucket {
  readonly objects: Map<string, FakeObject>
  readonly versioning: boolean
  readonly objectLock: boolean
}

export interface FakeQuirks {
  /** Ceph ignores If-None-Match on versioned buckets, Swift refuses it with 501. */
  readonly conditionalPut: 'honoured' | 'ignored' | 'refused'
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

const escapeXml = (text: string): string => text.replace(/[<>&"]/g, sign => `&#${sign.charCodeAt(0)};`)
const unescapeXml = (text: string): string =>
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

let versionCounter = 0

export function putObject(
  bucket: FakeBucket,
  key: string,
  bytes: Uint8Array,
  ifNoneMatch: string | undefined,
  quirks: FakeQuirks,
): Answer {
  if (ifNoneMatch !== undefined) {
    if (quirks.conditionalPut === 'refused') return errorAnswer(501, 'NotImplemented', key)
    if (quirks.conditionalPut === 'honoured' && bucket.objects.has(key))
      return errorAnswer(412, 'PreconditionFailed', key)
  }
  const etag = `"${createHash('md5').update(bytes).digest('hex')}"`
  const versionId = `v${++versionCounter}`
  bucket.objects.set(key, { bytes: new Uint8Array(bytes), modifiedAt: new Date(), etag, versionId })
  return { status: 200, headers: { etag, ...(bucket.versioning ? { 'x-amz-version-id': versionId } : {}) } }
}

export function getObject(bucket: FakeBucket, key: string, range: string | undefined): Answer {
  const object = bucket.objects.get(key)
  if (!object) return errorAnswer(404, 'NoSuchKey', key)
  const { bytes } = object
  const headers = objectHeaders(object)
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

export function listObjects(name: string, bucket: FakeBucket, query: URLSearchParams, pageKeys: number): Answer {
  const prefix = query.get('prefix') ?? ''
  const token = query.get('continuation-token')
  const after = token === null ? (query.get('start-after') ?? '') : Buffer.from(token, 'base64').toString()
  const wanted = [...bucket.objects.keys()]
    .filter(key => key.startsWith(prefix) && (after === '' || Buffer.compare(Buffer.from(key), Buffer.from(after)) > 0))
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

export function deleteObjects(bucket: FakeBucket, xml: string, quirks: FakeQuirks): Answer {
  if (!quirks.batchDelete) return errorAnswer(400, 'InvalidRequest')
  const keys = [...xml.matchAll(/<Key>([^<]*)<\/Key>/g)].map(match => unescapeXml(match[1] ?? ''))
  if (keys.length > 1000) return errorAnswer(400, 'MalformedXML')
  for (const key of keys) bucket.objects.delete(key)
  const deleted = keys.map(key => `<Deleted><Key>${escapeXml(key)}</Key></Deleted>`)
  return xmlAnswer(
    200,
    `<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${deleted.join('')}</DeleteResult>`,
  )
}

export function deleteObject(bucket: FakeBucket, key: string, versionId: string | null): Answer {
  if (versionId === null || bucket.objects.get(key)?.versionId === versionId) bucket.objects.delete(key)
  return { status: 204 }
}

export const versioningStatus = (bucket: FakeBucket): Answer =>
  xmlAnswer(
    200,
    `<VersioningConfiguration>${bucket.versioning ? '<Status>Enabled</Status>' : ''}</VersioningConfiguration>`,
  )

export const lockConfiguration = (bucket: FakeBucket): Answer =>
  bucket.objectLock
    ? xmlAnswer(
        200,
        '<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>',
      )
    : errorAnswer(404, 'ObjectLockConfigurationNotFoundError')
