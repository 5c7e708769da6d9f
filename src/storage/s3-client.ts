/** The SDK's client, set up so that it does what it is told once, and quickly gives up on what hangs. */
import { Agent as HttpAgent } from 'node:http'
import { Agent as HttpsAgent } from 'node:https'
import { S3Client, type S3ClientConfig } from '@aws-sdk/client-s3'
import { NodeHttpHandler } from '@smithy/node-http-handler'
import { limits } from '../core/limits.ts'
import { refuseTrickles } from './s3-trickle.ts'

export interface S3ClientOptions {
  readonly endpoint?: string
  readonly region?: string
  readonly pathStyle: boolean
  readonly credentials?: {
    readonly accessKeyId: string
    readonly secretAccessKey: string
    readonly sessionToken?: string
  }
  readonly profile?: string
  readonly connectMs?: number
  readonly idleMs?: number
  readonly requestMs?: number
}

const SILENT = { trace() {}, debug() {}, info() {}, warn() {}, error() {} }

export function s3Client(options: S3ClientOptions): S3Client {
  const { endpoint, credentials, profile, idleMs = limits.s3IdleMs } = options
  // A store of one's own has no regions, but a signature has to name one.
  const region = options.region ?? (endpoint === undefined ? undefined : 'us-east-1')
  const config: S3ClientConfig = {
    forcePathStyle: options.pathStyle,
    // `retrying` retries; two layers of it would multiply the waits.
    maxAttempts: 1,
    // Ceph, Swift and others refuse or mangle the trailers that the SDK adds otherwise.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    // With it the SDK opens a new connection for each large put.
    expectContinueHeader: false,
    // It would warn on stderr of failures that are thrown anyway.
    logger: SILENT,
    requestHandler: new NodeHttpHandler({
      httpAgent: new HttpAgent({ keepAlive: true, maxSockets: limits.s3SocketsMax }),
      httpsAgent: new HttpsAgent({ keepAlive: true, maxSockets: limits.s3SocketsMax }),
      connectionTimeout: options.connectMs ?? limits.s3ConnectMs,
      socketTimeout: idleMs,
      requestTimeout: options.requestMs ?? limits.s3RequestMs,
      throwOnRequestTimeout: true,
    }),
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(region === undefined ? {} : { region }),
    ...(credentials === undefined ? {} : { credentials }),
    ...(profile === undefined ? {} : { profile }),
  }
  const client = new S3Client(config)
  refuseTrickles(client, idleMs)
  return client
}

/** Headers of a request or an answer as the SDK's middleware hands them on, which it types as unknown. */
export function headersOf(message: unknown): Record<string, string> {
  if (typeof message === 'object' && message !== null && 'headers' in message && isRecord(message.headers))
    return message.headers
  return {}
}

const isRecord = (value: unknown): value is Record<string, string> => typeof value === 'object' && value !== null
