/** Versions and Object Lock of the S3 fake's buckets, as Ceph does them. Pure: requests in, answers out. */
import {
  type Answer,
  errorAnswer,
  escapeXml,
  type FakeBucket,
  type FakeObject,
  type FakeQuirks,
  unescapeXml,
  xmlAnswer,
} from './s3-fake-bucket.ts'

interface FakeLock {
  readonly mode?: 'GOVERNANCE' | 'COMPLIANCE'
  readonly until?: Date
  readonly hold: boolean
}

export interface FakeVersion {
  readonly versionId: string
  readonly modifiedAt: Date
  /** Undefined: a delete marker. */
  readonly object: FakeObject | undefined
  lock: FakeLock
}

type Headers = Readonly<Record<string, string | readonly string[] | undefined>>

const word = (headers: Headers, name: string): string | undefined => headers[name]?.toString()

let counter = 0

/** On top of what is there; the present object follows. */
export function addVersion(bucket: FakeBucket, key: string, object: FakeObject | undefined, lock: FakeLock): string {
  // As opaque as Ceph's, and in no order.
  const versionId = `${((++counter * 7919) % 100_003).toString(36)}.${counter.toString(36)}`
  const modifiedAt = object?.modifiedAt ?? bucket.now()
  keep(bucket, key, [...(bucket.versions.get(key) ?? []), { versionId, modifiedAt, object, lock }])
  return versionId
}

function keep(bucket: FakeBucket, key: string, versions: FakeVersion[]): void {
  if (versions.length > 0) bucket.versions.set(key, versions)
  else bucket.versions.delete(key)
  const present = versions.at(-1)?.object
  if (present) bucket.objects.set(key, present)
  else bucket.objects.delete(key)
}

/** The lock that a put asks for, or what is wrong with asking. */
export function lockOfPut(bucket: FakeBucket, key: string, headers: Headers): FakeLock | Answer {
  const mode = word(headers, 'x-amz-object-lock-mode')
  const until = word(headers, 'x-amz-object-lock-retain-until-date')
  if (mode === undefined || until === undefined) return defaultLock(bucket)
  if (!bucket.objectLock) return errorAnswer(400, 'InvalidRequest', key)
  // Amazon wants it; Ceph only says so.
  if (word(headers, 'content-md5') === undefined) return errorAnswer(400, 'InvalidRequest', key)
  return checkedRetention(bucket, key, mode, until)
}

function defaultLock({ defaultRetention, now }: FakeBucket): FakeLock {
  if (!defaultRetention) return { hold: false }
  const until = new Date(now().getTime() + defaultRetention.days * 86_400_000)
  return { mode: defaultRetention.mode, until, hold: false }
}

function checkedRetention(bucket: FakeBucket, key: string, mode: string, text: string): FakeLock | Answer {
  const until = new Date(text)
  if (mode !== 'GOVERNANCE' && mode !== 'COMPLIANCE') return errorAnswer(400, 'MalformedXML', key)
  if (!(until > bucket.now())) return errorAnswer(400, 'InvalidArgument', key)
  return { mode, until, hold: false }
}

export const isAnswer = (value: object): value is Answer => 'status' in value

const isLocked = (bucket: FakeBucket, { lock }: FakeVersion): boolean =>
  lock.hold || (lock.until !== undefined && lock.until > bucket.now())

/** Where the bucket has no versions, the one that is there is called 'null'. */
export function findVersion(bucket: FakeBucket, key: string, versionId: string | null): FakeVersion | undefined {
  if (bucket.versioning) {
    const versions = bucket.versions.get(key) ?? []
    return versionId === null ? versions.at(-1) : versions.find(version => version.versionId === versionId)
  }
  const object = bucket.objects.get(key)
  if (!object || (versionId !== null && versionId !== 'null')) return undefined
  return { versionId: 'null', modifiedAt: object.modifiedAt, object, lock: { hold: false } }
}

