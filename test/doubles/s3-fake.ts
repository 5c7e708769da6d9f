/**
 * A small S3 server in this process: what Lifeboat uses of it, in path style, with signatures checked, and with faults.
 * Listens on 127.0.0.1 on a free port.
 */
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Writable } from 'node:stream'
import {
  type Answer,
  errorAnswer,
  type FakeBucket,
  type FakeQuirks,
  getObject,
  listObjects,
  putObject,
} from './s3-fake-bucket.ts'
import {
  type S3Fault,
  type S3FaultPlan,
  type S3FaultRule,
  type S3Operation,
  type SeededS3Faults,
  s3FaultPlan,
} from './s3-fake-faults.ts'
import { type SigningKeys, signatureFault } from './s3-fake-signature.ts'
import {
  answerLock,
  deleteObject,
  deleteObjects,
  lifecycleConfiguration,
  listVersions,
  lockConfiguration,
  versioningStatus,
} from './s3-fake-versions.ts'

export interface S3FakeOptions {
  /** Object Lock brings versioning with it. */
  readonly buckets?: Readonly<
    Record<string, Partial<Pick<FakeBucket, 'versioning' | 'objectLock' | 'defaultRetention' | 'lifecycle'>>>
  >
  /** So many requests a second are served; the others are answered 503 SlowDown. */
  readonly requestsPerSecond?: number
  /** The time of objects and of their retention. */
  readonly now?: () => Date
  readonly quirks?: Partial<FakeQuirks>
  readonly faults?: readonly S3FaultRule[]
  readonly seeded?: SeededS3Faults
}

export interface S3Request {
  readonly operation: S3Operation
  readonly key: string
  readonly range: string | undefined
  readonly bodyBytes: number
  readonly headers: IncomingHttpHeaders
}

export interface S3Fake extends AsyncDisposable {
  readonly endpoint: string
  readonly credentials: SigningKeys
  readonly buckets: ReadonlyMap<string, FakeBucket>
  /** Every request that arrived, in order. */
  readonly requests: readonly S3Request[]
  readonly faults: S3FaultPlan
  /** Requests that were answered SlowDown. */
  readonly refusedCount: () => number
  /** Connections that are open now. */
  readonly connectionCount: () => number
}

export async function startS3Fake(options: S3FakeOptions = {}): Promise<S3Fake> {
  const quirks: FakeQuirks = {
    conditionalPut: 'honoured',
    keyMarker: 'exclusive',
    batchDelete: true,
    pageKeys: 1000,
    ...options.quirks,
  }
  const { now = () => new Date() } = options
  const credentials = { accessKeyId: 'FAKEKEY', secretAccessKey: 'fake/secret' }
  const buckets = new Map<string, FakeBucket>()
  for (const [name, { objectLock = false, versioning = objectLock, ...rules }] of Object.entries(
    options.buckets ?? { test: {} },
  ))
    buckets.set(name, { objects: new Map(), versions: new Map(), versioning, objectLock, ...rules, now })
  const requests: S3Request[] = []
  const faults = s3FaultPlan(options.faults ?? [], options.seeded)
  const sockets = new Set<{ destroy(): void }>()

  const { requestsPerSecond = Number.POSITIVE_INFINITY } = options
  let [refused, servedAt] = [0, [] as number[]]
  function isTooMuch(): boolean {
    servedAt = servedAt.filter(atMs => atMs > performance.now() - 1_000)
    if (servedAt.length >= requestsPerSecond) {
      refused++
      return true
    }
    servedAt.push(performance.now())
    return false
  }

  const server = createServer((request, response) => {
    serve(request, response).catch(() => response.destroy()) // The client went away in the middle of its request.
  })
  server.on('connection', socket => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = Buffer.concat(await Array.fromAsync(request))
    const { operation, bucketName, key, query } = route(request)
    const { range } = request.headers
    const versionId = query.get('versionId')
    requests.push({ operation, key, range, bodyBytes: body.length, headers: request.headers })
    if (isTooMuch()) return send(request, response, errorAnswer(503, 'SlowDown', key))
    const fault = faults.draw(operation, key)
    if (fault?.kind === 'hang') return
    if (fault?.kind === 'reset') return void response.socket?.resetAndDestroy()
    if (fault?.kind === 'delay') await new Promise(resolve => setTimeout(resolve, fault.ms))
    const answer = answerTo()
    if (fault?.kind === 'done-but-hang') return
    if (fault?.kind === 'done-but-reset') return void response.socket?.resetAndDestroy()
    if (fault?.kind === 'done-but-error') return send(request, response, errorAnswer(fault.status, fault.code, key))
    send(request, response, answer, fault)

    function answerTo(): Answer {
      if (fault?.kind === 'error') return errorAnswer(fault.status, fault.code, key)
      if (fault?.kind === 'foreign-error') return { status: fault.status, body: Buffer.from('<html>no</html>') }
      const problem = signatureFault(request, body, credentials)
      if (problem !== undefined) return errorAnswer(problem === 'XAmzContentSHA256Mismatch' ? 400 : 403, problem, key)
      if (operation === 'PutObject' && request.headers['content-length'] === undefined)
        return errorAnswer(411, 'MissingContentLength', key)
      const bucket = buckets.get(bucketName)
      if (!bucket) return errorAnswer(404, 'NoSuchBucket', bucketName)
      switch (operation) {
        case 'PutObject':
          return putObject({ bucket, key, bytes: body, headers: request.headers }, quirks)
        case 'GetObject':
        case 'HeadObject':
          return getObject(bucket, key, versionId, fault?.kind === 'whole-object' ? undefined : range)
        case 'DeleteObject':
          return deleteObject(bucket, key, versionId)
        case 'DeleteObjects':
          return deleteObjects(bucket, body.toString(), quirks)
        case 'ListObjectsV2':
          return listObjects(bucketName, bucket, query, { ...quirks, hidesNewest: fault?.kind === 'hide-newest' })
        case 'ListObjectVersions':
          return listVersions(bucket, query, quirks)
        case 'GetObjectRetention':
        case 'PutObjectRetention':
        case 'GetObjectLegalHold':
        case 'PutObjectLegalHold':
          return answerLock({ operation, bucket, key, versionId, xml: body.toString() })
        case 'HeadBucket':
          return { status: 200, headers: { date: now().toUTCString() } }
        case 'GetBucketLifecycleConfiguration':
          return lifecycleConfiguration(bucket)
        case 'GetBucketVersioning':
          return versioningStatus(bucket)
        case 'GetObjectLockConfiguration':
          return lockConfiguration(bucket)
      }
    }
  }

  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the fake has no port')
  return {
    endpoint: `http://127.0.0.1:${address.port}`,
    credentials,
    buckets,
    requests,
    faults,
    refusedCount: () => refused,
    connectionCount: () => sockets.size,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      await new Promise(resolve => server.close(resolve))
    },
  }
}

