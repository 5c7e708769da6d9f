/** What an S3 store, its transport or the SDK says becomes a store's error here and nowhere else. */
import { type ErrorCode, LifeboatError, messageOf } from '../core/errors.ts'
import { absent, conflict } from './store-errors.ts'

export interface S3Call {
  readonly verb: 'get' | 'head' | 'put' | 'list' | 'delete' | 'lock' | 'bucket'
  readonly bucket: string
  readonly endpoint?: string
  /** The caller's key, without the store's prefix. */
  readonly key: string
  /** Where one version was asked for. */
  readonly versionId?: string
  readonly isConditional?: boolean
  readonly signal?: AbortSignal
}

interface Meaning {
  readonly code: ErrorCode
  readonly retry?: 'transient'
  readonly hint?: string
}

const denied = (hint: string): Meaning => ({ code: 'store-denied', hint })
const unreachable: Meaning = {
  code: 'store-unreachable',
  retry: 'transient',
  hint: 'Check that the object store is up and that this host reaches its endpoint.',
}
const throttled: Meaning = {
  code: 'store-throttled',
  retry: 'transient',
  hint: 'The store asks for fewer requests: use --limit-rate, or raise its limits.',
}
const full: Meaning = { code: 'store-full', hint: 'Raise the quota of the bucket or of its user, or prune.' }
const badKeys = denied('Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile.')
const missingKeys = denied('Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.')
const wrongRegion: Meaning = { code: 'store-failed', hint: "Give the bucket's own region with ?region= in the URL." }

const DENIED_BY_VERB: Partial<Record<S3Call['verb'], Meaning>> = {
  lock: denied('Allow s3:Get and Put of ObjectRetention and ObjectLegalHold on this bucket to the user.'),
  bucket: denied('Allow s3:ListBucket, GetBucketVersioning and GetBucketObjectLockConfiguration to the user.'),
}

/** S3's error codes and the SDK's error names. They say more than the status. */
const BY_NAME: ReadonlyMap<string, Meaning> = new Map<string, Meaning>([
  ['AccessDenied', denied('Allow s3:GetObject, PutObject, DeleteObject and ListBucket on this bucket to the user.')],
  ['InvalidAccessKeyId', badKeys],
  ['SignatureDoesNotMatch', badKeys],
  ['ExpiredToken', denied('The session token has expired: get a new one.')],
  ['RequestTimeTooSkewed', denied('Set the clock of this host: it differs too much from the one of the store.')],
  ['CredentialsProviderError', missingKeys],
  ['SlowDown', throttled],
  ['ServiceUnavailable', throttled],
  ['RequestLimitExceeded', throttled],
  ['Throttling', throttled],
  ['ThrottlingException', throttled],
  ['TooManyRequestsException', throttled],
  ['QuotaExceeded', full],
  ['EntityTooLarge', { code: 'store-failed', hint: 'The store limits the size of an object below 16 MiB: raise it.' }],
  ['RequestTimeout', unreachable],
  ['TimeoutError', unreachable],
  // The bytes that arrived were not the bytes that were signed: sent again they may be.
  ['BadDigest', unreachable],
  ['IncompleteBody', unreachable],
  ['XAmzContentSHA256Mismatch', unreachable],
  ['PermanentRedirect', wrongRegion],
  ['AuthorizationHeaderMalformed', wrongRegion],
])

const NETWORK =
  /^(ECONN(RESET|REFUSED|ABORTED)|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|ENETDOWN|ENOTFOUND|EAI_AGAIN|HPE_.*)$/
const CERTIFICATE = /^(CERT_.*|DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_.*|ERR_TLS_.*)$/

export function translateS3Error(error: unknown, call: S3Call): unknown {
  if (call.signal?.aborted) return call.signal.reason
  if (error instanceof LifeboatError) return error
  const name = error instanceof Error ? error.name : ''
  const status = statusOf(error)
  if (name === 'NoSuchBucket' || (call.verb === 'bucket' && status === 404)) return bucketMissing(call, error)
  if (isAbsence(name, status, call)) return absent(call.key, error)
  if (call.isConditional && (status === 412 || status === 409)) return conflict(call.key, error)
  const meaning =
    ((name === 'AccessDenied' && DENIED_BY_VERB[call.verb]) || BY_NAME.get(name)) ??
    byStatus(status) ??
    byTransport(error)
  return new LifeboatError(
    meaning.code,
    `${call.verb}${call.key === '' ? '' : ` ${call.key}`} in bucket ${call.bucket}: ${describe(error, status)}`,
    {
      retry: meaning.retry,
      details: { object: call.key, status, endpoint: call.endpoint },
      hint: meaning.hint,
      cause: error,
    },
  )
}

function byStatus(status: number | undefined): Meaning | undefined {
  if (status === undefined || status < 300) return undefined
  if (status === 401 || status === 403)
    return denied(
      'Allow this user to read, write, delete and list in the bucket. A store also says this of absent keys to who may not list.',
    )
  if (status === 429 || status === 503) return throttled
  if (status === 507) return full
  // A 404 that does not name a key comes from something that is no object store, a proxy for example. It proves no absence.
  if (status === 404 || status === 408 || status === 409 || (status >= 500 && status !== 501)) return unreachable
  if (status < 400) return wrongRegion
  return { code: 'store-failed' }
}

/** Without a status the answer did not come, or could not be read. */
function byTransport(error: unknown): Meaning {
  const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : ''
  if (CERTIFICATE.test(code))
    return { code: 'store-unreachable', hint: "Make the store's certificate authority known with NODE_EXTRA_CA_CERTS." }
  if (NETWORK.test(code)) return unreachable
  if (/region is missing/i.test(messageOf(error)))
    return { code: 'usage', hint: 'Add ?region=... to the URL or set AWS_REGION.' }
  if (/could not load credentials|credential/i.test(messageOf(error))) return missingKeys
  return unreachable
}

const bucketMissing = ({ bucket, endpoint }: S3Call, cause: unknown): LifeboatError =>
  new LifeboatError('store-bucket-missing', `There is no bucket ${bucket}${endpoint ? ` at ${endpoint}` : ''}`, {
    details: { bucket, endpoint },
    hint: 'Create the bucket first, or correct its name, the endpoint or the region in the URL.',
    cause,
  })

/** Amazon answers 405 to who reads a version that is a delete marker. */
const isAbsence = (name: string, status: number | undefined, { verb, versionId }: S3Call): boolean =>
  name === 'NoSuchKey' ||
  name === 'NoSuchVersion' ||
  (verb === 'head' && status === 404) ||
  (versionId !== undefined && (verb === 'get' || verb === 'head' || verb === 'lock') && status === 405)

export function statusOf(error: unknown): number | undefined {
  if (typeof error !== 'object' || error === null || !('$metadata' in error)) return undefined
  const metadata = error.$metadata
  if (typeof metadata !== 'object' || metadata === null || !('httpStatusCode' in metadata)) return undefined
  return typeof metadata.httpStatusCode === 'number' ? metadata.httpStatusCode : undefined
}

function describe(error: unknown, status: number | undefined): string {
  const name = error instanceof Error && error.name !== 'Error' ? `${error.name}: ` : ''
  return `${name}${messageOf(error).slice(0, 300)}${status === undefined ? '' : ` (HTTP ${status})`}`
}
