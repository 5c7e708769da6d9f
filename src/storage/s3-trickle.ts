/**
 * Ends an answer whose body comes in drops: the time-out of a socket knows silence only, and a byte a second would keep a guest's
 * read waiting for hours. It fails as one that was cut off does, and is asked for again.
 */
import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import type { S3Client } from '@aws-sdk/client-s3'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'

/** Bodies of all answers of this client have to bring `limits.s3BodyBytesMin`, or their end, in each `periodMs`. */
export function refuseTrickles(client: S3Client, periodMs: number): void {
  client.middlewareStack.add(
    next => async args => {
      const result = await next(args)
      watch(bodyOf(result.response), periodMs)
      return result
    },
    { step: 'deserialize', priority: 'low', name: 'refuseTrickles' },
  )
}

/** The socket counts what arrives, so that nobody has to read the body a second time. */
function watch(body: IncomingMessage | undefined, periodMs: number): void {
  if (!body) return
  let seen = body.socket.bytesRead
  let looks = 0
  const timer = setInterval(() => {
    const arrived = body.socket.bytesRead - seen
    if (arrived >= limits.s3BodyBytesMin) {
      seen += arrived
      looks = 0
    } else if (++looks >= LOOKS_PER_PERIOD && !body.complete) body.destroy(trickle(arrived, periodMs))
  }, periodMs / LOOKS_PER_PERIOD)
  body.once('close', () => clearInterval(timer))
}

/** A body that began well and then trickles is found out after an eighth more than a period. */
const LOOKS_PER_PERIOD = 8

function bodyOf(response: unknown): IncomingMessage | undefined {
  if (typeof response !== 'object' || response === null || !('body' in response)) return undefined
  const { body } = response
  return body instanceof Readable && 'socket' in body ? (body as IncomingMessage) : undefined
}

const trickle = (bytes: number, ms: number): LifeboatError =>
  new LifeboatError('store-unreachable', `the answer came at ${bytes} bytes in ${Math.round(ms / 1000)} s`, {
    retry: 'transient',
    hint: 'Look at the line to the object store, and at what lies between.',
  })
