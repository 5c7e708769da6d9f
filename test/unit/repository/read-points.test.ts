import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError, LifeboatError } from '../../../src/core/errors.ts'
import { pointId } from '../../../src/core/ids.ts'
import { fenceKey, forgottenKey, pinKey } from '../../../src/repository/object-keys.ts'
import { intercepted } from '../../doubles/intercepted-store.ts'
import { bytesOf, keysOf, noise, repositoryFixture } from '../../doubles/repository-fixture.ts'

const disks = [{ name: 'vda', size: 100_000, writes: [[0, noise('a', 8192)]] }] as const
const mark = { who: 'test', when: '2026-11-21T10:00:00.000Z' }
const fails = (code: string) => (error: unknown) =>
  isLifeboatError(error) && error.code === code && !!error.details.hint

test('points are listed by VM and time, void and forgotten ones only when all are asked for', async () => {
  const { repository, writePoint } = await repositoryFixture()
  const { reading } = repository
  const b = await writePoint({ vm: 'b', disks })
  const a1 = await writePoint({ vm: 'a', disks })
  const a2 = await writePoint({ vm: 'a', disks })
  const a3 = await writePoint({ vm: 'a', disks })
  assert.deepEqual(
    (await repository.points()).map(point => point.id),
    [a1.id, a2.id, a3.id, b.id],
  )
  assert.deepEqual(
    (await repository.points({ vm: 'b' })).map(point => point.id),
    [b.id],
  )

  await reading.control.put('forgotten', forgottenKey(a1.id), { ...mark, why: 'test', manifest: a1.key })
  const { lease } = await repository.manifest(a2)
  const fence = fenceKey(lease, '00112233445566aa')
  for (const manifest of [{ manifest: a2.key }, {}]) {
    // With the manifest's key in the fence, and without.
    await reading.control.put('fence', fence, { ...mark, ...manifest })
    assert.deepEqual(
      (await repository.points()).map(point => point.id),
      [a3.id, b.id],
    )
    const states = (await repository.points({ all: true })).map(point => point.state)
    assert.deepEqual(states, ['forgotten', 'void', 'committed', 'committed'])
  }
  const names = (await repository.points({ vm: 'nobody' })).length
  assert.equal(names, 0)
})

test('a forgotten, a fenced and a removed point are refused, each by its name, and leave no pin', async () => {
  const { store, repository, writePoint } = await repositoryFixture()
  const { control } = repository.reading
  const [forgotten, fenced, removed, good] = [
    await writePoint({ disks }),
    await writePoint({ disks }),
    await writePoint({ disks }),
    await writePoint({ disks }),
  ]
  await control.put('forgotten', forgottenKey(forgotten.id), { ...mark, why: 'test', manifest: forgotten.key })
  await control.put('fence', fenceKey((await repository.manifest(fenced)).lease, 'self'), mark)
  store.tamper(removed.key, undefined)
  await assert.rejects(repository.openPoint(forgotten, { pin: 'restore' }), fails('point-forgotten'))
  await assert.rejects(repository.openPoint(fenced, { pin: 'restore' }), fails('not-committed'))
  await assert.rejects(repository.openPoint(removed, { pin: 'restore' }), fails('no-such-point'))
  assert.deepEqual(keysOf(store, 'pins/'), [])
  await using point = await repository.openPoint(good, { pin: 'restore' })
  assert.equal(point.id, good.id)
})

test('an open GC record that condemns a point`s packs does not stop its readers', async () => {
  const { store, repository, writePoint } = await repositoryFixture()
  const point = await writePoint({ disks })
  const condemned = keysOf(store, 'packs/')
  await repository.reading.control.put('gc', 'gc/00112233445566aa', {
    ...mark,
    forget: [],
    condemned,
    dead: {},
    sources: {},
  })
  await using opened = await repository.openPoint(point, { pin: 'restore' })
  const [ref] = await opened.disk('vda').locate(0, 1)
  await opened.disk('vda').fetch([ref!], () => {})
})

test('a point is pinned while it is open, and the pin goes when it is closed', async () => {
  const { store, repository, writePoint } = await repositoryFixture()
  const summary = await writePoint({ disks })
  const point = await repository.openPoint(summary, { pin: 'session' })
  const [key = ''] = keysOf(store, 'pins/')
  const pin = await repository.reading.control.get('pin', key)
  assert.equal(pin?.text('point'), summary.id)
  assert.equal(pin?.text('manifest'), summary.key)
  assert.equal(pin?.has('expiryMs'), false)
  assert.equal(point.pinned, true)
  await point[Symbol.asyncDispose]()
  assert.deepEqual(keysOf(store, 'pins/'), [])

  const unpinned = await repository.openPoint(summary, { pin: 'none' })
  assert.equal(unpinned.pinned, false)
  assert.deepEqual(keysOf(store, 'pins/'), [])
  await unpinned[Symbol.asyncDispose]()
})