function route(request: IncomingMessage) {
  const url = new URL(request.url ?? '/', 'http://fake')
  const [, bucketName = '', path = ''] = /^\/([^/]*)\/?(.*)$/s.exec(url.pathname) ?? []
  const key = decodeURIComponent(path)
  return {
    operation: operationOf(request.method ?? '', key, url.searchParams),
    bucketName,
    key,
    query: url.searchParams,
  }
}

function operationOf(method: string, key: string, query: URLSearchParams): S3Operation {
  if (key === '') {
    if (method === 'HEAD') return 'HeadBucket'
    if (method === 'POST' && query.has('delete')) return 'DeleteObjects'
    if (query.has('versioning')) return 'GetBucketVersioning'
    if (query.has('versions')) return 'ListObjectVersions'
    if (query.has('lifecycle')) return 'GetBucketLifecycleConfiguration'
    return query.has('object-lock') ? 'GetObjectLockConfiguration' : 'ListObjectsV2'
  }
  if (query.has('retention')) return method === 'PUT' ? 'PutObjectRetention' : 'GetObjectRetention'
  if (query.has('legal-hold')) return method === 'PUT' ? 'PutObjectLegalHold' : 'GetObjectLegalHold'
  if (method === 'PUT') return 'PutObject'
  if (method === 'HEAD') return 'HeadObject'
  return method === 'DELETE' ? 'DeleteObject' : 'GetObject'
}

function send(request: IncomingMessage, response: ServerResponse, answer: Answer, fault?: S3Fault): void {
  const { body, length } = damaged(answer, fault)
  if (fault?.kind === 'trickle' && fault.of === 'head')
    return void trickle(response.socket!, Buffer.from(`HTTP/1.1 200 OK\r\nx: ${'x'.repeat(8_000)}`), 17, fault.everyMs)
  // What an answer to HEAD, or to a request without an answer, does not bring is still announced.
  response.writeHead(answer.status, { ...answer.headers, 'content-length': String(length) })
  if (request.method === 'HEAD') return void response.end()
  const half = Math.floor(body.length / 2)
  if (fault?.kind === 'trickle') return void trickle(response, body, half, fault.everyMs)
  if (fault?.kind !== 'half-body') return void response.end(body)
  response.write(body.subarray(0, half), () => {
    if (fault.ending === 'reset') response.socket?.resetAndDestroy()
  })
}

function trickle(response: Writable, body: Uint8Array, from: number, everyMs: number): void {
  let at = from
  response.write(body.subarray(0, at))
  const timer = setInterval(() => {
    if (at < body.length) response.write(body.subarray(at, ++at))
    else response.end()
  }, everyMs)
  response.once('close', () => clearInterval(timer))
}

function damaged(
  { body = new Uint8Array(0) }: Answer,
  fault: S3Fault | undefined,
): { body: Uint8Array; length: number } {
  const half = Math.floor(body.length / 2)
  switch (fault?.kind) {
    case 'wrong-length':
      return { body: body.subarray(0, half), length: half }
    case 'extra-bytes':
      return { body: Buffer.concat([body, Buffer.from('extra')]), length: body.length + 5 }
    case 'wrong-body': {
      const wrong = Uint8Array.from(body)
      if (wrong.length > 0) wrong[half] = wrong[half]! ^ 1
      return { body: wrong, length: body.length }
    }
    case 'drop-entries': {
      const xml = Buffer.from(body).toString()
      if (!xml.startsWith('<?xml')) return { body, length: body.length }
      const text = xml.replace(/<(Contents|Version|Deleted)>(?:(?!<\1>).)*<\/\1>(?=<\/)/s, '')
      return { body: Buffer.from(text), length: Buffer.byteLength(text) }
    }
    default:
      return { body, length: body.length }
  }
}
