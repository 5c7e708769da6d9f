import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { isLifeboatError, type LifeboatError } from '../../../src/core/errors.ts'
import { limits } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { metered } from '../../../src/storage/metered.ts'
import type { ObjectStore } from '../../../src/storage/object-store.ts'
import { probeStore } from '../../../src/storage/probe.ts'
import { retrying } from '../../../src/storage/retrying.ts'
import { type S3Options, s3Store } from '../../../src/storage/s3.ts'
import { type S3Fake, type S3FakeOptions, startS3Fake } from '../../doubles/s3-fake.ts'
import { passingS3Faults, type S3Fault, type S3Operation } from '../../doubles/s3-fake-faults.ts'

const bytes = new Uint8Array(300_000).map((_, at) => (at * 7 + (at >> 8)) & 0xff)
const body = [bytes.subarray(0, 100_000), bytes.subarray(100_000)]
/** Only where a fault falls silent does a request get so little: elsewhere a busy machine would time out. */
const isSilent = (fault: S3Fault): boolean =>
  fault.kind === 'hang' || fault.kind === 'trickle' || (fault.kind === 'half-body' && fault.ending === 'silence')

async function withStore(
  options: S3FakeOptions & Partial<S3Options>,
  work: (store: ObjectStore, fake: S3Fake) => Promise<void>,
): Promise<void> {
  await using fake = await startS3Fake(options)
  const { endpoint, credentials } = fake
  await using store = s3Store({ bucket: 'test', prefix: 'vms', endpoint, credentials, pathStyle: true, ...options })
  await work(store, fake)
}

