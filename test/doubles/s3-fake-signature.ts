/** AWS Signature Version 4 as a server checks it, for requests whose payload is signed. */
import { createHash, createHmac } from 'node:crypto'
import type { IncomingMessage } from 'node:http'

export interface SigningKeys {
  readonly accessKeyId: string
  readonly secretAccessKey: string
}

export const sha256Hex = (bytes: Uint8Array | string): string => createHash('sha256').update(bytes).digest('hex')

/** The S3 error code of what is wrong, or undefined. */
export function signatureFault(request: IncomingMessage, body: Uint8Array, keys: SigningKeys): string | undefined {
  const header = request.headers.authorization ?? ''
  const match =
    /^AWS4-HMAC-SHA256 Credential=([^/]+)\/([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$/.exec(header)
  if (!match) return 'AccessDenied'
  const [, accessKeyId = '', scope = '', signedHeaders = '', signature = ''] = match
  if (accessKeyId !== keys.accessKeyId) return 'InvalidAccessKeyId'
  const payload = single(request, 'x-amz-content-sha256')
  const canonical = [
    request.method,
    (request.url ?? '').split('?')[0],
    canonicalQuery((request.url ?? '').split('?')[1] ?? ''),
    ...signedHeaders.split(';').map(name => `${name}:${single(request, name).trim().replace(/ +/g, ' ')}`),
    '',
    signedHeaders,
    payload,
  ].join('\n')
  const text = ['AWS4-HMAC-SHA256', single(request, 'x-amz-date'), scope, sha256Hex(canonical)].join('\n')
  let key: Uint8Array = Buffer.from(`AWS4${keys.secretAccessKey}`)
  for (const part of scope.split('/')) key = createHmac('sha256', key).update(part).digest()
  if (createHmac('sha256', key).update(text).digest('hex') !== signature) return 'SignatureDoesNotMatch'
  return payload === sha256Hex(body) ? undefined : 'XAmzContentSHA256Mismatch'
}

const single = (request: IncomingMessage, name: string): string => {
  const value = request.headers[name]
  return Array.isArray(value) ? value.join(',') : (value ?? '')
}

const canonicalQuery = (query: string): string =>
  query
    .split('&')
    .filter(part => part !== '')
    .map(part => (part.includes('=') ? part : `${part}=`))
    .sort()
    .join('&')