/** False where a lock forbids it. Nobody's bypass of governance is honoured: this user has none. */
export function removeVersion(bucket: FakeBucket, key: string, versionId: string): boolean {
  const found = findVersion(bucket, key, versionId)
  if (!found) return true
  if (isLocked(bucket, found)) return false
  if (!bucket.versioning) bucket.objects.delete(key)
  else
    keep(
      bucket,
      key,
      bucket.versions.get(key)!.filter(version => version !== found),
    )
  return true
}

export function lockHeaders({ mode, until, hold }: FakeLock): Record<string, string> {
  return {
    ...(mode && until
      ? { 'x-amz-object-lock-mode': mode, 'x-amz-object-lock-retain-until-date': until.toISOString() }
      : {}),
    ...(hold ? { 'x-amz-object-lock-legal-hold': 'ON' } : {}),
  }
}

interface LockRequest {
  readonly operation: 'GetObjectRetention' | 'PutObjectRetention' | 'GetObjectLegalHold' | 'PutObjectLegalHold'
  readonly bucket: FakeBucket
  readonly key: string
  readonly versionId: string | null
  readonly xml: string
}

export function answerLock({ operation, bucket, key, versionId, xml }: LockRequest): Answer {
  if (!bucket.objectLock) return errorAnswer(400, 'InvalidRequest', key)
  const found = findVersion(bucket, key, versionId)
  if (!found?.object) return errorAnswer(404, 'NoSuchKey', key)
  const { mode, until, hold } = found.lock
  const unset = errorAnswer(404, 'ObjectLockConfigurationNotFoundError', key)
  switch (operation) {
    case 'GetObjectRetention':
      if (!mode || !until) return unset
      return xmlAnswer(
        200,
        `<Retention><Mode>${mode}</Mode><RetainUntilDate>${until.toISOString()}</RetainUntilDate></Retention>`,
      )
    case 'GetObjectLegalHold':
      return hold ? xmlAnswer(200, '<LegalHold><Status>ON</Status></LegalHold>') : unset
    case 'PutObjectLegalHold':
      found.lock = { ...found.lock, hold: /<Status>ON</.test(xml) }
      return { status: 200 }
    case 'PutObjectRetention': {
      const [, newMode = ''] = /<Mode>(\w+)</.exec(xml) ?? []
      const [, newUntil = ''] = /<RetainUntilDate>([^<]+)</.exec(xml) ?? []
      const retention = checkedRetention(bucket, key, newMode, newUntil)
      if (isAnswer(retention)) return retention
      const weakens = until && (retention.until! < until || mode !== newMode)
      if (weakens && until > bucket.now()) return errorAnswer(403, 'AccessDenied', key)
      found.lock = { ...retention, hold }
      return { status: 200 }
    }
  }
}

interface DeleteWish {
  readonly key: string
  readonly versionId: string | undefined
}

export function deleteObjects(bucket: FakeBucket, xml: string, quirks: FakeQuirks): Answer {
  if (!quirks.batchDelete) return errorAnswer(400, 'InvalidRequest')
  const wishes = [...xml.matchAll(/<Object>(.*?)<\/Object>/gs)].map(([, entry = '']): DeleteWish => {
    const [, key = ''] = /<Key>([^<]*)<\/Key>/.exec(entry) ?? []
    const [, versionId] = /<VersionId>([^<]*)<\/VersionId>/.exec(entry) ?? []
    return { key: unescapeXml(key), versionId }
  })
  if (wishes.length > 1000) return errorAnswer(400, 'MalformedXML')
  const results = wishes.map(({ key, versionId }) => {
    const id = versionId === undefined ? '' : `<VersionId>${escapeXml(versionId)}</VersionId>`
    const named = `<Key>${escapeXml(key)}</Key>${id}`
    return deleteObject(bucket, key, versionId ?? null).status < 300
      ? `<Deleted>${named}</Deleted>`
      : `<Error>${named}<Code>AccessDenied</Code><Message>AccessDenied</Message></Error>`
  })
  return xmlAnswer(
    200,
    `<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${results.join('')}</DeleteResult>`,
  )
}

