import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { isLifeboatError, type LifeboatError } from '../../../src/core/errors.ts'
import { seededRandom } from '../../../src/core/random.ts'
import { initRepository } from '../../../src/repository/init.ts'
import type { ObjectStore, StoreConcern } from '../../../src/storage/object-store.ts'
import { retrying } from '../../../src/storage/retrying.ts'
import { s3Store } from '../../../src/storage/s3.ts'
import { manualClock } from '../../doubles/manual-clock.ts'
import { type S3Fake, type S3FakeOptions, startS3Fake } from '../../doubles/s3-fake.ts'
import { passingS3Faults, type S3Fault } from '../../doubles/s3-fake-faults.ts'

const bytes = new Uint8Array(1_000).map((_, at) => at & 0xff)
const LOCKED = { test: { objectLock: true } }

async function withStore(
  options: S3FakeOptions,
  work: (store: ObjectStore & Required<Pick<ObjectStore, 'versioned'>>, fake: S3Fake) => Promise<void>,
): Promise<void> {
  await using fake = await startS3Fake(options)
  const { endpoint, credentials } = fake
  await using store = s3Store({ bucket: 'test', prefix: 'vms', endpoint, credentials, pathStyle: true })
  const { versioned } = store
  assert.ok(versioned)
  await work({ ...store, versioned }, fake)
}

async function rejection(promise: Promise<unknown>): Promise<LifeboatError> {
  const error = await promise.then(
    () => undefined,
    thrown => thrown,
  )
  assert.ok(isLifeboatError(error), String(error))
  return error
}

const DENIED: S3Fault = { kind: 'error', status: 403, code: 'AccessDenied' }
const operationsOf = (fake: S3Fake): string[] => fake.requests.map(({ operation }) => operation)
const tomorrow = () => new Date(Date.now() + 86_400_000)

