/** Bodies of S3 objects on their way in and out. */
import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { setImmediate } from 'node:timers/promises'
import { LifeboatError } from '../core/errors.ts'
import { MiB } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { truncated } from './store-errors.ts'

/**
 * Reads exactly `length` bytes. The stream is read to its end or destroyed, else its socket would never be free again.
 * Silence is bounded by the socket's own time-out.
 */
export function readBody(
  body: unknown,
  length: number,
  key: string,
  { signal }: AbortOptions = {},
): Promise<Uint8Array> {
  if (!(body instanceof Readable)) throw new LifeboatError('store-failed', `The answer for ${key} has no body`)
  const stream = body
  const { buffer, byteOffset } = Buffer.allocUnsafeSlow(length)
  const bytes = new Uint8Array(buffer, byteOffset, length)
  return new Promise((resolve, reject) => {
    let done = 0
    const fail = (error: unknown) => {
      signal?.removeEventListener('abort', onAbort)
      stream.destroy()
      reject(error)
    }
    const onAbort = () => fail(signal?.reason)
    if (signal?.aborted) return onAbort()
    signal?.addEventListener('abort', onAbort, { once: true })
    stream.on('data', (chunk: Uint8Array) => {
      if (done + chunk.length > length) return fail(overlong(key))
      bytes.set(chunk, done)
      done += chunk.length
    })
    stream.once('error', error => fail(truncated(key, error)))
    stream.once('close', () => fail(truncated(key))) // No effect after 'end' has settled the promise.
    stream.once('end', () => {
      if (done < length) return fail(truncated(key))
      signal?.removeEventListener('abort', onAbort)
      resolve(bytes)
    })
  })
}

/** Ends an answer whose body nobody wants. */
export function discardBody(body: unknown): void {
  if (body instanceof Readable) body.destroy()
}

const overlong = (key: string): LifeboatError =>
  new LifeboatError('store-unreachable', `The answer for ${key} is longer than it announced`, {
    retry: 'transient',
    details: { object: key },
  })

/** The digest that the request is signed with. It is how the store notices bytes that changed on the way in. */
export async function payloadDigests(
  parts: readonly Uint8Array[],
  { withMd5, signal }: { withMd5: boolean } & AbortOptions,
): Promise<{ sha256: string; md5: string | undefined }> {
  const sha256 = createHash('sha256')
  const md5 = withMd5 ? createHash('md5') : undefined
  let sinceTurn = 0
  for (const part of parts)
    for (let at = 0; at < part.length; at += MiB) {
      const slice = part.subarray(at, at + MiB)
      sha256.update(slice)
      md5?.update(slice)
      sinceTurn += slice.length
      if (sinceTurn < MiB) continue
      sinceTurn = 0
      await setImmediate(undefined, { signal }) // About a millisecond of hashing at a time: a session's replies must not wait for a pack.
    }
  return { sha256: sha256.digest('hex'), md5: md5?.digest('base64') }
}

/** A stream over the parts where there are several, so that a pack is not copied only to be sent. */
export function uploadBody(parts: readonly Uint8Array[]): Uint8Array | Readable {
  const filled = parts.filter(part => part.length > 0)
  if (filled.length <= 1) return filled[0] ?? new Uint8Array(0)
  return Readable.from(filled, { objectMode: false, highWaterMark: MiB })
}