/** Without a version it marks, where there are versions, whatever is locked below. */
export function deleteObject(bucket: FakeBucket, key: string, versionId: string | null): Answer {
  if (versionId !== null)
    return removeVersion(bucket, key, versionId) ? { status: 204 } : errorAnswer(403, 'AccessDenied', key)
  if (!bucket.versioning) bucket.objects.delete(key)
  else return { status: 204, headers: { 'x-amz-version-id': addVersion(bucket, key, undefined, { hold: false }) } }
  return { status: 204 }
}

const compareBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b))

export function listVersions(bucket: FakeBucket, query: URLSearchParams, quirks: FakeQuirks): Answer {
  const prefix = query.get('prefix') ?? ''
  const keyMarker = query.get('key-marker') ?? ''
  const versionMarker = query.get('version-id-marker')
  const keys = [...new Set([...bucket.versions.keys(), ...bucket.objects.keys()])]
  const all = keys
    .filter(key => key.startsWith(prefix))
    .sort(compareBytes)
    .flatMap(key => versionsNewestFirst(bucket, key).map((version, index) => ({ key, version, isLatest: index === 0 })))
  let first = all.findIndex(({ key }) => compareBytes(key, keyMarker) > (quirks.keyMarker === 'inclusive' ? -1 : 0))
  if (versionMarker !== null)
    first = all.findIndex(({ key, version }) => key === keyMarker && version.versionId === versionMarker) + 1
  const wanted = keyMarker === '' ? all : first < 0 ? [] : all.slice(first)
  const page = wanted.slice(0, Math.min(quirks.pageKeys, Number(query.get('max-keys') ?? 1000)))
  const isTruncated = page.length < wanted.length
  const last = page.at(-1)
  const next =
    isTruncated && last
      ? `<NextKeyMarker>${escapeXml(last.key)}</NextKeyMarker><NextVersionIdMarker>${last.version.versionId}</NextVersionIdMarker>`
      : ''
  const entries = page.map(({ key, version: { versionId, modifiedAt, object }, isLatest }) => {
    const common = `<Key>${escapeXml(key)}</Key><VersionId>${versionId}</VersionId><IsLatest>${isLatest}</IsLatest><LastModified>${modifiedAt.toISOString()}</LastModified>`
    return object
      ? `<Version>${common}<ETag>${escapeXml(object.etag)}</ETag><Size>${object.bytes.length}</Size></Version>`
      : `<DeleteMarker>${common}</DeleteMarker>`
  })
  return xmlAnswer(
    200,
    `<ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Prefix>${escapeXml(prefix)}</Prefix><IsTruncated>${isTruncated}</IsTruncated>${next}${entries.join('')}</ListVersionsResult>`,
  )
}

function versionsNewestFirst(bucket: FakeBucket, key: string): FakeVersion[] {
  if (bucket.versioning) return [...(bucket.versions.get(key) ?? [])].reverse()
  const only = findVersion(bucket, key, null)
  return only ? [only] : []
}

export const versioningStatus = (bucket: FakeBucket): Answer =>
  xmlAnswer(
    200,
    `<VersioningConfiguration>${bucket.versioning ? '<Status>Enabled</Status>' : ''}</VersioningConfiguration>`,
  )

export function lockConfiguration({ objectLock, defaultRetention }: FakeBucket): Answer {
  if (!objectLock) return errorAnswer(404, 'ObjectLockConfigurationNotFoundError')
  const rule = defaultRetention
    ? `<Rule><DefaultRetention><Mode>${defaultRetention.mode}</Mode><Days>${defaultRetention.days}</Days></DefaultRetention></Rule>`
    : ''
  return xmlAnswer(
    200,
    `<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>${rule}</ObjectLockConfiguration>`,
  )
}

export const lifecycleConfiguration = ({ lifecycle }: FakeBucket): Answer =>
  lifecycle === undefined
    ? errorAnswer(404, 'NoSuchLifecycleConfiguration')
    : xmlAnswer(200, `<LifecycleConfiguration>${lifecycle}</LifecycleConfiguration>`)