suite('versions of a bucket', () => {
  test('what the bucket can do is asked once, and a bucket without lock is asked for no locks', () =>
    withStore({ buckets: { test: { versioning: true } } }, async (store, fake) => {
      for (const key of ['a', 'b', 'c']) await store.put(key, [bytes])
      for (const key of ['a', 'b', 'c']) assert.deepEqual(await store.versioned.lockOf(key), { legalHold: false })
      await store.delete(['a', 'b'])
      await store.delete(['c'])
      assert.deepEqual(
        operationsOf(fake).filter(name => /GetBucket|Lock|Retention|Hold/.test(name)),
        ['GetBucketVersioning', 'GetObjectLockConfiguration'],
      )
    }))

  test('who may not ask about the bucket gets a plain store; a failure is asked again', async () => {
    await withStore({ buckets: LOCKED }, async (store, fake) => {
      fake.faults.add({ operation: 'GetBucketVersioning', fault: DENIED })
      fake.faults.add({ operation: 'GetObjectLockConfiguration', fault: DENIED })
      assert.deepEqual(await store.versioned.features(), { versioning: false, objectLock: false })
    })
    await withStore({ buckets: LOCKED }, async (store, fake) => {
      // A 404 that a proxy made up, and half of one that the store gave, say nothing about the bucket.
      fake.faults.add({ operation: 'GetBucketVersioning', fault: { kind: 'foreign-error', status: 404 } })
      assert.equal((await rejection(store.versioned.features())).retry, 'transient')
      fake.faults.add({ operation: 'GetObjectLockConfiguration', fault: { kind: 'reset' } })
      assert.equal((await rejection(store.versioned.features())).retry, 'transient')
      assert.deepEqual(await store.versioned.features(), { versioning: true, objectLock: true })
    })
    await withStore({}, async (store, fake) => {
      for (const kind of ['wrong-length', 'reset'] as const) {
        fake.faults.add({ operation: 'GetObjectLockConfiguration', fault: { kind } })
        assert.equal((await rejection(store.delete(['a']))).retry, 'transient', kind)
      }
      await store.delete(['a'])
    })
    await withStore({ buckets: { other: {} } }, async store =>
      assert.equal((await rejection(store.versioned.features())).code, 'store-bucket-missing'),
    )
  })

  test('a bucket without versions has one version of each object', () =>
    withStore({}, async store => {
      await store.put('a', [bytes])
      const [only, ...others] = await Array.fromAsync(store.versioned.versions(''))
      assert.deepEqual([only?.versionId, only?.isLatest, others], ['null', true, []])
      assert.deepEqual(await store.versioned.getVersion('a', 'null'), bytes)
      await store.versioned.deleteVersion('a', 'null')
      assert.equal(await store.head('a'), undefined)
    }))

  test('the newest versions go last, so that nothing old is seen again while a key is removed', () =>
    withStore({ buckets: { test: { versioning: true } } }, async (store, fake) => {
      for (const key of ['a', 'b']) for (let round = 0; round < 3; round++) await store.put(key, [bytes])
      fake.faults.add({ operation: 'DeleteObjects', nth: 2, fault: { kind: 'reset' } })
      assert.equal((await rejection(store.delete(['a', 'b']))).retry, 'transient')
      const left = await Array.fromAsync(store.versioned.versions(''))
      assert.deepEqual(
        left.map(({ key, isLatest }) => [key, isLatest]),
        [
          ['a', true],
          ['b', true],
        ],
      )
    }))

  test('a refused delete is told from a locked version by asking for the lock', () =>
    withStore({ buckets: LOCKED }, async (store, fake) => {
      const { versionId = '' } = await store.put('free', [bytes])
      const { versionId: kept = '' } = await store.put('kept', [bytes], { retainUntil: tomorrow() })
      fake.faults.add({ operation: 'DeleteObject', key: /free/, fault: DENIED })
      const denied = await rejection(store.versioned.deleteVersion('free', versionId))
      assert.equal(denied.code, 'store-denied')
      assert.match(String(denied.details.hint), /DeleteObject/)
      fake.faults.add({ operation: 'DeleteObject', key: /free/, fault: DENIED })
      assert.equal((await rejection(store.delete(['free']))).code, 'store-denied')
      assert.equal((await rejection(store.versioned.deleteVersion('kept', kept))).code, 'store-locked')
      // Who may not even ask is told that he may not.
      fake.faults.add({ operation: 'PutObjectRetention', fault: DENIED })
      const retain = await rejection(store.versioned.retain('free', versionId, 'governance', tomorrow()))
      assert.equal(retain.code, 'store-denied')
      assert.match(String(retain.details.hint), /ObjectRetention/)
    }))

  test('a page of versions that is not whole is no page, and with retries every version is listed once', async () => {
    const pages = { quirks: { pageKeys: 4 } as const, buckets: { test: { versioning: true } } }
    await withStore(pages, async (store, fake) => {
      const wanted: string[] = []
      for (const key of ['a', 'b', 'c', 'd', 'e'])
        for (let round = 0; round < 5; round++) wanted.push(`${key} ${(await store.put(key, [bytes])).versionId}`)
      for (const nth of [2, 3, 4, 6])
        fake.faults.add({ operation: 'ListObjectVersions', nth, fault: { kind: 'reset' } })
      const patient = retrying(store, { random: seededRandom('x'), firstDelayMs: 1, delayMaxMs: 2 })
      const found = await Array.fromAsync(patient.versioned!.versions(''))
      assert.deepEqual(found.map(({ key, versionId }) => `${key} ${versionId}`).sort(), wanted.sort())
      assert.deepEqual(
        found.map(({ key }) => key),
        found.map(({ key }) => key).sort(),
      )
      assert.equal(fake.faults.fired.length, 4)
    })
  })

  test('of many keys some requests always fail, and yet they are all removed in the end', () =>
    withStore(
      {
        buckets: { test: { versioning: true } },
        seeded: {
          random: seededRandom('many'),
          probability: 0.05,
          faults: [{ kind: 'error', status: 500, code: 'InternalError' }],
          operations: ['ListObjectVersions'],
        },
      },
      async (bare, fake) => {
        // Sixty listings at one in twenty: all of them succeed in one of twenty attempts, but each attempt gets further.
        const keys = Array.from({ length: 60 }, (_, index) => `k/${index}`)
        for (const key of keys) await bare.put(key, [bytes])
        const clock = manualClock()
        const removing = retrying(bare, { clock, random: seededRandom('many'), retryForMs: 150 }).delete(keys)
        let settled = false
        const settle = () => {
          settled = true
        }
        removing.then(settle, settle)
        while (!settled) await clock.advance(10)
        await removing
        assert.ok(fake.faults.fired.length >= 2, `${fake.faults.fired.length} faults`)
        assert.deepEqual([...fake.buckets.get('test')!.versions.keys()], [])
      },
    ))

  test('seeded faults of every kind change nothing that versions and locks tell', async t => {
    const seed = process.env.LIFEBOAT_TEST_SEED ?? 'versions-1'
    t.diagnostic(`seed ${seed}`)
    const seeded = { random: seededRandom(seed), probability: 0.25, faults: passingS3Faults }
    await withStore({ seeded, buckets: LOCKED, quirks: { pageKeys: 5 } }, async (bare, fake) => {
      const store = retrying(bare, { random: seededRandom(seed), firstDelayMs: 1, delayMaxMs: 4 })
      const versioned = store.versioned!
      const until = tomorrow()
      for (let index = 0; index < 12; index++)
        await store.put(`k/${index}`, [bytes.subarray(index)], index % 3 === 0 ? { retainUntil: until } : {})
      await versioned.retain('k/3', undefined, 'governance', new Date(until.getTime() + 1000))
      await versioned.legalHold('k/4', undefined, true)
      assert.equal((await versioned.lockOf('k/3')).retainUntil?.getTime(), until.getTime() + 1000)
      const error = await rejection(store.delete(Array.from({ length: 12 }, (_, index) => `k/${index}`)))
      assert.deepEqual([error.code, error.details.keys], ['store-locked', ['k/0', 'k/3', 'k/4', 'k/6', 'k/9']])
      // A put whose answer was lost is put again: there may be more than one version, all alike.
      const found = await Array.fromAsync(versioned.versions(''))
      assert.deepEqual([...new Set(found.map(({ key }) => key))], ['k/0', 'k/3', 'k/4', 'k/6', 'k/9'])
      for (const { key, versionId } of found)
        assert.deepEqual(await versioned.getVersion(key, versionId), bytes.subarray(Number(key.slice(2))))
      t.diagnostic(`${fake.faults.fired.length} faults in ${fake.requests.length} requests`)
      assert.ok(fake.faults.fired.length >= 10)
    })
  })
})

