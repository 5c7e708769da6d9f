import assert from 'node:assert/strict'
import { request } from 'node:http'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { s3Store } from '../../src/storage/s3.ts'
import { startS3Fake } from './s3-fake.ts'

test('the fake refuses what is not signed, is signed with another key, or was changed on the way', async () => {
  await using fake = await startS3Fake()
  const { endpoint, credentials } = fake
  const codeOf = async (response: Response) => /<Code>(\w+)</.exec(await response.text())?.[1]
  assert.equal(await codeOf(await fetch(`${endpoint}/test/a`)), 'AccessDenied')
  assert.equal(await codeOf(await fetch(`${endpoint}/test/a`, { method: 'PUT', body: 'x' })), 'AccessDenied')

  await using store = s3Store({ bucket: 'test', prefix: '', endpoint, credentials, pathStyle: true })
  await store.put('a', [Buffer.from('hello')])
  const { authorization = '', ...signed } = fake.requests.at(-1)?.headers ?? {}
  assert.match(authorization, /^AWS4-HMAC-SHA256 Credential=FAKEKEY\//)
  const resend = (path: string, body: string) =>
    replay(new URL(`${path}?x-id=PutObject`, endpoint), body, { authorization, ...signed })
  assert.equal(await resend('/test/a', 'hello'), 'stored', 'the same request again is as good as the first')
  assert.equal(await resend('/test/a', 'jello'), 'XAmzContentSHA256Mismatch')
  assert.equal(await resend('/test/b', 'hello'), 'SignatureDoesNotMatch')
  assert.deepEqual([...(fake.buckets.get('test')?.objects.keys() ?? [])], ['a'])

  await using other = s3Store({
    bucket: 'test',
    prefix: '',
    endpoint,
    credentials: { ...credentials, secretAccessKey: 'other' },
    pathStyle: true,
  })
  await assert.rejects(other.get('a'), /SignatureDoesNotMatch/)
})

/** Sends a put with exactly these headers; gives S3's error code, or 'stored'. */
function replay(url: URL, body: string, headers: NodeJS.Dict<string | string[]>): Promise<string> {
  return new Promise((resolve, reject) => {
    const sending = request(url, { method: 'PUT', headers }, response => {
      text(response).then(xml => resolve(/<Code>(\w+)</.exec(xml)?.[1] ?? 'stored'), reject)
    })
    sending.once('error', reject)
    sending.end(body)
  })
}
