import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { isLifeboatError } from '../../../src/core/errors.ts'
import { openStore, parseStoreUrl } from '../../../src/storage/store-url.ts'
import { startS3Fake } from '../../doubles/s3-fake.ts'

test('paths and file: URLs are directories', () => {
  const rows: [string, string][] = [
    ['/srv/backup', '/srv/backup'],
    ['backup', 'backup'],
    ['./s3:odd', './s3:odd'],
    ['file:///srv/my%20backup', '/srv/my backup'],
    ['file://localhost/srv', '/srv'],
    ['FILE:///srv', '/srv'],
  ]
  for (const [text, path] of rows) assert.deepEqual(parseStoreUrl(text), { kind: 'directory', path }, text)
})

test('s3: URLs name bucket, prefix, endpoint, region and style', () => {
  assert.deepEqual(
    parseStoreUrl('s3://Backups/site-1/vms/?endpoint=http://127.0.0.1:17480&region=default&path-style=true'),
    {
      kind: 's3',
      bucket: 'Backups',
      prefix: 'site-1/vms',
      endpoint: 'http://127.0.0.1:17480',
      region: 'default',
      pathStyle: true,
    },
  )
  const plain = parseStoreUrl('s3://bucket')
  assert.deepEqual(plain, {
    kind: 's3',
    bucket: 'bucket',
    prefix: '',
    endpoint: undefined,
    region: undefined,
    pathStyle: false,
  })
  const own = parseStoreUrl('s3://bucket?endpoint=https://s3.example')
  assert.ok(own.kind === 's3' && own.pathStyle, "a store of one's own gets path style")
})

test('what is not a repository URL is a usage error that says how to write one and shows no secret', () => {
  const wrong = [
    '',
    'ftp://host/x',
    's3:bucket/x',
    's3://',
    's3://AKIA123:topsecret@bucket/x',
    's3://topsecret@bucket/x',
    's3://bucket/x?endpoint=http://AKIA123:topsecret@host',
    's3://bucket/x?endpoint=ftp://host',
    's3://bucket/x?endpoint=nonsense',
    's3://bucket/x?access_key=topsecret',
    's3://bucket/x?secret-access-key=topsecret',
    's3://bucket/a/../b',
    's3://bucket/a b',
    's3://bucket/a%20b',
    's3://bucket/a%2F..%2Fb',
    's3://bucket/a%zz',
    's3://bucket/x?path-style=yes',
    's3://bucket/x?region=a%20b',
    's3://bucket/x#part',
    'file://host/x',
    'file:///x?y=1',
    'file:///',
    'rclone:remote:path',
  ]
  for (const text of wrong)
    assert.throws(
      () => parseStoreUrl(text),
      error => {
        assert.ok(isLifeboatError(error, 'usage'), `${text}: ${error}`)
        assert.ok(error.details.hint, text)
        assert.doesNotMatch(`${error.message} ${error.details.hint}`, /topsecret|AKIA123/)
        return true
      },
      text,
    )
  assert.throws(() => parseStoreUrl('ftp://host/x'), /ftp/)
})

test('a directory is made by the first put only where that was asked for', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'lifeboat-url-'))
  try {
    const path = join(folder, 'new', 'repository')
    const existing = await openStore(path, { environment: {} })
    for (const work of [
      () => existing.get('config'),
      () => existing.put('a', []),
      () => existing.head('a'),
      () => Array.fromAsync(existing.list('')),
    ])
      await assert.rejects(
        work(),
        error => isLifeboatError(error, 'store-not-found') && /mounted/.test(String(error.details.hint)),
      )
    assert.deepEqual(await readdir(folder), [])
    const created = await openStore(path, { environment: {}, create: true })
    assert.equal(await created.head('config'), undefined)
    assert.deepEqual(await Array.fromAsync(created.list('')), [])
    assert.deepEqual(await readdir(folder), [])
    await created.put('config', [new Uint8Array(3)])
    assert.equal((await existing.get('config')).length, 3)
  } finally {
    await rm(folder, { recursive: true })
  }
})

test('credentials come from the environment or the config file, which wins', async () => {
  await using fake = await startS3Fake()
  const url = `s3://test/x?endpoint=${fake.endpoint}`
  const { accessKeyId, secretAccessKey } = fake.credentials
  const right = { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey }
  const wrong = { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: 'wrong' }
  await using fromEnvironment = await openStore(url, { environment: right })
  await fromEnvironment.put('a', [new Uint8Array(1)])
  assert.equal(fromEnvironment.url, `s3://test/x?endpoint=${encodeURIComponent(fake.endpoint)}&path-style=true`)
  await using fromFile = await openStore(url, { environment: wrong, credentials: fake.credentials })
  assert.equal((await fromFile.head('a'))?.size, 1)
  await using refused = await openStore(url, { environment: wrong })
  await assert.rejects(refused.get('a'), error => isLifeboatError(error, 'store-denied'))
})