suite('rules of a bucket that would break a repository', () => {
  const EXPIRE = '<Expiration><Days>30</Days></Expiration>'
  const rule = (content: string, filter = '<Filter><Prefix></Prefix></Filter>', status = 'Enabled') =>
    `<Rule><ID>r</ID><Status>${status}</Status>${filter}${content}</Rule>`
  const toClass = (name: string) => `<Transition><Days>30</Days><StorageClass>${name}</StorageClass></Transition>`
  const OLD = '<NoncurrentVersionExpiration><NoncurrentDays>3</NoncurrentDays></NoncurrentVersionExpiration>'
  type Row = readonly [
    name: string,
    bucket: NonNullable<S3FakeOptions['buckets']>[string],
    what: StoreConcern['what'][],
  ]
  const rows: Row[] = [
    ['no rules', {}, []],
    ['expiry of everything', { lifecycle: rule(EXPIRE) }, ['lifecycle-expiry']],
    ['expiry below our prefix', { lifecycle: rule(EXPIRE, '<Prefix>vms/packs/</Prefix>') }, ['lifecycle-expiry']],
    [
      'expiry above our prefix',
      { lifecycle: rule(EXPIRE, '<Filter><Prefix>v</Prefix></Filter>') },
      ['lifecycle-expiry'],
    ],
    ["expiry of others' objects", { lifecycle: rule(EXPIRE, '<Filter><Prefix>vms2/</Prefix></Filter>') }, []],
    [
      'expiry of tagged objects',
      { lifecycle: rule(EXPIRE, '<Filter><Tag><Key>a</Key><Value>b</Value></Tag></Filter>') },
      [],
    ],
    ['a rule that is off', { lifecycle: rule(EXPIRE, '<Prefix></Prefix>', 'Disabled') }, []],
    ['archive', { lifecycle: rule(toClass('DEEP_ARCHIVE')) }, ['lifecycle-archive']],
    ['a cheaper class that answers at once', { lifecycle: rule(toClass('STANDARD_IA')) }, []],
    [
      'unfinished uploads',
      {
        lifecycle: rule(
          '<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>',
        ),
      },
      [],
    ],
    [
      'leftover markers',
      { lifecycle: rule('<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>') },
      [],
    ],
    ['expiry of old versions', { versioning: true, lifecycle: rule(OLD) }, []],
    ['expiry of old versions with Object Lock', { objectLock: true, lifecycle: rule(OLD) }, ['lifecycle-expiry']],
    [
      'default retention',
      { objectLock: true, defaultRetention: { mode: 'COMPLIANCE', days: 7 } },
      ['default-retention'],
    ],
    [
      'two at once',
      {
        objectLock: true,
        defaultRetention: { mode: 'GOVERNANCE', days: 7 },
        lifecycle: rule(EXPIRE + toClass('GLACIER')),
      },
      ['default-retention', 'lifecycle-expiry', 'lifecycle-archive'],
    ],
  ]
  const request = { credential: { kind: 'none' }, random: seededRandom('init'), clock: manualClock() } as const
  for (const [name, bucket, what] of rows)
    test(`${name}: ${what.length > 0 ? `a concern, ${what.join(', ')}, and init refuses` : 'no concern'}`, () =>
      withStore({ buckets: { test: bucket } }, async (store, fake) => {
        const { concerns = [] } = await store.probe()
        assert.deepEqual(
          concerns.map(concern => concern.what),
          what,
        )
        const init = initRepository({ ...request, store })
        if (what.length === 0) return void (await init)
        const error = await rejection(init)
        assert.equal(error.code, 'store-unsuitable')
        for (const { message, hint } of concerns) {
          assert.ok(error.message.includes(message), error.message)
          assert.ok(String(error.details.hint).includes(hint))
        }
        assert.deepEqual(
          [...fake.buckets.get('test')!.versions.keys()],
          [],
          'nothing was written that cannot be removed',
        )
        assert.deepEqual([...fake.buckets.get('test')!.objects.keys()], [])
      }))

  const unanswered = [DENIED, { kind: 'error', status: 501, code: 'NotImplemented' }] as const
  for (const fault of unanswered)
    test(`a store that does not tell its rules (${fault.status}) has none`, () =>
      withStore({}, async (store, fake) => {
        fake.faults.add({ operation: 'GetBucketLifecycleConfiguration', fault })
        assert.equal((await store.probe()).concerns, undefined)
      }))
})