test("a session's pin that was stored without an answer does not stay for ever", async () => {
  const { store, open, writePoint } = await repositoryFixture()
  const summary = await writePoint({ disks })
  const unanswered = await open(
    intercepted(store, {
      after({ verb, key }) {
        if (verb === 'put' && key.startsWith('pins/')) throw new LifeboatError('store-unreachable', 'no answer')
      },
    }),
  )
  await assert.rejects(unanswered.openPoint(summary, { pin: 'session' }), { code: 'store-unreachable' })
  assert.deepEqual(keysOf(store, 'pins/'), [])
})

test('a pin is refreshed by raising its counter', async () => {
  const { store, credential, random, repository, writePoint } = await repositoryFixture()
  const summary = await writePoint({ disks })
  const sleeps: PromiseWithResolvers<void>[] = []
  const clock = {
    now: () => new Date(0),
    monotonicMs: () => 0,
    sleep: (_: number, { signal }: { signal?: AbortSignal } = {}) => {
      const sleeping = Promise.withResolvers<void>()
      signal?.addEventListener('abort', () => sleeping.reject(signal.reason))
      sleeps.push(sleeping)
      return sleeping.promise
    },
  }
  const { openRepository } = await import('../../../src/repository/open.ts')
  const { twinPipeline } = await import('../../../src/native/twin.ts')
  const other = await openRepository({ store, credential, random, clock, host: 'h', pipeline: twinPipeline })
  await using _ = await other.openPoint(summary, { pin: 'export' })
  const [key = ''] = keysOf(store, 'pins/')
  const counterOf = async () => (await repository.reading.control.get('pin', key))?.count('counter')
  assert.equal(await counterOf(), 1)
  sleeps[0]?.resolve()
  while (sleeps.length < 2) await new Promise(resolve => setImmediate(resolve))
  assert.equal(await counterOf(), 2)
})

test('a store that forbids writing is read without a pin, and any other failure to pin is one', async () => {
  const { LifeboatError } = await import('../../../src/core/errors.ts')
  const { store, open, writePoint } = await repositoryFixture()
  const summary = await writePoint({ disks })
  const refusing = (code: 'store-denied' | 'store-unreachable') => ({
    ...store,
    put: () => Promise.reject(new LifeboatError(code, 'no')),
  })
  const readOnly = await open(refusing('store-denied'))
  await using point = await readOnly.openPoint(summary, { pin: 'restore' })
  assert.equal(point.pinned, false)
  const broken = await open(refusing('store-unreachable'))
  await assert.rejects(broken.openPoint(summary, { pin: 'restore' }), error =>
    isLifeboatError(error, 'store-unreachable'),
  )
})

test('coordination objects cannot be forged or change places', async () => {
  const { store, repository, writePoint } = await repositoryFixture()
  const [one, two] = [await writePoint({ disks }), await writePoint({ disks })]
  const { control } = repository.reading
  await control.put('forgotten', forgottenKey(one.id), { ...mark, why: 'test', manifest: one.key })
  store.tamper(forgottenKey(two.id), bytesOf(store, forgottenKey(one.id)))
  await assert.rejects(control.get('forgotten', forgottenKey(two.id)), fails('corrupt-object'))
  // Whether it is a mark or damage cannot be known: such a point is not served as a good one.
  await assert.rejects(repository.openPoint(two, { pin: 'restore' }), fails('corrupt-object'))
  await assert.rejects(control.put('pin', forgottenKey(two.id), {}), error => isLifeboatError(error, 'internal'))
  store.tamper(pinKey('0000000000000001'), new Uint8Array(2_000_000))
  await assert.rejects(control.get('pin', pinKey('0000000000000001')), error => isLifeboatError(error, 'absurd-object'))
})

test('a manifest under the name of another point is refused', async () => {
  const { store, repository, writePoint } = await repositoryFixture()
  const [one, two] = [await writePoint({ disks }), await writePoint({ disks })]
  store.tamper(two.key, bytesOf(store, one.key))
  await assert.rejects(repository.openPoint(two, { pin: 'restore' }), fails('corrupt-object'))
  const stranger = { ...one, id: pointId('ffffffffffffffff'), key: one.key.replace(one.id, 'ffffffffffffffff') }
  await assert.rejects(repository.openPoint(stranger, { pin: 'restore' }), fails('no-such-point'))
})

test('a disk that the point does not have is refused with the names of those that it has', async () => {
  const { repository, writePoint } = await repositoryFixture()
  await using point = await repository.openPoint(await writePoint({ disks }), { pin: 'restore' })
  assert.throws(
    () => point.disk('vdz'),
    error => isLifeboatError(error, 'no-such-disk') && /vda/.test(String(error.details.hint)),
  )
})
