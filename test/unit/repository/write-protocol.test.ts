/** The WRITER's rules of docs/concurrency.md, one by one, against fixtures made by hand. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLifeboatError, LifeboatError } from '../../../src/core/errors.ts'
import { leaseId, type PointId } from '../../../src/core/ids.ts'
import { limits } from '../../../src/core/limits.ts'
import { seededRandom } from '../../../src/core/random.ts'
import * as keys from '../../../src/repository/object-keys.ts'
import type { OpenedRepository } from '../../../src/repository/open.ts'
import type { MemoryStore } from '../../../src/storage/memory.ts'
import type { ObjectStore } from '../../../src/storage/object-store.ts'
import { type Interceptor, intercepted, type StoreRequest } from '../../doubles/intercepted-store.ts'
import { manualClock } from '../../doubles/manual-clock.ts'
import {
  backup,
  beginBackup,
  commitBackup,
  keysOf,
  newMemoryRepository,
  openMemoryRepository,
  pointNumber,
  readBack,
  summaryOf,
  timeNumber,
  writeDisk,
} from '../../doubles/memory-repository.ts'

const C = 4096
const image = (seed: string, chunks = 200): Uint8Array => seededRandom(seed)(chunks * C)
const disk = (seed: string, more = {}) => ({ name: 'vda', image: image(seed), ...more })
const committed = async (repository: OpenedRepository): Promise<PointId[]> =>
  (await repository.points()).map(({ id }) => id)

async function prepared(): Promise<{ store: MemoryStore; repository: OpenedRepository }> {
  const store = await newMemoryRepository()
  const repository = await openMemoryRepository(store, { seed: 'first' })
  await backup(repository, { number: 1, disks: [disk('one')] })
  return { store, repository }
}

const watching = (store: ObjectStore, interceptor: Interceptor, seed = 'second') =>
  openMemoryRepository(intercepted(store, interceptor), { seed })

test('steps come in the order that the protocol relies on', async () => {
  const { store } = await prepared()
  const requests: StoreRequest[] = []
  const repository = await watching(store, { before: request => void requests.push(request) })
  requests.length = 0
  const changed = [{ offset: 0, length: 100 * C }]
  const next = image('two')
  next.set(image('one').subarray(100 * C), 100 * C)
  const manifest = await backup(repository, {
    number: 2,
    disks: [{ name: 'vda', image: next, base: pointNumber(1), changed }],
  })
  const key = (request: StoreRequest) => `${request.verb} ${request.key}`
  const seen = requests.map(key)
  const base = keys.pointKey('vm', timeNumber(1), pointNumber(1))
  const lease = manifest.lease
  const order = [
    `put leases/${lease}`,
    'list gc/',
    `get ${keys.forgottenKey(pointNumber(1))}`,
    `get ${base}`,
    /^list fences\/[0-9a-f]{16}\/$/,
    /^put packs\//,
    /^put index\//,
    `get leases/${lease}`,
    `put ${keys.pointKey('vm', timeNumber(2), pointNumber(2))}`,
    `list fences/${lease}/`,
    `delete leases/${lease}`,
  ]
  let at = -1
  for (const expected of order) {
    const found = seen.findIndex(
      (name, n) => n > at && (typeof expected === 'string' ? name === expected : expected.test(name)),
    )
    assert.ok(found > at, `${expected} does not come after ${seen[at]} in\n${seen.join('\n')}`)
    at = found
  }
  assert.ok(
    seen.findIndex(name => name.startsWith('put meta/')) < seen.findIndex(name => name.startsWith('put points/')),
  )
  assert.equal(seen.filter(name => name.startsWith('put points/')).length, 1)
})

test('the smallest increment is pack, meta pack, index, manifest and lease', async () => {
  const { store } = await prepared()
  const requests: StoreRequest[] = []
  const repository = await watching(store, { before: request => void requests.push(request) })
  const next = image('one')
  next.set(image('x', 1), 7 * C)
  requests.length = 0
  await backup(repository, {
    number: 2,
    disks: [{ name: 'vda', image: next, base: pointNumber(1), changed: [{ offset: 7 * C, length: C }] }],
  })
  const puts = requests.filter(({ verb }) => verb === 'put').map(({ key }) => key.split('/')[0])
  assert.deepEqual(puts.sort(), ['index', 'leases', 'meta', 'packs', 'points'])
  same(await readBack(repository, pointNumber(2), 'vda'), next)
})

test('points are numbered and chained; numbers do not fall back over forgotten and damaged ones', async () => {
  const { store, repository } = await prepared()
  const second = await backup(repository, { number: 2, disks: [disk('one', { base: pointNumber(1), changed: [] })] })
  assert.equal(second.sequence, 2)
  assert.equal(second.previous?.point, pointNumber(1))
  assert.match(second.previous?.digest ?? '', /^[0-9a-f]{64}$/)
  await repository.reading.control.put('forgotten', keys.forgottenKey(pointNumber(2)), {
    who: 't',
    when: 't',
    why: 't',
  })
  const third = await backup(repository, { number: 3, disks: [disk('one')] })
  assert.deepEqual([third.sequence, third.previous?.point], [3, pointNumber(1)])
  const damaged = await summaryOf(repository, pointNumber(3))
  store.tamper(damaged.key, new Uint8Array(100))
  const fourth = await backup(repository, { number: 4, disks: [disk('one')] })
  assert.deepEqual([fourth.sequence, fourth.previous?.point], [4, pointNumber(1)])
})

test('a base that is forgotten, fenced, gone or of another domain is not built upon', async () => {
  const spoil: Record<string, (store: MemoryStore, repository: OpenedRepository) => Promise<unknown>> = {
    async forgotten(_, { reading: { control } }) {
      await control.put('forgotten', keys.forgottenKey(pointNumber(1)), { who: 'a', when: 'b', why: 'c' })
    },
    async 'forgotten by a mark that does not authenticate'(store) {
      store.tamper(keys.forgottenKey(pointNumber(1)), new Uint8Array(70))
    },
    async fenced(_, repository) {
      const { lease } = await repository.manifest(await summaryOf(repository, pointNumber(1)))
      await repository.reading.control.put('fence', keys.fenceKey(lease, '00112233445566aa'), { who: 'a', when: 'b' })
    },
    async gone(store, repository) {
      store.tamper((await summaryOf(repository, pointNumber(1))).key, undefined)
    },
  }
  for (const [what, work] of Object.entries(spoil)) {
    const { store, repository } = await prepared()
    await work(store, repository)
    await using writer = await beginBackup(repository, { number: 2, disks: [], bases: [pointNumber(1)] })
    assert.deepEqual([...writer.bases.keys()], [], what)
    // The same contents are a full backup, deduplicated.
    await writeDisk(repository, writer, disk('one'))
    const manifest = await commitBackup(writer)
    assert.equal(manifest.disks[0]!.bytesNew, 0, what)
    same(await readBack(repository, pointNumber(2), 'vda'), image('one'))
  }
})

test('a base is forgotten between the questions: whichever comes first decides', async () => {
  const { store, repository } = await prepared()
  const { control } = repository.reading
  let isForgotten = false
  let isAsked = false
  const late = await watching(store, {
    async before({ verb, key }) {
      if (key.startsWith('forgotten/')) isAsked = true
      // Stored after the first question: the run that removes it must then wait for our lease, so the base stays good.
      if (verb !== 'get' || !key.startsWith('points/') || !isAsked || isForgotten) return
      isForgotten = true
      assert.equal(keysOf(store, 'leases/').length, 1)
      await control.put('forgotten', keys.forgottenKey(pointNumber(1)), { who: 'a', when: 'b', why: 'c' })
    },
  })
  await using writer = await beginBackup(late, { number: 2, disks: [], bases: [pointNumber(1)] })
  assert.deepEqual([...writer.bases.keys()], [pointNumber(1)])
})

test('what an open GC run condemns, or verify found damaged, is not reused', async () => {
  const { store, repository } = await prepared()
  const [packKey] = keysOf(store, 'packs/')
  const { pack } = keys.parsePackKey(packKey!)!
  const clean = store.snapshot()
  const run = keys.gcKey('aabbccddeeff0011')
  const record = { forget: [], condemned: [], dead: {}, sources: {}, when: 'w', who: 'h' }
  const dead = Array.from({ length: 50 }, (_, slot) => slot)
  const cases = [
    { name: 'nothing', expected: 0, work: async () => {} },
    { name: 'condemned', expected: 200, work: () => put('gc', run, { ...record, condemned: [packKey] }) },
    {
      name: 'condemned copy',
      expected: 200,
      work: () => put('gc', run, { ...record, condemned: [`${packKey}.${'0'.repeat(16)}`] }),
    },
    { name: 'dead slots', expected: 50, work: () => put('gc', run, { ...record, dead: { [pack]: dead } }) },
    { name: 'damaged', expected: 200, work: () => put('damaged', keys.damagedKey(pack), { slots: null }) },
    { name: 'unreadable', expected: 200, work: async () => store.tamper(run, new Uint8Array(50)) },
    { name: 'missing pack', expected: 200, work: async () => store.tamper(packKey!, undefined) },
    {
      name: 'torn pack',
      expected: 200,
      work: async () => store.tamper(packKey!, clean.get(packKey!)!.bytes.slice(0, -1)),
    },
    {
      name: 'damaged index',
      expected: 200,
      work: async () => store.tamper(keysOf(store, 'index/')[0]!, new Uint8Array(80)),
    },
  ]
  for (const [n, { name, expected, work }] of cases.entries()) {
    for (const key of store.snapshot().keys()) store.tamper(key, clean.get(key)?.bytes)
    for (const [key, { bytes }] of clean) store.tamper(key, bytes)
    await work()
    const point = 10 + n
    const stats = (await backup(repository, { vm: 'other', number: point, disks: [disk('one')] })).disks[0]!
    assert.equal(stats.bytesNew / C, expected, name)
    same(await readBack(repository, pointNumber(point), 'vda'), image('one'))
  }

  async function put(kind: 'gc' | 'damaged', key: string, document: Record<string, unknown>) {
    await repository.reading.control.put(kind, key, document)
  }
})

test('each pack that is reused is looked at once, after the open GC runs', async () => {
  const { store } = await prepared()
  const requests: string[] = []
  const repository = await watching(store, { before: ({ verb, key }) => void requests.push(`${verb} ${key}`) })
  await backup(repository, { vm: 'other', number: 2, disks: [disk('one'), { ...disk('one'), name: 'vdb' }] })
  const looks = requests.flatMap((request, n) => (request.startsWith('head packs/') ? [n] : []))
  assert.equal(looks.length, 1)
  assert.ok(looks[0]! > requests.indexOf('list gc/'))
})

const lostAnswer = () => new LifeboatError('store-unreachable', 'the connection broke', { retry: 'transient' })
const isManifest = ({ verb, key }: StoreRequest) => verb === 'put' && key.startsWith('points/')

test('a manifest whose PUT got no answer but was stored is committed', async () => {
  const { store } = await prepared()
  const repository = await watching(store, {
    after(request) {
      if (isManifest(request)) throw lostAnswer()
    },
  })
  await backup(repository, { number: 2, disks: [disk('two')] })
  assert.deepEqual(await committed(repository), [pointNumber(1), pointNumber(2)])
  assert.deepEqual(keysOf(store, 'fences/'), [])
})

test('a manifest whose first PUT was lost goes again with the same bytes', async () => {
  const { store } = await prepared()
  let attempts = 0
  const repository = await watching(store, {
    before(request) {
      if (isManifest(request) && ++attempts === 1) throw lostAnswer()
    },
  })
  await backup(repository, { number: 2, disks: [disk('two')] })
  assert.equal(attempts, 2)
  same(await readBack(repository, pointNumber(2), 'vda'), image('two'))
})

test('a manifest that may yet arrive is void before the backup says that it failed', async () => {
  const { store } = await prepared()
  const sent: { key: string; bytes: Uint8Array }[] = []
  const broken: ObjectStore = {
    ...store,
    async put(key, body, options) {
      if (!key.startsWith('points/')) return await store.put(key, body, options)
      sent.push({ key, bytes: new Uint8Array(Buffer.concat(body)) })
      throw lostAnswer()
    },
  }
  const repository = await openMemoryRepository(broken, { seed: 'late' })
  await assert.rejects(
    () => backup(repository, { number: 2, disks: [disk('two')] }),
    error => isLifeboatError(error, 'store-unreachable'),
  )
  assert.equal(sent.length, 2)
  same(sent[0]!.bytes, sent[1]!.bytes)
  assert.deepEqual(keysOf(store, 'leases/'), [])
  assert.equal(keysOf(store, 'fences/').length, 1)
  assert.deepEqual(keysOf(store, 'forgotten/'), [keys.forgottenKey(pointNumber(2))])
  // It lands after all.
  store.tamper(sent[0]!.key, sent[0]!.bytes)
  assert.deepEqual(await committed(repository), [pointNumber(1)])
  // Also without the mark: the fence alone voids it, for readers and as a base.
  store.tamper(keys.forgottenKey(pointNumber(2)), undefined)
  assert.deepEqual(await committed(repository), [pointNumber(1)])
  const summary = await summaryOf(repository, pointNumber(2))
  await assert.rejects(
    () => repository.openPoint(summary, { pin: 'restore' }),
    error => isLifeboatError(error, 'not-committed'),
  )
  await using writer = await beginBackup(repository, { number: 3, disks: [], bases: [pointNumber(2)] })
  assert.equal(writer.bases.size, 0)
})

test('a lease that GC fenced before the last look makes no point', async () => {
  const { store, repository: other } = await prepared()
  const repository = await watching(store, {
    async after(request) {
      if (!isManifest(request)) return
      const lease = leaseId(keysOf(store, 'leases/')[0]!.slice('leases/'.length))
      await other.reading.control.put('fence', keys.fenceKey(lease, '0123456789abcdef'), { who: 'gc', when: 'now' })
    },
  })
  await assert.rejects(
    () => backup(repository, { number: 2, disks: [disk('two')] }),
    error => isLifeboatError(error, 'not-committed'),
  )
  assert.deepEqual(await committed(other), [pointNumber(1)])
  assert.deepEqual(keysOf(store, 'leases/'), [])
  assert.equal(keysOf(store, 'fences/').length, 2, 'that of the run and our own')
  assert.deepEqual(keysOf(store, 'forgotten/'), [keys.forgottenKey(pointNumber(2))])
})

test('a point that is not committed is given up, and nothing that it wrote counts', async () => {
  const { store, repository } = await prepared()
  {
    await using writer = await beginBackup(repository, { number: 2, disks: [], bases: [pointNumber(1)] })
    await writeDisk(repository, writer, disk('two', { base: pointNumber(1) }))
    assert.equal(keysOf(store, 'leases/').length, 1)
  }
  assert.deepEqual(await committed(repository), [pointNumber(1)])
  assert.deepEqual(keysOf(store, 'leases/'), [])
  assert.deepEqual([...keysOf(store, 'fences/'), ...keysOf(store, 'forgotten/')], [], 'no manifest was ever sent')
  await backup(repository, { number: 3, disks: [disk('two', { base: pointNumber(1) })] })
  same(await readBack(repository, pointNumber(3), 'vda'), image('two'))
})

test('a lease raises its counter while the work goes on', async () => {
  const { store } = await prepared()
  const clock = manualClock()
  const repository = await openMemoryRepository(store, { seed: 'lease', clock })
  await using writer = await beginBackup(repository, { number: 2, disks: [], bases: [pointNumber(1)] })
  const [key] = keysOf(store, 'leases/')
  const counter = async () => (await repository.reading.control.get('lease', key!))?.count('counter')
  const lease = await repository.reading.control.get('lease', key!)
  assert.deepEqual(lease?.texts('bases', 9), [keys.pointKey('vm', timeNumber(1), pointNumber(1))])
  assert.equal(lease?.text('manifest'), keys.pointKey('vm', timeNumber(2), pointNumber(2)))
  assert.equal(await counter(), 0)
  for (let n = 1; n <= 9; n++) {
    await clock.advance(limits.leaseRefreshMs)
    assert.equal(await counter(), n)
  }
  await writeDisk(repository, writer, disk('two'))
  await commitBackup(writer)
  await clock.advance(limits.leaseRefreshMs * 10)
  assert.deepEqual(keysOf(store, 'leases/'), [], 'nothing refreshes what has ended')
})

test('a lease that was removed is not revived, and the work stops', async () => {
  const { store } = await prepared()
  const clock = manualClock()
  const repository = await openMemoryRepository(store, { seed: 'gone', clock })
  await using writer = await beginBackup(repository, { number: 2, disks: [] })
  const target = await writer.disk({ name: 'vda', size: 10 * C, description: {} })
  await target.write(0, image('x', 1))
  store.tamper(keysOf(store, 'leases/')[0]!, undefined)
  await clock.advance(limits.leaseRefreshMs)
  assert.deepEqual(keysOf(store, 'leases/'), [])
  await assert.rejects(
    () => target.write(C, image('y', 1)),
    error => isLifeboatError(error, 'lease-lost'),
  )
})

test('a lease that disappears just before the manifest stops the work', async () => {
  const { store } = await prepared()
  const repository = await openMemoryRepository(store, { seed: 'gone' })
  await using writer = await beginBackup(repository, { number: 2, disks: [] })
  await writeDisk(repository, writer, disk('two'))
  store.tamper(keysOf(store, 'leases/')[0]!, undefined)
  await assert.rejects(
    () => commitBackup(writer),
    error => isLifeboatError(error, 'lease-lost'),
  )
  assert.deepEqual(await committed(repository), [pointNumber(1)])
  assert.deepEqual(keysOf(store, 'points/').length, 1, 'the manifest was not even sent')
})

test('a lease that could not be refreshed for half its expiry stops the work', async () => {
  const { store } = await prepared()
  const clock = manualClock()
  let isDown = false
  const flaky = intercepted(store, {
    before({ verb, key }) {
      if (isDown && verb === 'put' && key.startsWith('leases/')) throw lostAnswer()
    },
  })
  const repository = await openMemoryRepository(flaky, { seed: 'down', clock })
  await using writer = await beginBackup(repository, { number: 2, disks: [] })
  await writeDisk(repository, writer, disk('two'))
  isDown = true
  for (let n = 0; n < 4; n++) await clock.advance(limits.leaseRefreshMs)
  await assert.rejects(
    () => commitBackup(writer),
    error => isLifeboatError(error, 'lease-lost'),
  )
  assert.deepEqual(await committed(repository), [pointNumber(1)])
})

test('work that takes longer than a lease may live is given up, however well it is refreshed', async () => {
  const { store } = await prepared()
  const clock = manualClock()
  const repository = await openMemoryRepository(store, { seed: 'long', clock })
  await using writer = await beginBackup(repository, { number: 2, disks: [] })
  await writeDisk(repository, writer, disk('two'))
  for (let passed = 0; passed <= limits.leaseLifeMs; passed += limits.leaseRefreshMs)
    await clock.advance(limits.leaseRefreshMs)
  await assert.rejects(
    () => commitBackup(writer),
    error => isLifeboatError(error, 'lease-lost') && /older/.test(error.message),
  )
  assert.deepEqual(await committed(repository), [pointNumber(1)])
})

test('a refresh that fails for a while is made up for', async () => {
  const { store } = await prepared()
  const clock = manualClock()
  let failures = 3
  const flaky = intercepted(store, {
    before({ verb, key }) {
      if (verb === 'put' && key.startsWith('leases/') && clock.monotonicMs() > 0 && failures-- > 0) throw lostAnswer()
    },
  })
  const repository = await openMemoryRepository(flaky, { seed: 'flaky', clock })
  await using writer = await beginBackup(repository, { number: 2, disks: [] })
  await writeDisk(repository, writer, disk('two'))
  for (let n = 0; n < 40; n++) await clock.advance(limits.leaseRefreshMs / 4)
  await commitBackup(writer)
  assert.deepEqual(await committed(repository), [pointNumber(1), pointNumber(2)])
})

test('a writer that dies in begin leaves no lease that keeps itself alive', async () => {
  const { store } = await prepared()
  const repository = await watching(store, {
    before({ verb, key }) {
      if (verb === 'list' && key === 'gc/') throw lostAnswer()
    },
  })
  await assert.rejects(
    () => beginBackup(repository, { number: 2, disks: [] }),
    error => isLifeboatError(error, 'store-unreachable'),
  )
  assert.deepEqual(keysOf(store, 'leases/'), [])
})

function same(a: Uint8Array, b: Uint8Array): void {
  assert.ok(Buffer.compare(a, b) === 0, 'the bytes differ')
}