async function rejection(promise: Promise<unknown>): Promise<LifeboatError> {
  try {
    await promise
  } catch (error) {
    if (isLifeboatError(error)) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

const listKeys = async (store: ObjectStore): Promise<string[]> =>
  (await Array.fromAsync(store.list(''))).map(({ key }) => key)

const call = (store: ObjectStore, operation: S3Operation): Promise<unknown> => {
  switch (operation) {
    case 'PutObject':
      return store.put('one', body)
    case 'HeadObject':
      return store.head('one')
    case 'DeleteObjects':
      return store.delete(['x', 'y'])
    case 'DeleteObject':
      return store.delete(['x'])
    case 'ListObjectsV2':
      return listKeys(store)
    case 'HeadBucket':
      return store.now()
    default:
      return store.get('one', { offset: 1000, length: 200_000 })
  }
}

suite('S3 faults become errors that say whether to try again', () => {
  type Row = [fault: S3Fault, code: string, retry: string, operations?: S3Operation[]]
  const all: S3Operation[] = [
    'PutObject',
    'GetObject',
    'HeadObject',
    'DeleteObjects',
    'DeleteObject',
    'ListObjectsV2',
    'HeadBucket',
  ]
  const reads: S3Operation[] = ['GetObject']
  const answering: S3Operation[] = ['PutObject', 'GetObject', 'DeleteObjects', 'DeleteObject', 'ListObjectsV2']
  const rows: Row[] = [
    [{ kind: 'error', status: 500, code: 'InternalError' }, 'store-unreachable', 'transient'],
    [{ kind: 'error', status: 503, code: 'SlowDown' }, 'store-throttled', 'transient'],
    [{ kind: 'error', status: 429, code: 'TooManyRequests' }, 'store-throttled', 'transient'],
    [{ kind: 'foreign-error', status: 502 }, 'store-unreachable', 'transient'],
    [{ kind: 'foreign-error', status: 404 }, 'store-unreachable', 'transient', answering],
    [{ kind: 'foreign-error', status: 403 }, 'store-denied', 'permanent'],
    [{ kind: 'reset' }, 'store-unreachable', 'transient'],
    [{ kind: 'done-but-reset' }, 'store-unreachable', 'transient'],
    [{ kind: 'hang' }, 'store-unreachable', 'transient'],
    [{ kind: 'error', status: 403, code: 'AccessDenied' }, 'store-denied', 'permanent'],
    [{ kind: 'error', status: 403, code: 'RequestTimeTooSkewed' }, 'store-denied', 'permanent'],
    [{ kind: 'error', status: 507, code: 'InsufficientStorage' }, 'store-full', 'permanent', ['PutObject']],
    [{ kind: 'error', status: 403, code: 'QuotaExceeded' }, 'store-full', 'permanent', ['PutObject']],
    [{ kind: 'error', status: 400, code: 'RequestTimeout' }, 'store-unreachable', 'transient', ['PutObject']],
    [{ kind: 'error', status: 400, code: 'BadDigest' }, 'store-unreachable', 'transient', ['PutObject']],
    [{ kind: 'error', status: 404, code: 'NoSuchKey' }, 'store-not-found', 'permanent', reads],
    [{ kind: 'error', status: 404, code: 'NoSuchBucket' }, 'store-bucket-missing', 'permanent', answering],
    [{ kind: 'half-body', ending: 'reset' }, 'store-unreachable', 'transient', ['GetObject', 'ListObjectsV2']],
    [{ kind: 'half-body', ending: 'silence' }, 'store-unreachable', 'transient', ['GetObject', 'ListObjectsV2']],
    [{ kind: 'trickle', of: 'body', everyMs: 20 }, 'store-unreachable', 'transient', ['GetObject', 'ListObjectsV2']],
    [{ kind: 'trickle', of: 'head', everyMs: 20 }, 'store-unreachable', 'transient', ['GetObject', 'HeadObject']],
    [{ kind: 'wrong-length' }, 'store-unreachable', 'transient', ['GetObject', 'ListObjectsV2']],
    [{ kind: 'extra-bytes' }, 'store-unreachable', 'transient', reads],
    [{ kind: 'whole-object' }, 'store-unreachable', 'transient', reads],
    [{ kind: 'drop-entries' }, 'store-unreachable', 'transient', ['ListObjectsV2', 'DeleteObjects']],
    [{ kind: 'error', status: 301, code: 'PermanentRedirect' }, 'store-failed', 'permanent', reads],
  ]
  for (const [fault, code, retry, operations = all] of rows)
    test(`${JSON.stringify(fault)} is ${code}, ${retry}`, () =>
      withStore({ idleMs: isSilent(fault) ? 300 : 20_000 }, async (store, fake) => {
        await store.put('one', body)
        for (const operation of operations) {
          fake.faults.add({ operation, fault })
          const error = await rejection(call(store, operation))
          assert.deepEqual([error.code, error.retry], [code, retry], `${operation}: ${error.message}`)
        }
        assert.equal(fake.faults.fired.length, operations.length, 'every fault fired, once: nothing below retries')
        assert.deepEqual(await store.get('one'), bytes, 'and the store works on')
      }))
})

test('wrong bytes of the right length are not noticed here: readers authenticate', () =>
  withStore({}, async (store, fake) => {
    await store.put('one', body)
    fake.faults.add({ operation: 'GetObject', fault: { kind: 'wrong-body' } })
    assert.notDeepEqual(await store.get('one'), bytes)
  }))

test('a missing bucket is told from a missing key, also by head, list and now', () =>
  withStore({ bucket: 'other' }, async (store, fake) => {
    const calls = [
      () => store.head('config'),
      () => store.get('config'),
      () => listKeys(store),
      () => store.now(),
      () => store.put('config', body),
      () => store.delete(['a', 'b']),
    ]
    for (const request of calls) {
      const error = await rejection(request())
      assert.equal(error.code, 'store-bucket-missing')
      assert.match(String(error.details.hint), /bucket/)
      assert.match(error.message, new RegExp(fake.endpoint))
    }
  }))

test('wrong keys are refused with what to set, and no key is shown', () =>
  withStore({ credentials: { accessKeyId: 'FAKEKEY', secretAccessKey: 'not-the-key' } }, async store => {
    const error = await rejection(store.get('one'))
    assert.equal(error.code, 'store-denied')
    assert.match(String(error.details.hint), /AWS_SECRET_ACCESS_KEY/)
    assert.doesNotMatch(`${error.message} ${store.url}`, /not-the-key/)
  }))

test('a store that nobody listens at is unreachable', async () => {
  const { endpoint } = await stopped(startS3Fake())
  const credentials = { accessKeyId: 'a', secretAccessKey: 'b' }
  await using store = s3Store({ bucket: 'test', prefix: '', endpoint, credentials, pathStyle: true })
  const error = await rejection(store.get('one'))
  assert.deepEqual([error.code, error.retry], ['store-unreachable', 'transient'])
  assert.match(String(error.details.hint), /endpoint/)
})

/** Starts and ends a fake, so that its port is free. */
async function stopped(starting: Promise<S3Fake>): Promise<S3Fake> {
  const fake = await starting
  await fake[Symbol.asyncDispose]()
  return fake
}

test('failed and abandoned reads give their sockets back', () =>
  withStore({}, async (store, fake) => {
    await store.put('one', body)
    for (let round = 0; round < 30; round++) {
      const kind = (['extra-bytes', 'whole-object', 'wrong-length'] as const)[round % 3]!
      fake.faults.add({ operation: 'GetObject', fault: { kind } })
      await assert.rejects(store.get('one', { offset: 10, length: 250_000 }))
      const stop = new AbortController()
      const read = store.get('one', undefined, { signal: stop.signal })
      setImmediate(() => stop.abort(new Error('enough')))
      await read.catch(() => undefined)
    }
    assert.deepEqual(await store.get('one'), bytes)
    assert.ok(fake.connectionCount() < 8, `${fake.connectionCount()} connections are open`)
  }))

test('what claims to be larger than any object of a repository is refused before memory is taken', () =>
  withStore({}, async (store, fake) => {
    await store.put('one', body)
    const huge = new Uint8Array(0)
    Object.defineProperty(huge, 'length', { value: limits.objectBytesMax + 1 })
    const object = fake.buckets.get('test')!.objects
    object.set('vms/huge', { ...object.get('vms/one')!, bytes: huge })
    assert.equal((await rejection(store.get('huge'))).code, 'absurd-object')
  }))

test('an upload in parts is sent as it lies, signed and with its length', () =>
  withStore({}, async (store, fake) => {
    await store.put('one', [
      bytes.subarray(0, 1),
      new Uint8Array(0),
      bytes.subarray(1, 200_000),
      bytes.subarray(200_000),
    ])
    assert.deepEqual(
      fake.requests.map(({ operation, key, bodyBytes }) => [operation, key, bodyBytes]),
      [['PutObject', 'vms/one', 300_000]],
    )
    assert.deepEqual(await store.get('one'), bytes)
  }))

test('a thousand keys are deleted in one request, and one by one where the store has no batches', async () => {
  const keys = Array.from({ length: 1_001 }, (_, index) => `k/${index}`)
  await withStore({}, async (store, fake) => {
    await store.delete(keys)
    assert.deepEqual(
      fake.requests.map(({ operation }) => operation).filter(operation => operation.startsWith('Delete')),
      ['DeleteObjects', 'DeleteObject'],
    )
  })
  await withStore({ quirks: { batchDelete: false } }, async (store, fake) => {
    for (const key of keys.slice(0, 6)) await store.put(key, [bytes])
    await store.delete(keys.slice(0, 4))
    await store.delete(keys.slice(2, 6))
    assert.equal(fake.requests.filter(({ operation }) => operation === 'DeleteObjects').length, 1, 'it is asked once')
    assert.deepEqual(await listKeys(store), [])
  })
})

test('probe reports what the bucket honours and leaves no version behind', async () => {
  const buckets = { test: { versioning: true, objectLock: true } }
  await withStore({ buckets }, async (store, fake) => {
    assert.deepEqual(await probeStore(store, 'probe/'), { conditionalPut: true, versioning: true, objectLock: true })
    assert.equal(fake.buckets.get('test')!.objects.size, 0)
    assert.equal(fake.buckets.get('test')!.versions.size, 0)
    assert.ok(fake.requests.filter(({ operation }) => operation.startsWith('Delete')).length > 0)
  })
  await withStore({ buckets, quirks: { conditionalPut: 'ignored' } }, async store =>
    assert.deepEqual(await probeStore(store, 'probe/'), { conditionalPut: false, versioning: true, objectLock: true }),
  )
  await withStore({ quirks: { conditionalPut: 'refused' } }, async store =>
    assert.deepEqual(await probeStore(store, 'probe/'), {
      conditionalPut: false,
      versioning: false,
      objectLock: false,
    }),
  )
})

test('with retries, a seeded storm of faults changes nothing that is read or stored', async t => {
  const seed = process.env.LIFEBOAT_TEST_SEED ?? 'storm-1'
  t.diagnostic(`seed ${seed}`)
  const faults: S3Fault[] = [...passingS3Faults, { kind: 'drop-entries' }, { kind: 'foreign-error', status: 502 }]
  await withStore(
    { seeded: { random: seededRandom(seed), probability: 0.3, faults }, quirks: { pageKeys: 5 } },
    async (bare, fake) => {
      const store = retrying(bare, { random: seededRandom(seed), firstDelayMs: 1, delayMaxMs: 4 })
      const keys = Array.from({ length: 20 }, (_, index) => `k/${String(index).padStart(2, '0')}`)
      for (const [index, key] of keys.entries())
        await store.put(key, [bytes.subarray(0, index), bytes.subarray(index, 5_000)], { ifAbsent: index % 2 === 0 })
      for (const key of keys) {
        assert.deepEqual(await store.get(key), bytes.subarray(0, 5_000))
        assert.deepEqual(await store.get(key, { offset: 100, length: 100 }), bytes.subarray(100, 200))
        assert.equal((await store.head(key))?.size, 5_000)
      }
      assert.deepEqual(await listKeys(store), keys)
      await store.delete(keys.slice(0, 10))
      assert.deepEqual(await listKeys(store), keys.slice(10))
      assert.ok(fake.faults.fired.length > 20, `${fake.faults.fired.length} faults fired`)
    },
  )
})

test('a meter over S3 counts the requests that arrive: short pages, refused batches, and what asks twice', async () => {
  await withStore({ quirks: { pageKeys: 2, batchDelete: false } }, async (s3, fake) => {
    const { store, meter } = metered(s3)
    for (const key of ['a', 'b', 'c', 'd', 'e']) await store.put(key, body)
    await listKeys(store)
    await store.head('a')
    await store.get('a')
    await store.delete(['a', 'b', 'c'])
    const figures = meter.figures()
    const arrived = (...operations: S3Operation[]) =>
      fake.requests.filter(({ operation }) => operations.includes(operation)).length
    assert.equal(arrived('ListObjectsV2'), 3)
    assert.equal(figures.list.requests, 3)
    assert.equal(figures.put.requests, arrived('PutObject'))
    assert.equal(figures.head.requests, arrived('HeadObject'))
    assert.equal(figures.get.requests, arrived('GetObject'))
    assert.ok(arrived('DeleteObject') >= 3, 'deleted one by one')
    assert.equal(figures.delete.requests, arrived('DeleteObjects', 'DeleteObject'))
    const sum = Object.values(figures).reduce((total, { requests }) => total + requests, 0)
    assert.equal(sum, fake.requests.length)
  })
})
